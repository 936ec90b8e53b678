"""The ledger: one signed line per event, with the hash of the line before it, appended by any number of processes."""

import asyncio
import base64
import binascii
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from bastion.errors import RecordingFailed
from bastion.model import now
from bastion.transcripts.layout import open_regular
from bastion.transcripts.signing import Signer, Verifier

FILE: Final = "ledger.jsonl"
FIRST: Final = "0" * 64
MAX_LINE_BYTES: Final = 16 * 2**20
_CONTEXT: Final = b"bastion-ledger\n"
_SEPARATOR: Final = b',"signature":"'
_MAX_TEXT_CHARACTERS: Final = 4096
_TAIL_BLOCK_BYTES: Final = 64 * 1024
_ASK: Final = "tell whoever runs the bastion"


class Ledger:
    """Appends to one file, under its lock.

    The descriptor stays open from the first use on: it keeps the inode's number from being given to another file, so
    that a ledger which was deleted or replaced is told from this one by number, and it needs none when they run out.
    What was appended must still be there at the next append and at each `check`; if it is not, `failure` is final.
    """

    def __init__(self, path: Path, signer: Signer, node: str, executor: Executor | None = None) -> None:
        self.path = path
        self.failure: RecordingFailed | None = None
        self._signer = signer
        self._node = node
        self._executor = executor
        self._descriptor = -1
        self._identity = (-1, -1)  # device and inode
        self._size = 0  # of the whole lines that were there when we last looked
        self._last_line_bytes = 0
        self._previous = FIRST

    async def append(self, event: str, **fields: object) -> None:
        """Append one line, in a thread.

        Raises:
            RecordingFailed: the volume did not take it, or the ledger is not what it was.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self.write, event, fields)

    def begin(self) -> None:
        """Open the file, made where there is none, and remember how far it goes.

        Raises:
            RecordingFailed: it cannot be opened or read.
        """
        try:
            self._open()
        except OSError as error:
            raise _cannot_write(error) from error

    def write(self, event: str, fields: Mapping[str, object], *, sync: bool = True) -> None:
        """Append one line and, with `sync`, bring the ledger to the disk; blocks while another process holds the lock.

        A line that a crash left unfinished is cut off first, and the new line says how long it was.

        Raises:
            RecordingFailed: the volume did not take it, or the ledger is not what it was.
        """
        if self.failure is not None:
            raise self.failure
        try:
            self._open()
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                self._write(event, fields)
                if sync:
                    self._sync()
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError as error:
            raise _cannot_write(error) from error

    def check(self) -> None:
        """Look whether the ledger is still the file that was appended to, and no shorter.

        Raises:
            RecordingFailed: it was deleted, replaced or cut; or that cannot be seen.
        """
        if self.failure is not None:
            raise self.failure
        if self._descriptor < 0:
            return
        try:
            status = os.lstat(self.path)
        except FileNotFoundError as error:
            raise self._fail("was deleted") from error
        except OSError as error:
            raise _cannot_write(error) from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise self._fail("was replaced")
        if status.st_size < self._size:
            raise self._fail("was cut")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o640)
        status = os.fstat(self._descriptor)
        self._identity = status.st_dev, status.st_ino
        self._size, self._last_line_bytes, self._previous = _last_line(self._descriptor, status.st_size)

    def _write(self, event: str, fields: Mapping[str, object]) -> None:
        self.check()
        size = os.fstat(self._descriptor).st_size
        last = os.pread(self._descriptor, self._last_line_bytes, self._size - self._last_line_bytes)
        if self._size and hashlib.sha256(last[:-1]).hexdigest() != self._previous:
            raise self._fail("was edited")
        torn: dict[str, object] = {}
        if size != self._size:
            self._size, self._last_line_bytes, self._previous = _last_line(self._descriptor, size)
            if self._size != size:
                os.ftruncate(self._descriptor, self._size)
                torn = {"torn": size - self._size}
        line = self._line(event, torn | dict(fields))
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._last_line_bytes = written
        self._previous = hashlib.sha256(line[:-1]).hexdigest()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.failure = _cannot_write(error)  # the first failed sync is final
            raise self.failure from error

    def _fail(self, change: str) -> RecordingFailed:
        self.failure = RecordingFailed(
            f"the ledger {change} while the bastion was running, and nothing is recorded until its restart",
            _ASK,
            detail=str(self.path),
        )
        return self.failure

    def _line(self, event: str, fields: Mapping[str, object]) -> bytes:
        fixed = {
            "time": now().isoformat(timespec="microseconds"),
            "event": event,
            "node": self._node,
            "previous": self._previous,
        }
        if taken := fixed.keys() & fields.keys():
            raise ValueError(f"{', '.join(sorted(taken))} is the ledger's own")
        clipped = {
            key: value[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) else value for key, value in fields.items()
        }
        body = json.dumps(fixed | clipped, separators=(",", ":")).encode()
        signature = base64.b64encode(self._signer.sign(_CONTEXT + body))
        return body[:-1] + _SEPARATOR + signature + b'"}\n'


@dataclass(frozen=True, slots=True)
class Entry:
    """One line as it was read: its fields where the signature is good, and what is wrong with it or the chain."""

    number: int
    fields: dict[str, Any]
    problem: str | None


def read(path: Path, verifier: Verifier | None) -> Iterator[Entry]:
    """Walk the ledger; with no verifier nothing is checked but the form.

    With one, no line is parsed whose signature is not good, so that a hostile line costs its length only.

    Raises:
        OSError: it cannot be read.
    """
    previous = FIRST
    for number, line in _lines(path):
        fields, problem = _check(line, verifier)
        if problem is None and verifier is not None and fields.get("previous") != previous:
            problem = "does not follow the line before it: a line was dropped, moved, repeated or put in"
        previous = hashlib.sha256(line.removesuffix(b"\n")).hexdigest()
        yield Entry(number, fields, problem)


def read_about(path: Path, verifier: Verifier, uid: str) -> Iterator[Entry]:
    """Give the lines that name a session's uid and are signed; the chain is not looked at.

    Raises:
        OSError: the ledger cannot be read.
    """
    name = json.dumps(uid).encode()
    for number, line in _lines(path):
        if name in line:
            fields, problem = _check(line, verifier)
            yield Entry(number, fields, problem)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give each line and its number; of one that is too long its beginning only, without a line end."""
    with open_regular(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            yield number, line
            if not line.endswith(b"\n"):
                _skip_line(file)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _check(line: bytes, verifier: Verifier | None) -> tuple[dict[str, Any], str | None]:
    if not line.endswith(b"\n"):
        return {}, "is too long" if len(line) >= MAX_LINE_BYTES else "is cut short"
    head, separator, tail = line[:-1].rpartition(_SEPARATOR)
    try:
        signature = base64.b64decode(tail.removesuffix(b'"}'), validate=True)
    except (ValueError, binascii.Error):
        signature = b""
    if not separator or base64.b64encode(signature) + b'"}' != tail:
        return {}, "is not a line of a ledger"
    if verifier is not None and not verifier.verify(_CONTEXT + head + b"}", signature):
        return {}, "was edited, or is signed by another key"
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    return (fields, None) if isinstance(fields, dict) else ({}, "is not a line of a ledger")


def _cannot_write(error: OSError) -> RecordingFailed:
    return RecordingFailed(f"the ledger cannot be written: {error.strerror}", _ASK, detail=str(error))


def _last_line(descriptor: int, size: int) -> tuple[int, int, str]:
    """Return where the last whole line ends, its length with its line end, and its SHA-256 without it."""
    last = _last_newline(descriptor, size)
    if last < 0:
        return 0, 0, FIRST
    start = _last_newline(descriptor, last) + 1
    digest = hashlib.sha256()
    for offset in range(start, last, _TAIL_BLOCK_BYTES):
        digest.update(os.pread(descriptor, min(_TAIL_BLOCK_BYTES, last - offset), offset))
    return last + 1, last + 1 - start, digest.hexdigest()


def _last_newline(descriptor: int, end: int) -> int:
    """Return the offset of the last line end before `end`, or -1."""
    while end > 0:
        start = max(0, end - _TAIL_BLOCK_BYTES)
        if (position := os.pread(descriptor, end - start, start).rfind(b"\n")) >= 0:
            return start + position
        end = start
    return -1
