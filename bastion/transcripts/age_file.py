"""Write the age file of one session, member by member, and know how much of it is whole."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib

from bastion.transcripts import age
from bastion.transcripts.wrapping import Recipient

_GZIP: Final = 31
_PADDING: Final = 2 * 2**20  # bytes of lines in an unfinished chunk before it is filled up


class AgeFile:
    """The finished transcript in the making; used by one worker thread, looked at by another under `lock`."""

    __slots__ = (
        "_broken",
        "_encryptor",
        "_unheld",
        "descriptor",
        "digest",
        "emitted",
        "identity",
        "lock",
        "members",
        "path",
        "size",
        "synced",
    )

    def __init__(self, path: Path, recipients: Sequence[Recipient]) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.digest: Any = hashlib.sha256()  # hashlib does not name its type
        self.size = 0
        self.synced = 0
        self.emitted = 0  # payload bytes that lie in chunks written
        self._unheld = 0
        self._broken: OSError | None = None
        self.members: deque[tuple[int, int]] = deque()  # generation, and where its member ends in the payload
        self._encryptor = age.Encryptor(recipients)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags, 0o640)
        status = os.fstat(self.descriptor)
        self.identity = status.st_dev, status.st_ino
        try:
            self._write(self._encryptor.header)
        except OSError:
            os.close(self.descriptor)
            raise

    def add(self, generation: int, lines: bytes) -> None:
        """Compress, encrypt and write one member.

        Where little comes of much, the chunk is filled up: the write-ahead files would grow without end otherwise.

        Raises:
            OSError: the volume did not take it.
        """
        member = isal_zlib.compress(lines, 1, _GZIP)
        self._unheld += len(lines)
        end = self._encryptor.taken + len(member)
        self.members.append((generation, end))
        if self._unheld > _PADDING:
            member += _filler(age.CHUNK - end % age.CHUNK)
        chunks = self._encryptor.push(member)
        if chunks:
            self._unheld = 0
            self._write(chunks)

    def finish(self) -> None:
        """Write the last chunk.

        Raises:
            OSError: the volume did not take it.
        """
        self._write(self._encryptor.finish())

    def state(self) -> tuple[int, int, Any]:
        """Return the size, the payload bytes in it, and the running SHA-256, as of one moment."""
        with self.lock:
            return self.size, self.emitted, self.digest.copy()

    def durable(self, emitted: int) -> int:
        """Return the last generation whose member lies wholly in the first `emitted` bytes of the payload, or -1."""
        generation = -1
        while self.members and self.members[0][1] <= emitted:
            generation = self.members.popleft()[0]
        return generation

    def _write(self, data: bytes) -> None:
        if self._broken is not None:  # a chunk is missing: what came behind it could not be read
            raise self._broken
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self.descriptor, rest)
                with self.lock:
                    self.digest.update(rest[:written])
                    self.size += written
                rest = rest[written:]
        except OSError as error:
            self._broken = error
            raise
        with self.lock:
            self.emitted = self._encryptor.emitted


def _filler(wanted: int) -> bytes:
    """Return an empty gzip member that is a little longer than `wanted`, by its extra field (RFC 1952 §2.3.1.1)."""
    size = min(max(wanted, 4), 0xFFFF - 64)
    extra = size.to_bytes(2, "little") + b"BF" + (size - 4).to_bytes(2, "little") + bytes(size - 4)
    return b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + extra + b"\x03\x00" + bytes(8)
