"""The taking end of scp (`scp -t`): writes files and folders of a client into a container, as OpenSSH's scp does."""

import re
import stat
from dataclasses import dataclass, replace
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Attributes, Changes, Files, Mode, OpenFile
from bastion.files.recorded_file import finishing
from bastion.files.scp.command import ScpCommand, Word
from bastion.files.scp.expand import expand
from bastion.files.scp.wire import ScpEnded, Wire, checked

_RECORD: Final = re.compile(rb"([CD])([0-7]{4}) ([0-9]{1,19}) (.+)", re.DOTALL)
_TIMES: Final = re.compile(rb"T([0-9]{1,19}) [0-9]{1,6} ([0-9]{1,19}) [0-9]{1,6}")
_LARGEST: Final = 2**63 - 1
_PERMISSIONS: Final = 0o7777
_OWNER_WRITES: Final = 0o200
_OWNER_ENTERS: Final = 0o700


@dataclass(slots=True)
class _Folder:
    """Where files are put at present, and what it is given when it is left; the first may be a file's path instead.

    In one that was made here nothing is looked for before it is put there.
    """

    path: bytes
    is_directory: bool
    is_new: bool = False
    permissions: int | None = None
    withheld: int = 0
    times: tuple[int, int] | None = None


class Sink:
    """Takes what one client sends."""

    def __init__(self, wire: Wire, files: Files, command: ScpCommand) -> None:
        self._wire = wire
        self._files = files
        self._command = command
        self._folders: list[_Folder] = []
        self._times: tuple[int, int] | None = None

    async def serve(self) -> None:
        """Take everything, until the client has said all; what cannot be written is told and counted.

        Raises:
            ScpEnded: the client broke the protocol, gave up, or went away in the midst of a file.
        """
        if not await self._begin():
            return
        await self._wire.acknowledge()
        while self._folders and await self._wire.more():
            await self._take(await self._wire.line())
        self._wire.failures += len(self._folders) > 1  # the client went away in the midst of a tree
        while len(self._folders) > 1:
            await self._leave()

    async def _begin(self) -> bool:
        word = self._command.paths[0]
        try:
            self._folders.append(await self._target(word))
        except FileFailed as error:
            await self._wire.fail(word.written, error)
            return False
        return True

    async def _target(self, word: Word) -> _Folder:
        paths = await expand(self._files, word)
        if len(paths) > 1:
            raise FileFailed("ambiguous target")
        found = await self._look(paths[0])
        is_directory = found is not None and stat.S_ISDIR(found.mode)
        if self._command.into_directory and not is_directory:
            raise FileFailed("not a folder" if found else "no such file")
        return _Folder(paths[0], is_directory)

    async def _take(self, line: bytes) -> None:
        """Do what a line of the client's says."""
        if line.startswith(b"\1"):
            self._wire.failures += 1
        elif line.startswith(b"\2"):
            self._wire.failures += 1
            raise ScpEnded
        elif line == b"E":
            if await self._leave():
                await self._wire.acknowledge()
        elif match := _TIMES.fullmatch(line):
            modified, accessed = int(match[1]), int(match[2])
            self._times = (accessed, modified) if max(modified, accessed) <= _LARGEST else None
            await self._wire.acknowledge()
        elif match := _RECORD.fullmatch(line):
            await self._take_record(match)
        else:
            raise ScpEnded("protocol error: expected control record")

    async def _take_record(self, match: re.Match[bytes]) -> None:
        kind, mode, size, name = match[1], int(match[2], 8), int(match[3]), match[4]
        if b"/" in name or b"\0" in name or name in {b".", b".."}:
            raise ScpEnded("error: unexpected filename")
        if size > _LARGEST:
            raise ScpEnded("protocol error: size out of range")
        if kind == b"D" and not self._command.recursive:
            raise ScpEnded("protocol error: received directory without -r")
        folder = self._folders[-1]
        path = folder.path.rstrip(b"/") + b"/" + name if folder.is_directory else folder.path
        permissions = mode if self._command.preserve else mode & 0o777
        times, self._times = self._times, None
        try:
            if kind == b"D":
                await self._enter(checked(path), permissions, times)
            else:
                await self._take_file(checked(path), permissions, size, times)
        except FileFailed as error:
            await self._wire.fail(path, error)
        else:
            await self._wire.acknowledge()

    async def _take_file(self, path: bytes, permissions: int, size: int, times: tuple[int, int] | None) -> None:
        found = None if self._folders[-1].is_new else await self._look(path)
        if path.endswith(b"/"):
            raise FileFailed("no such file")
        if found is not None and stat.S_ISDIR(found.mode):
            raise FileFailed("is a folder")
        mode = Mode(write=True, create=True, truncate=found is None, permissions=permissions | _OWNER_WRITES)
        file = await self._files.open(path, mode)
        async with finishing(file):
            await self._wire.acknowledge()
            await self._fill(file, size)
            if found is not None and stat.S_ISREG(found.mode):
                await file.change(Changes(size=size))
            if found is None and not permissions & _OWNER_WRITES and not self._command.preserve:
                made = await file.stat()
                await file.change(Changes(permissions=made.mode & 0o777 & ~_OWNER_WRITES))
        changes = Changes(permissions=permissions if self._command.preserve else None, times=times)
        if changes != Changes():
            await self._files.change(path, changes, follow=True)

    async def _fill(self, file: OpenFile, size: int) -> None:
        """Write what the client sends; all of it is read, also when it cannot be written, for what follows it.

        Raises:
            FileFailed: it cannot be written.
        """
        offset, failure = 0, None
        async for piece in self._wire.contents(size):
            if failure is None:
                try:
                    await file.write(offset, piece)
                except FileFailed as error:
                    failure = error
            offset += len(piece)
        await self._wire.answer()
        if failure is not None:
            raise failure

    async def _enter(self, path: bytes, permissions: int, times: tuple[int, int] | None) -> None:
        """Go into a folder, made if it is not there; while files are put into it its owner may enter and write."""
        found = None if self._folders[-1].is_new else await self._look(path)
        folder = _Folder(path, is_directory=True, is_new=found is None, times=times)
        if self._command.preserve:
            folder.permissions = permissions
        if found is None:
            await self._files.make_directory(path, permissions | _OWNER_ENTERS)
            folder.withheld = _OWNER_ENTERS & ~permissions
        elif not stat.S_ISDIR(found.mode):
            raise FileFailed("not a folder")
        elif self._command.preserve and ~found.mode & _OWNER_ENTERS:
            await self._files.change(path, Changes(permissions=permissions | _OWNER_ENTERS), follow=True)
        self._folders.append(folder)

    async def _leave(self) -> bool:
        """Give a folder its permissions and times, and go back to the one it is in; False when that failed."""
        folder = self._folders.pop()
        changes = Changes(permissions=folder.permissions, times=folder.times)
        try:
            if folder.permissions is None and folder.withheld:
                made = await self._files.stat(folder.path, follow=True)
                changes = replace(changes, permissions=made.mode & _PERMISSIONS & ~folder.withheld)
            if changes != Changes():
                await self._files.change(folder.path, changes, follow=True)
        except FileFailed as error:
            await self._wire.fail(folder.path, error)
            return False
        return True

    async def _look(self, path: bytes) -> Attributes | None:
        try:
            return await self._files.stat(path, follow=True) if path else None
        except FileFailed:
            return None  # why will be told when it is opened
