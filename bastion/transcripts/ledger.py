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
from typing import Any, Final

from bastion.errors import RecordingFailed
from bastion.model import now
from bastion.transcripts.signing import Signer, Verifier

FILE: Final = "ledger.jsonl"
FIRST: Final = "0" * 64
_CONTEXT: Final = b"bastion-ledger\n"
_SEPARATOR: Final = b',"signature":"'
_LONGEST_LINE: Final = 16 * 2**20
_LONGEST_TEXT: Final = 4096
_TAIL: Final = 64 * 1024


class Ledger:
    """Appends to one file, under its lock; holds no descriptor between lines."""

    def __init__(self, path: Path, signer: Signer, node: str, executor: Executor | None = None) -> None:
        self.path = path
        self._signer = signer
        self._node = node
        self._executor = executor
        self._size = -1
        self._previous = FIRST
        self._failed: OSError | None = None

    async def append(self, event: str, **fields: object) -> None:
        """Append one line, in a thread.

        Raises:
            RecordingFailed: the volume did not take it.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self.write, event, fields)

    def write(self, event: str, fields: Mapping[str, object], *, sync: bool = True) -> None:
        """Append one line and, with `sync`, bring the ledger to the disk; blocks while another process holds the lock.

        A line that a crash left unfinished is cut off first, and the new line says how long it was.

        Raises:
            RecordingFailed: the volume did not take it.
        """
        try:
            if self._failed is not None:
                raise self._failed
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._write(descriptor, event, fields)
                if sync:
                    self._sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RecordingFailed(
                f"the ledger cannot be written: {error.strerror}", "tell whoever runs the bastion", detail=str(error)
            ) from error

    def _write(self, descriptor: int, event: str, fields: Mapping[str, object]) -> None:
        size = os.fstat(descriptor).st_size
        torn: dict[str, object] = {}
        if size != self._size:
            whole, self._previous = _tail(descriptor, size)
            if whole != size:
                os.ftruncate(descriptor, whole)
                torn = {"torn": size - whole}
                size = whole
        line = self._line(event, torn | dict(fields))
        written = os.write(descriptor, line)
        if written != len(line):
            os.ftruncate(descriptor, size)
            self._size = -1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size = size + written
        self._previous = hashlib.sha256(line[:-1]).hexdigest()

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self._failed = error  # the first one is final
            raise

    def _line(self, event: str, fields: Mapping[str, object]) -> bytes:
        fixed = {
            "time": now().isoformat(timespec="microseconds"),
            "event": event,
            "node": self._node,
            "previous": self._previous,
        }
        if taken := fixed.keys() & fields.keys():
            raise ValueError(f"{', '.join(sorted(taken))} is the ledger's own")
        clipped = {key: value[:_LONGEST_TEXT] if isinstance(value, str) else value for key, value in fields.items()}
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

    Raises:
        OSError: it cannot be read.
    """
    previous = FIRST
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            fields, problem = _check(line, verifier)
            if problem is None and verifier is not None and fields.get("previous") != previous:
                problem = "does not follow the line before it: a line was dropped, moved, repeated or put in"
            previous = hashlib.sha256(line.removesuffix(b"\n")).hexdigest()
            yield Entry(number, fields, problem)


def _check(line: bytes, verifier: Verifier | None) -> tuple[dict[str, Any], str | None]:
    if not line.endswith(b"\n"):
        return {}, "is cut short"
    head, separator, tail = line[:-1].rpartition(_SEPARATOR)
    try:
        fields = json.loads(line)
        signature = base64.b64decode(tail.removesuffix(b'"}'), validate=True)
    except (ValueError, RecursionError, binascii.Error):
        return {}, "is not a line of a ledger"
    if not separator or not isinstance(fields, dict) or base64.b64encode(signature) + b'"}' != tail:
        return {}, "is not a line of a ledger"
    if verifier is not None and not verifier.verify(_CONTEXT + head + b"}", signature):
        return {}, "was edited, or is signed by another key"
    return fields, None


def _tail(descriptor: int, size: int) -> tuple[int, str]:
    """Return where the last whole line ends, and its hash."""
    end, held = size, b""
    while end:
        start = max(0, end - _TAIL)
        held = os.pread(descriptor, end - start, start) + held
        end = start
        last = held.rfind(b"\n")
        before = held.rfind(b"\n", 0, last) if last >= 0 else -1
        if last >= 0 and (before >= 0 or end == 0):
            return end + last + 1, hashlib.sha256(held[before + 1 : last]).hexdigest()
    return 0, FIRST
