"""One opened file, each byte of which is on record before it passes, and which is summed up when it is closed."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bastion.errors import BastionError, FileFailed
from bastion.files import Attributes, Changes, Mode, OpenFile
from bastion.files.journal import CUT_OFF, OK, Journal
from bastion.model import FileOperation


@dataclass(slots=True)
class _Passed:
    """What passed one way: how much, its digest, where it began in the file and whether it went on from there."""

    size: int = 0
    begin: int | None = None
    in_order: bool = True
    failure: str = ""
    digest: Any = field(default_factory=hashlib.sha256)  # hashlib does not name its type

    def add(self, offset: int | None, data: bytes) -> None:
        """Take a piece in; no offset is wherever the last one ended."""
        if offset is not None:
            self.begin = offset if self.begin is None else self.begin
            self.in_order = self.in_order and offset == self.begin + self.size
        self.size += len(data)
        self.digest.update(data)

    def note(self) -> str:
        """Say what the digest is not to be taken for."""
        if not self.in_order:
            return "not in the file's order"
        return f"from byte {self.begin} on" if self.begin else ""


class RecordedFile:
    """An OpenFile over another. `stream` is the number of what is read of it; what is written has the next.

    `before` is what the file was when it was opened, where that is known; `may_write` whether it may be changed.
    """

    def __init__(
        self,
        file: OpenFile,
        journal: Journal,
        forget: Callable[["RecordedFile"], object],
        *,
        path: bytes,
        mode: Mode,
        stream: int,
        may_write: bool,
        before: Attributes | None,
    ) -> None:
        self._file = file
        self._journal = journal
        self._forget = forget
        self._path = path
        self._mode = mode
        self.stream = stream
        self._may_write = may_write
        self._before = before
        self._read: _Passed | None = None
        self._written: _Passed | None = None
        self._closed = False

    async def read(self, offset: int, length: int) -> bytes:
        """Read, and hand out what is on record."""
        passed = self._read = self._read or _Passed()
        try:
            data = await self._file.read(offset, length)
        except BastionError as error:
            passed.failure = passed.failure or error.public
            raise
        if data:
            passed.add(offset, data)  # nothing may come between this and the record, or their orders would differ
            await self._journal.read(self.stream, data)
        return data

    async def write(self, offset: int, data: bytes) -> None:
        """Put on record, and write; of what failed a part may have got there."""
        passed = self._written = self._written or _Passed()
        passed.add(None if self._mode.append else offset, data)
        await self._journal.written(self.stream + 1, data)
        try:
            await self._file.write(offset, data)
        except BastionError as error:
            passed.failure = passed.failure or error.public
            raise

    async def stat(self) -> Attributes:
        """Return what it is now."""
        self._journal.is_alive()
        return await self._file.stat()

    async def change(self, changes: Changes) -> None:
        """Change it, if its path may be written, however it was opened."""
        operation = FileOperation("change", self._path, note=words_of(changes))
        if not self._may_write:
            raise await self._journal.refusal(operation)
        await self._journal.do(operation, self._file.change(changes))

    async def sync(self) -> None:
        """Have it written to the disk."""
        self._journal.is_alive()
        await self._file.sync()

    async def close(self) -> None:
        """Let go of it, and put on record what passed, before anybody is told."""
        if self._closed:
            return
        self._closed = True
        result, note = CUT_OFF, ""
        try:
            note = await self._compare()
            await self._file.close()
            result = OK
        except BastionError as error:
            result = error.public
            raise
        finally:
            await self._sum_up(result, note)

    async def cut(self) -> None:
        """Put on record what passed, for a session that ends with the file open; `close` then does nothing."""
        if not self._closed:
            self._closed = True
            await self._sum_up(CUT_OFF, "")

    async def let_go(self) -> None:
        """Close what was cut off, and bear that it fails."""
        with suppress(BastionError):
            await self._file.close()

    async def _compare(self) -> str:
        """Look whether the file is what it was when it was opened, where that matters and can be known."""
        if self._before is None or self._read is None:
            return ""
        try:
            now = await self._file.stat()
        except FileFailed:
            return ""
        same = (now.size, now.modified) == (self._before.size, self._before.modified)
        return "" if same else "changed while it was read"

    async def _sum_up(self, result: str, note: str) -> None:
        self._forget(self)
        if self._read is None and self._written is None:
            if self._mode.write:
                self._written = _Passed()
            else:
                self._read = _Passed()
        for operation, stream, passed in (
            ("read", self.stream, self._read),
            ("write", self.stream + 1, self._written),
        ):
            if passed is not None:
                notes = (passed.note(), note if operation == "read" else "")
                summary = FileOperation(
                    operation,
                    self._path,
                    passed.failure or result,
                    size=passed.size,
                    sha256=passed.digest.hexdigest(),
                    stream=stream,
                    note=", ".join(filter(None, notes)),
                )
                await self._journal.note(summary)


def words_of(changes: Changes) -> str:
    """Say what is changed of a file."""
    words = []
    if changes.size is not None:
        words.append(f"size {changes.size}")
    if changes.permissions is not None:
        words.append(f"permissions {changes.permissions:04o}")
    if changes.owner is not None:
        words.append(f"owner {changes.owner[0]}:{changes.owner[1]}")
    if changes.times is not None:
        words.append(f"accessed {changes.times[0]}, modified {changes.times[1]}")
    return ", ".join(words)
