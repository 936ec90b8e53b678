"""The files of a container as one person may use them: every path is judged, every operation and byte on record first.

A path is judged by what it really is in the container: where it depends on the path, what is asked for is resolved
there, judged, and the real path is what is handed down. Somebody in the container can still put a link in the place of
a folder between the two. An opened file is looked up once more before anything is read of it or written to it, and
who may not write everywhere can make no link that leads to where they may not write.
"""

import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Literal, Self

from bastion.errors import BastionError, FileFailed, FileRefused, RecordingFailed
from bastion.files import Attributes, Changes, Entry, Files, Mode, OpenFile, Space
from bastion.files.access import Judge, Right
from bastion.files.journal import Journal
from bastion.files.passed import ways, words_of
from bastion.files.recorded_file import RecordedFile
from bastion.model import FIRST_FILE, FileAccess, FileOperation, Record
from bastion.sessions import LiveSession

_BOTH: Final[tuple[Literal["read"], Literal["write"]]] = ("read", "write")


class RecordedFiles:
    """Files over other Files. Leaving its context puts on record, as cut off, what is open still."""

    def __init__(self, files: Files, access: FileAccess, session: LiveSession, record: Record) -> None:
        self._files = files
        self._judge = Judge(access)
        self._journal = Journal(record, session)
        self._next = FIRST_FILE
        self._opened: dict[RecordedFile, None] = {}
        self.way = files.way
        self.home = self._judge.start(files.home)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put every open file on record as cut off, and close it: first the record of all, since closing may fail."""
        left = list(self._opened)
        failed: RecordingFailed | None = None
        for file in left:
            try:
                await file.cut()
            except RecordingFailed as failure:
                failed = failure
        for file in left:
            with suppress(BastionError):
                await file.close()
        if failed is not None and error is None:
            raise failed

    # What only looks is not put on record, unless it was denied: clients do it before and after everything.

    async def real_path(self, path: bytes) -> bytes:
        """Return the path without symbolic links, `.` and `..`."""
        where = await self._allowed(FileOperation("real-path", path), "see", quiet=True)
        return await self._files.real_path(where) if self._judge.verdict("see") else where

    async def stat(self, path: bytes, *, follow: bool) -> Attributes:
        """Return what a path is."""
        where = await self._allowed(FileOperation("stat", path), "see", quiet=True, follow=follow)
        return await self._files.stat(where, follow=follow)

    async def read_link(self, path: bytes) -> bytes:
        """Return what a symbolic link says."""
        where = await self._allowed(FileOperation("read-link", path), "read", quiet=True, follow=False)
        return await self._files.read_link(where)

    async def space(self, path: bytes) -> Space:
        """Return what the file system of a path has."""
        return await self._files.space(await self._allowed(FileOperation("space", path), "see", quiet=True))

    async def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        """Give what a folder holds, all of it, when the folder itself may be read."""
        operation = FileOperation("list", path)
        operation = replace(operation, path=await self._allowed(operation, "read"))
        batches = self._files.list(operation.path)
        noted = False
        try:
            async for batch in batches:
                if not noted:
                    await self._journal.note(operation)
                    noted = True
                yield batch
        except BastionError as error:
            await self._journal.note(replace(operation, result=error.public))
            raise
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
        if not noted:
            await self._journal.note(operation)

    async def open(self, path: bytes, mode: Mode) -> OpenFile:
        """Open a file, and give it two streams of the record."""
        writes = mode.write or mode.append or mode.create or mode.truncate
        rights: tuple[Right, ...] = ("read", "write") if writes and mode.read else ("write",) if writes else ("read",)
        operation = FileOperation("open", path, note=ways(mode))
        # also where only reading depends on nothing: whether the opened file may be changed may depend on its path
        resolve = any(self._judge.verdict(right) is None for right in (*rights, "write"))
        where = await self._allowed(operation, *rights, follow=not mode.exclusive, resolve=resolve)
        operation = replace(operation, path=where)
        file = await self._journal.attempt(operation, self._open(where, mode, resolved=resolve))
        await self._journal.note(replace(operation, stream=file.stream))
        return file

    async def make_directory(self, path: bytes, permissions: int | None) -> None:
        """Make a folder."""
        where = await self._allowed(FileOperation("make-directory", path), "write", follow=False)
        await self._journal.do(FileOperation("make-directory", where), self._files.make_directory(where, permissions))

    async def remove(self, path: bytes) -> None:
        """Remove a file or a symbolic link."""
        where = await self._allowed(FileOperation("remove", path), "write", follow=False)
        await self._journal.do(FileOperation("remove", where), self._files.remove(where))

    async def remove_directory(self, path: bytes) -> None:
        """Remove an empty folder."""
        where = await self._allowed(FileOperation("remove-directory", path), "write", follow=False)
        await self._journal.do(FileOperation("remove-directory", where), self._files.remove_directory(where))

    async def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        """Rename what may be written to what may be written, where it can be read no more than before."""
        operation = FileOperation("rename", old, other=new)
        depends = any(self._judge.verdict(right) is None for right in _BOTH)
        source = await self._allowed(operation, "write", follow=False, resolve=depends)
        place = await self._allowed(operation, "write", other=True, follow=False, resolve=depends)
        operation = replace(operation, path=source, other=place)
        if depends and not await self._journal.attempt(operation, self._gives_no_right(source, place)):
            raise await self._journal.refusal(operation)
        await self._journal.do(operation, self._files.rename(source, place, overwrite=overwrite))

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link, which may lead only where may be written.

        What a link outwards leads to is judged when it is used, so that it would be of no use here. But a program in
        the container, with rights of its own, could be made to follow it.
        """
        operation = FileOperation("symlink", path, other=target)
        where = await self._allowed(operation, "write", follow=False)
        operation = replace(operation, path=where)
        if not self._judge.verdict("write"):
            beside = target if target.startswith(b"/") else where.rpartition(b"/")[0] + b"/" + target
            led = await self._journal.attempt(operation, self._files.real_path(beside))
            if not self._judge.may_write(led):
                raise await self._journal.refusal(operation)
        await self._journal.do(operation, self._files.symlink(target, where))

    async def hard_link(self, old: bytes, new: bytes) -> None:
        """Give a file a second name; both may be read and written, since it is one file by either."""
        operation = FileOperation("link", old, other=new)
        source = await self._allowed(operation, "read", "write", follow=False)
        place = await self._allowed(operation, "read", "write", other=True, follow=False)
        await self._journal.do(replace(operation, path=source, other=place), self._files.hard_link(source, place))

    async def change(self, path: bytes, changes: Changes, *, follow: bool) -> None:
        """Change size, permissions, owner or times."""
        operation = FileOperation("change", path, note=words_of(changes))
        where = await self._allowed(operation, "write", follow=follow)
        await self._journal.do(replace(operation, path=where), self._files.change(where, changes, follow=follow))

    async def _allowed(
        self,
        operation: FileOperation,
        *rights: Right,
        follow: bool = True,
        quiet: bool = False,
        other: bool = False,
        resolve: bool = False,
    ) -> bytes:
        """Return the path to do it at, absolute, and the real one where anything depends on it, or `resolve` is set.

        Where some paths are allowed and others not, it is always the real one: the way to the files may take no other.
        `follow` goes through a last symbolic link. `other` judges the operation's other path. Nothing is put on record
        for a `quiet` one that cannot be judged, because the path is too long for example.

        Raises:
            FileFailed: one of the rights is missing, which is on record, or the path could not be resolved.
        """
        asked = operation.other if other and operation.other is not None else operation.path
        path = self.home.rstrip(b"/") + b"/" + asked if not asked.startswith(b"/") else asked
        verdicts = {self._judge.verdict(right) for right in rights}
        if False not in verdicts:
            if verdicts == {True} and not resolve and not self._judge.depends_on_paths:
                self._journal.is_alive()
                return path
            work = self._resolve(path, follow=follow)
            path = await (work if quiet else self._journal.attempt(operation, work))
            if all(self._judge.allows(right, path) for right in rights):
                return path
        asked_as = f"asked for as {asked.decode('utf-8', 'backslashreplace')}" if asked != path else ""
        operation = replace(operation, note=", ".join(filter(None, (operation.note, asked_as))))
        raise await self._journal.refusal(replace(operation, other=path) if other else replace(operation, path=path))

    async def _resolve(self, path: bytes, *, follow: bool) -> bytes:
        folder, _, name = path.rstrip(b"/").rpartition(b"/")
        if follow or name in {b"", b".", b".."}:
            return await self._files.real_path(path)
        return (await self._files.real_path(folder or b"/")).rstrip(b"/") + b"/" + name

    async def _open(self, where: bytes, mode: Mode, *, resolved: bool) -> RecordedFile:
        if resolved and mode.create and not mode.exclusive:
            await self._refuse_link(where)
        file = await self._files.open(where, mode)
        before = None
        try:
            if resolved:
                await self._refuse_other(where)
            if mode.read and not mode.write:
                with suppress(FileFailed):
                    before = await file.stat()
        except BaseException:
            with suppress(BastionError):
                await file.close()
            raise
        stream, self._next = self._next, self._next + 2
        opened = RecordedFile(
            file,
            self._journal,
            self._opened.pop,
            path=where,
            mode=mode,
            stream=stream,
            may_write=self._judge.may_write(where),
            before=before,
        )
        self._opened[opened] = None
        return opened

    async def _refuse_link(self, where: bytes) -> None:
        """Refuse to make a file through a link that leads to nothing: its target was not judged."""
        try:
            found = await self._files.stat(where, follow=False)
        except FileFailed:
            return  # opening it will say why
        if stat.S_ISLNK(found.mode):
            raise FileRefused

    async def _refuse_other(self, where: bytes) -> None:
        """Refuse what is not at the path that was judged any more."""
        if await self._files.real_path(where) != where:
            raise FileRefused

    async def _gives_no_right(self, source: bytes, place: bytes) -> bool:
        """Tell whether nothing that is renamed may be read or written more than before."""
        found = await self._files.stat(source, follow=False)
        if stat.S_ISDIR(found.mode):
            return all(
                self._judge.verdict(right) is not None or self._judge.allows_below(right, source) for right in _BOTH
            )
        return self._judge.may_read(source) or not self._judge.may_read(place)
