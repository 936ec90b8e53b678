"""Bring the files of open sessions to the disk, and put on the ledger how far each has come."""

import os
from collections.abc import Iterable
from typing import Any

from bastion.errors import RecordingFailed
from bastion.transcripts.ledger import Ledger
from bastion.transcripts.recorder import ASK, Recorder
from bastion.transcripts.sealing import sync_folder
from bastion.transcripts.signing import Signer


class Checkpoints:
    """Writes checkpoints of one directory's sessions; `failed` is the first sync that failed, and final."""

    def __init__(self, signer: Signer, ledger: Ledger) -> None:
        self.failed: OSError | None = None
        self._signer = signer
        self._ledger = ledger

    def write(self, recorders: Iterable[Recorder]) -> None:
        """Sync the files of the sessions that changed and put their sizes and SHA-256 on the ledger; blocks.

        Raises:
            OSError: the volume did not take it.
            ConfigurationError: the signing key went away.
            RecordingFailed: the ledger did not take the line, or a file was cut.
        """
        self._signer.check()
        sessions, done = {}, []
        for recorder in recorders:
            if recorder.closed or recorder.failure is not None:
                continue
            sizes = (recorder.age.size, *(part.size for part in recorder.wal.parts))
            if sizes != recorder.listed:
                sessions[recorder.uid] = self._sync_session(recorder)
                done.append((recorder, sizes))
        if not sessions:
            return
        self._ledger.write("checkpoint", {"sessions": sessions})
        for recorder, sizes in done:
            recorder.listed = sizes
            # only now: verify asks for every write-ahead file that the last checkpoint names
            for part in [
                part for part in recorder.wal.parts if part.last is not None and part.last <= recorder.durable
            ]:
                recorder.wal.parts.remove(part)
                part.path.unlink()

    def _sync_session(self, recorder: Recorder) -> dict[str, Any]:
        size, emitted, running = recorder.age.state()
        parts = list(recorder.wal.parts)
        if size != recorder.age.synced:
            self.sync(recorder.age.descriptor)
            recorder.age.synced = size
        recorder.durable = max(recorder.durable, recorder.age.durable(emitted))
        listed = {}
        for part in parts:
            finished = part.last is not None
            upto = part.size
            if not part.synced:
                sync_folder(part.path.parent)
            if upto != part.synced:
                self.sync(part.descriptor)
                part.synced = upto
            while part.hashed < upto:
                block = os.pread(part.descriptor, min(2**20, upto - part.hashed), part.hashed)
                if not block:
                    raise RecordingFailed("a write-ahead file was cut under us", ASK, detail=str(part.path))
                part.digest.update(block)
                part.hashed += len(block)
            if finished and part.descriptor >= 0:
                os.close(part.descriptor)
                part.descriptor = -1
            if part.last is None or part.last > recorder.durable:
                listed[part.path.name] = [upto, part.digest.hexdigest()]
        return {"age": [size, running.hexdigest()], "wal": listed}

    def sync(self, descriptor: int) -> None:
        """Bring a file to the disk; blocks.

        Raises:
            OSError: it did not get there; it is kept as `failed`.
        """
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            # the pages that failed are clean by now and would be lost: never ask again (PostgreSQL's lesson of 2018)
            self.failed = error
            raise
