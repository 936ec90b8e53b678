"""One opened file, each byte of which is on record before it passes, and which is summed up when it is closed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bastion.errors import BastionError, FileFailed
from bastion.files import Attributes, Changes, Mode, OpenFile
from bastion.files.journal import CUT_OFF, OK, Journal
from bastion.files.passed import Account, words_of
from bastion.model import FileOperation


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
        self._account = Account(path, mode, stream)
        self.stream = stream
        self._may_write = may_write
        self._before = before
        self._closed = False

    async def read(self, offset: int, length: int) -> bytes:
        """Read, and hand out what is on record."""
        passed = self._account.reading()
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
        passed = self._account.writing()
        passed.add(None if self._account.mode.append else offset, data)
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
        """Let go of it, and put on record what passed, before anybody is told, unless that is on record as cut off."""
        if self._closed:
            await self._file.close()
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
        """Put on record what passed as cut off: the file is about to be closed, and not since all was done with it."""
        if not self._closed:
            self._closed = True
            await self._sum_up(CUT_OFF, "")

    async def _compare(self) -> str:
        """Look whether the file is what it was when it was opened, where that matters and can be known."""
        if self._before is None or not self._account.was_read:
            return ""
        try:
            now = await self._file.stat()
        except FileFailed:
            return ""
        same = (now.size, now.modified) == (self._before.size, self._before.modified)
        return "" if same else "changed while it was read"

    async def _sum_up(self, result: str, note: str) -> None:
        self._forget(self)
        for operation in self._account.sum_up(result, read_note=note):
            await self._journal.note(operation)


async def cut_off(file: OpenFile) -> None:
    """Have a file that is about to be closed on record as cut off, when it is one that is recorded."""
    if isinstance(file, RecordedFile):
        await file.cut()


@asynccontextmanager
async def finishing(file: OpenFile) -> AsyncIterator[None]:
    """Close the file on leaving; it is cut off when anything but a failure of a file's ends what is done with it."""
    try:
        yield
    except FileFailed:
        raise
    except BaseException:
        await cut_off(file)
        raise
    finally:
        await file.close()
