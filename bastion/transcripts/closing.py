"""Close one session's record: finished and signed, or sealed as far as it came."""

from contextlib import suppress
from typing import Any

import structlog

from bastion.errors import RecordingFailed
from bastion.transcripts.accounts import Account
from bastion.transcripts.checkpoints import Checkpoints, check_files, written
from bastion.transcripts.layout import parts_of
from bastion.transcripts.ledger import Ledger
from bastion.transcripts.provenance import Unproven, prove
from bastion.transcripts.recorder import Recorder
from bastion.transcripts.sealing import seal, write_signature
from bastion.transcripts.signing import COMPLETE, Signer


class Closing:
    """Closes the records of one directory; every method blocks, and runs where checkpoints are written."""

    def __init__(self, signer: Signer, ledger: Ledger, checkpoints: Checkpoints) -> None:
        self._signer = signer
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._log: Any = structlog.get_logger("bastion.transcripts")

    def close(self, recorder: Recorder) -> None:
        """Sign a finished transcript as complete, put its end on the ledger, and remove its write-ahead files.

        Raises:
            OSError: the volume did not take it.
            RecordingFailed: the ledger did not take the line, or is not what it was; or a file was replaced.
        """
        if recorder.failure is not None:
            raise recorder.failure
        size, _, running = recorder.age.state()
        self._checkpoints.sync(recorder.age.descriptor)
        self._ledger.check()
        check_files(recorder)
        write_signature(recorder.path, self._signer.sign_file(running.digest(), COMPLETE))
        recorder.complete = True
        fields = {"uid": recorder.uid, "path": self._relative(recorder), "size": size, "sha256": running.hexdigest()}
        self._ledger.write("closed", fields)
        recorder.close()
        for part in recorder.wal.parts:
            with suppress(OSError):  # the session is closed: the next start removes what is left
                part.path.unlink()

    def fail(self, recorder: Recorder) -> None:
        """Seal what was accepted of a record that failed.

        A transcript that is signed as complete already keeps that signature: only the ledger lacks its end, which the
        next start puts there.
        """
        recorder.close()
        failure = recorder.failure
        reason = failure.public if failure else "recording failed"
        self._log.error("recording-failed", uid=recorder.uid, reason=reason, detail=failure.detail if failure else "")
        if not recorder.complete:
            self._seal(recorder, reason)

    def abandon(self, recorder: Recorder) -> None:
        """Seal the record of a client that left before it was open."""
        recorder.close()
        self._log.info("client-left-early", uid=recorder.uid)
        self._seal(recorder, "the client left before its record was open")

    def _seal(self, recorder: Recorder, reason: str) -> None:
        state = written(recorder)
        account = Account(self._relative(recorder), begin=state, wraps=frozenset(recorder.wal.wraps))
        try:
            proof = prove(recorder.path, parts_of(recorder.path), account)
            seal(recorder.path, proof.files, self._signer, self._ledger, reason)
        except Unproven as error:
            self._log.error("transcript-not-sealed", uid=recorder.uid, verdict=error.verdict, reason=error.reason)
        except (OSError, RecordingFailed) as error:
            self._log.error("transcript-not-sealed", uid=recorder.uid, error=str(error), next="the next start seals it")

    def _relative(self, recorder: Recorder) -> str:
        return str(recorder.path.relative_to(self._ledger.path.parent))
