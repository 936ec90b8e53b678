"""The giving end of scp (`scp -f`): sends files and folders of a container, as OpenSSH's scp does."""

import stat
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Attributes, Files, Mode, OpenFile
from bastion.files.recorded_file import finishing
from bastion.files.scp.command import ScpCommand
from bastion.files.scp.expand import expand, listed
from bastion.files.scp.wire import LONGEST_NAME, PIECE, Wire, checked, on_one_line

MOST_NAMES: Final = 16 * 1024 * 1024  # bytes of names that are held for the folders that are open at a time
MOST_PADDING: Final = 4 * 1024 * 1024 * 1024  # zeros that are sent in place of what a file turns out not to hold

_REGULAR: Final = b"-"
_OTHER: Final = b"?"
_ZEROS: Final = bytes(PIECE)
_PERMISSIONS: Final = 0o7777


class _Folder:
    """A folder that is being sent: its path, and the names in it in one piece, each between a mark and a slash."""

    def __init__(self, path: bytes, names: bytes) -> None:
        self.path = path
        self.names = names
        self._at = 0

    def next(self) -> tuple[bytes, bool] | None:
        """Return the path of the next file in it, and whether it was listed as a regular one; None behind the last."""
        if self._at >= len(self.names):
            return None
        end = self.names.index(b"/", self._at)
        mark, name, self._at = self.names[self._at : self._at + 1], self.names[self._at + 1 : end], end + 1
        return self.path.rstrip(b"/") + b"/" + name, mark == _REGULAR


class Source:
    """Sends what one command asks for."""

    def __init__(self, wire: Wire, files: Files, command: ScpCommand) -> None:
        self._wire = wire
        self._files = files
        self._command = command
        self._folders: list[_Folder] = []

    async def serve(self) -> None:
        """Send everything; what cannot be sent is told and counted, and the rest goes on."""
        await self._wire.answer()
        for word in self._command.paths:
            try:
                paths = await expand(self._files, word)
            except FileFailed as error:
                await self._wire.fail(word.written, error)
                continue
            for path in paths:
                await self._send_tree(path.rstrip(b"/") or path[:1])

    async def _send_tree(self, path: bytes) -> None:
        await self._send(path)
        while self._folders:
            inside = self._folders[-1].next()
            if inside is not None:
                path, is_regular = inside
                await self._send(path, is_regular=is_regular)
                continue
            self._folders.pop()
            await self._wire.send(b"E\n")
            await self._wire.answer()

    async def _send(self, path: bytes, *, is_regular: bool = False) -> None:
        """Send a file, or begin to send a folder; what may be neither is looked at before it is opened."""
        try:
            if not is_regular:
                found = await self._files.stat(checked(path), follow=True)
                if stat.S_ISDIR(found.mode) and self._command.recursive:
                    names = await self._names(path)
                    if await self._announce(b"D", path, found):
                        self._folders.append(_Folder(path, names))
                    return
                _must_be_regular(found)
            file = await self._files.open(checked(path), Mode(read=True))
            async with finishing(file):
                await self._send_file(path, file)
        except FileFailed as error:
            await self._wire.fail(path, error)

    async def _names(self, path: bytes) -> bytes:
        """Return what a folder holds, a slash behind each name: all of it first, since nothing else is asked meanwhile.

        Raises:
            FileFailed: it cannot be listed, or holds too much.
        """
        names = bytearray()
        most = MOST_NAMES - sum(len(folder.names) for folder in self._folders)
        async with listed(self._files, path) as batches:
            async for entries in batches:
                for entry in entries:
                    if entry.name not in {b"", b".", b".."} and b"/" not in entry.name:
                        mark = _REGULAR if stat.S_ISREG(entry.attributes.mode) else _OTHER
                        names += mark + entry.name + b"/"
                if len(names) > most:
                    raise FileFailed("holds too many files to be copied at once")
        return bytes(names)

    async def _announce(self, kind: bytes, path: bytes, found: Attributes) -> bool:
        """Tell the client of a file or a folder; False when it does not want it.

        Raises:
            FileFailed: it has a name that no client would take.
        """
        name = on_one_line(path.rpartition(b"/")[2])
        if len(name) > LONGEST_NAME:
            raise FileFailed("the name is too long")
        if self._command.preserve:
            await self._wire.send(b"T%d 0 %d 0\n" % (max(found.modified, 0), max(found.accessed, 0)))
            if not await self._wire.answer():
                return False
        size = found.size if kind == b"C" else 0
        await self._wire.send(b"%s%04o %d %s\n" % (kind, found.mode & _PERMISSIONS, size, name))
        return await self._wire.answer()

    async def _send_file(self, path: bytes, file: OpenFile) -> None:
        found = await file.stat()
        _must_be_regular(found)
        if not await self._announce(b"C", path, found):
            return
        failure = await self._send_contents(file, found.size)
        if failure is None:
            await self._wire.acknowledge()
        else:
            await self._wire.fail(path, failure)
        await self._wire.answer()

    async def _send_contents(self, file: OpenFile, size: int) -> FileFailed | None:
        """Send `size` bytes, whatever happens: the client waits for them. Zeros stand for what cannot be read."""
        sent, failure = 0, None
        while sent < size and failure is None:
            try:
                piece = await file.read(sent, min(size - sent, PIECE))
                if not piece:
                    failure = FileFailed("the file became shorter while it was read")
            except FileFailed as error:
                failure = error
            else:
                await self._wire.send(piece)
                sent += len(piece)
        if size - sent > MOST_PADDING:
            self._wire.abandon("a file is by far not as long as the container says")
        while sent < size:
            await self._wire.send(_ZEROS[: size - sent])
            sent += min(size - sent, PIECE)
        return failure


def _must_be_regular(found: Attributes) -> None:
    if not stat.S_ISREG(found.mode):
        raise FileFailed("not a regular file")
