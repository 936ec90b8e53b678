"""What a client of SFTP has open: files and folders under the handles that it was given, a bounded number of them."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from bastion.errors import BastionError, FileFailed
from bastion.files import Entry, Files, Mode, OpenFile
from bastion.files.recorded_file import cut_off

MOST_HANDLES: Final = 64

_HANDLE_BYTES = 8


class OpenedFile:
    """One file that a client has open, `path` as it named it."""

    def __init__(self, path: bytes, file: OpenFile, mode: Mode) -> None:
        self.path = path
        self.file = file
        self.mode = mode

    async def close(self) -> None:
        """Let go of the file."""
        await self.file.close()

    async def cut(self) -> None:
        """Have it on record that the client did not close it."""
        await cut_off(self.file)


class OpenedFolder:
    """One folder that a client reads; entries that it has not fetched yet wait in `waiting`."""

    def __init__(self, path: bytes, batches: AsyncIterator[list[Entry]]) -> None:
        self.path = path
        self.waiting: deque[Entry] = deque()
        self._batches = batches

    async def fill(self) -> None:
        """Fetch entries unless some are waiting; none will be when the folder is at its end."""
        while not self.waiting:
            batch = await anext(self._batches, None)
            if batch is None:
                return
            self.waiting.extend(batch)

    async def cut(self) -> None:
        """Do nothing: a folder has been on record since it was opened."""

    async def close(self) -> None:
        """Let go of the folder."""
        close = getattr(self._batches, "aclose", None)  # an iterator need not have it, a generator has
        if close is not None:
            await close()


class Handles:
    """The open files and folders of one client. A handle is never given twice, so that an old one is nobody's."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._given = 0
        self._open: dict[bytes, OpenedFile | OpenedFolder] = {}

    async def open_file(self, path: bytes, mode: Mode) -> bytes:
        """Open a file and return its handle."""
        self._make_room()
        return self._give(OpenedFile(path, await self._files.open(path, mode), mode))

    async def open_folder(self, path: bytes) -> bytes:
        """Begin to read a folder, so that what stands against it is said at once; return its handle."""
        self._make_room()
        folder = OpenedFolder(path, self._files.list(path))
        try:
            await folder.fill()
        except BaseException:
            await folder.close()
            raise
        return self._give(folder)

    def any(self, handle: bytes) -> OpenedFile | OpenedFolder:
        """Return what has a handle."""
        opened = self._open.get(handle)
        if opened is None:
            raise FileFailed("there is no such handle")
        return opened

    def file(self, handle: bytes) -> OpenedFile:
        """Return the file that has a handle."""
        opened = self.any(handle)
        if not isinstance(opened, OpenedFile):
            raise FileFailed("is a directory")
        return opened

    def readable(self, handle: bytes) -> OpenedFile:
        """Return the file that has a handle, if it was opened for reading."""
        opened = self.file(handle)
        if not opened.mode.read:
            raise FileFailed("was not opened for reading")
        return opened

    def writable(self, handle: bytes) -> OpenedFile:
        """Return the file that has a handle, if it was opened for writing."""
        opened = self.file(handle)
        if not opened.mode.write:
            raise FileFailed("was not opened for writing")
        return opened

    def folder(self, handle: bytes) -> OpenedFolder:
        """Return the folder that has a handle."""
        opened = self.any(handle)
        if not isinstance(opened, OpenedFolder):
            raise FileFailed("not a directory")
        return opened

    def name(self, handle: bytes) -> bytes:
        """Return the path of what has a handle, nothing where nothing has."""
        return self._open[handle].path if handle in self._open else b""

    async def close(self, handle: bytes) -> None:
        """Close what has a handle; the handle is nobody's then, also when closing fails."""
        opened = self.any(handle)
        del self._open[handle]
        await opened.close()

    async def close_all(self) -> list[tuple[bytes, BastionError]]:
        """Close everything that the client did not; return what of it failed, by its path."""
        failures = []
        while self._open:
            _, opened = self._open.popitem()
            try:
                await opened.cut()
                await opened.close()
            except BastionError as error:
                failures.append((opened.path, error))
        return failures

    def _make_room(self) -> None:
        if len(self._open) >= MOST_HANDLES:
            raise FileFailed(f"more than {MOST_HANDLES} files are open at once", "close some first")

    def _give(self, opened: OpenedFile | OpenedFolder) -> bytes:
        self._given += 1
        handle = self._given.to_bytes(_HANDLE_BYTES, "big")
        self._open[handle] = opened
        return handle
