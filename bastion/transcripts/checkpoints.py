"""Bring the files of open sessions to the disk, and put on the ledger how far each has come."""

import os
from collections.abc import Iterable
from pathlib import Path

from bastion.errors import RecordingFailed
from bastion.transcripts.accounts import Claim, State
from bastion.transcripts.ledger import Ledger
from bastion.transcripts.recorder import ASK, Recorder
from bastion.transcripts.sealing import sync_folder
from bastion.transcripts.signing import Signer
from bastion.transcripts.wal import Part


class Checkpoints:
    """Writes checkpoints of one directory's sessions; `failed` is the first sync that failed, and final."""

    def __init__(self, signer: Signer, ledger: Ledger) -> None:
        self.failed: OSError | None = None
        self._signer = signer
        self._ledger = ledger

    def write(self, recorders: Iterable[Recorder]) -> list[tuple[Recorder, RecordingFailed]]:
        """Sync the files of the sessions that changed and put their sizes and SHA-256 on the ledger; blocks.

        Returns the sessions whose files were cut, replaced or removed; the others go on.

        Raises:
            OSError: the volume did not take it.
            ConfigurationError: the signing key went away.
            RecordingFailed: the ledger did not take the line, or is not what it was.
        """
        self._signer.check()
        self._ledger.check()
        sessions, done, failures = {}, [], []
        for recorder in recorders:
            if recorder.closed or recorder.failure is not None:
                continue
            sizes = (recorder.age.size, *(part.size for part in recorder.wal.parts))
            try:
                state = self._sync_session(recorder) if sizes != recorder.listed else None
                check_files(recorder)
            except RecordingFailed as error:
                failures.append((recorder, error))
                continue
            if state is not None:
                sessions[recorder.uid] = state.as_fields()
                done.append((recorder, sizes))
        if sessions:
            self._ledger.write("checkpoint", {"sessions": sessions})
        for recorder, sizes in done:
            recorder.listed = sizes
            # only now: verify asks for every write-ahead file that the last checkpoint names
            for part in [
                part for part in recorder.wal.parts if part.last is not None and part.last <= recorder.durable
            ]:
                recorder.wal.parts.remove(part)
                part.path.unlink()
        return failures

    def _sync_session(self, recorder: Recorder) -> State:
        size, emitted, running = recorder.age.state()
        parts = list(recorder.wal.parts)
        if size != recorder.age.synced:
            self.sync(recorder.age.descriptor)
            recorder.age.synced = size
        recorder.durable = max(recorder.durable, recorder.age.durable(emitted))
        claims: dict[str, Claim] = {}
        for part in parts:
            finished = part.last is not None
            size_now = part.size
            if not part.synced:
                sync_folder(part.path.parent)
            if size_now != part.synced:
                self.sync(part.descriptor)
                part.synced = size_now
            _hash_part(part, size_now)
            if finished and part.descriptor >= 0:
                os.close(part.descriptor)
                part.descriptor = -1
            if part.last is None or part.last > recorder.durable:
                claims[part.path.name] = size_now, part.digest.hexdigest()
        wraps = recorder.wal.wraps
        return State((size, running.hexdigest()), claims, tuple(wraps) if len(wraps) > 1 else ())

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


def beginning(recorder: Recorder) -> State:
    """Return what pins the files of a session before anything is recorded in them: their headers."""
    size, _, running = recorder.age.state()
    headers = {part.path.name: part.header for part in recorder.wal.parts}
    return State((size, running.hexdigest()), headers, tuple(recorder.wal.wraps))


def written(recorder: Recorder) -> State:
    """Return what was written to the files of a session, as far as we know its digest ourselves."""
    size, _, running = recorder.age.state()
    claims = {
        part.path.name: (part.hashed, part.digest.hexdigest()) if part.hashed >= part.header[0] else part.header
        for part in recorder.wal.parts
    }
    return State((size, running.hexdigest()), claims, tuple(recorder.wal.wraps))


def check_files(recorder: Recorder) -> None:
    """Look whether a session's files still lie where they were made, and are no shorter than what was written.

    Raises:
        RecordingFailed: one was removed, replaced or cut; or that cannot be seen.
    """
    _check_file(recorder.age.path, recorder.age.identity, recorder.age.size)
    for part in list(recorder.wal.parts):
        _check_file(part.path, part.identity, part.size)


def _check_file(path: Path, identity: tuple[int, int], size: int) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise RecordingFailed("the record was removed under us", ASK, detail=str(path)) from error
    except OSError as error:
        raise RecordingFailed(f"the record cannot be looked at: {error.strerror}", ASK, detail=str(path)) from error
    if (status.st_dev, status.st_ino) != identity:
        raise RecordingFailed("the record was replaced under us", ASK, detail=str(path))
    if status.st_size < size:
        raise RecordingFailed("the record was cut under us", ASK, detail=str(path))


def _hash_part(part: Part, size: int) -> None:
    while part.hashed < size:
        block = os.pread(part.descriptor, min(2**20, size - part.hashed), part.hashed)
        if not block:
            raise RecordingFailed("the record was cut under us", ASK, detail=str(part.path))
        part.digest.update(block)
        part.hashed += len(block)
