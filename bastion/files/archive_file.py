"""One file opened by an engine's archive API: read in windows, or held in memory and put there in one piece."""

import asyncio
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, cast

from bastion.errors import BastionError, FileFailed
from bastion.files import Attributes, Changes, Mode
from bastion.files.tar import Header, TarReader
from bastion.runtimes import Archive

WINDOW: Final = 16 * 1024 * 1024  # bytes of a file that are read at a time
LARGEST: Final = 256 * 1024 * 1024  # bytes of a file that is read: each window is read through to from its beginning
HELD: Final = 64 * 1024 * 1024  # bytes that the files of one session that are written may have together

_SECONDS: Final = 60.0  # of one window
_HINT: Final = "a toolbox for the stack takes any size"


class Room:
    """How much the files that are written may hold in memory, all of them together."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, more: int) -> None:
        """Take so many bytes more, or give some back.

        Raises:
            FileFailed: that would be more than is to be held.
        """
        if more > 0 and self._taken + more > HELD:
            raise FileFailed(
                f"more than the {HELD // 2**20} MiB that can be put by the engine's archive API at a time",
                _HINT,
            )
        self._taken += more


class ReadFile:
    """A file that is read, a window of it at a time; `begin` comes first.

    The engine keeps its container locked, from being stopped even, while it reads: no client's pace may hold it up.
    """

    def __init__(self, archive: Archive, path: bytes, released: Callable[[], None]) -> None:
        self._archive = archive
        self._path = path
        self._released = released
        self._lock = asyncio.Lock()
        self._header: Header | None = None
        self._window = b""
        self._start = 0
        self._is_closed = False

    async def begin(self) -> None:
        """Read the first window.

        Raises:
            FileFailed: it is no file, or a larger one than can be read.
        """
        await self._fetch(0)

    async def read(self, offset: int, length: int) -> bytes:
        """Return what is there; see the port."""
        async with self._lock:
            if offset >= (await self.stat()).size:
                return b""
            if not self._start <= offset < self._start + len(self._window):
                await self._fetch(offset)
            at = offset - self._start
            return self._window[at : at + length]

    async def write(self, offset: int, data: bytes) -> None:  # noqa: ARG002 - the port's
        """Refuse: it is opened for reading."""
        raise FileFailed("opened for reading only")

    async def stat(self) -> Attributes:
        """Return what it was when it was opened."""
        if self._header is None:
            await self.begin()
        return cast("Header", self._header).attributes

    async def change(self, changes: Changes) -> None:  # noqa: ARG002 - the port's
        """Refuse: it is opened for reading."""
        raise FileFailed("opened for reading only")

    async def sync(self) -> None:
        """Do nothing: nothing was written."""

    async def close(self) -> None:
        """Let go of it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._released()
        self._window = b""

    async def _fetch(self, offset: int) -> None:
        """Read a window from `offset` on, through all that is before it."""
        window = bytearray()
        try:
            async with asyncio.timeout(_SECONDS), self._archive.get(self._path) as pieces:
                reader = TarReader(pieces)
                self._header = self._checked(await reader.header())
                at = 0
                while len(window) < WINDOW and (piece := await reader.body()):
                    window += piece[max(0, offset - at) :]
                    at += len(piece)
        except TimeoutError as error:
            raise FileFailed("the engine takes too long to read it", _HINT) from error
        self._window, self._start = bytes(window[:WINDOW]), offset

    def _checked(self, header: Header | None) -> Header:
        if header is None:
            raise FileFailed("of a kind or a name that the engine's archive API does not give", kind="unsupported")
        if not stat.S_ISREG(header.attributes.mode) or self._header not in (None, header):
            raise FileFailed("changed while it was read")
        if header.attributes.size > LARGEST:
            raise FileFailed(f"more than the {LARGEST // 2**20} MiB that can be got by the engine's archive API", _HINT)
        return header


class WrittenFile:
    """A file that is held in memory, and by `put` written whole, in the place of what is there, when it is closed."""

    def __init__(
        self,
        mode: Mode,
        attributes: Attributes,
        content: bytearray,
        *,
        room: Room,
        put: Callable[[Attributes, memoryview], Awaitable[None]],
        released: Callable[[], None],
        is_changed: bool,
    ) -> None:
        self._mode = mode
        self._attributes = attributes
        self._content = content
        self._room = room
        self._put = put
        self._released = released
        self._is_changed = is_changed
        self._times_are_given = False
        self._is_closed = False
        self._lock = asyncio.Lock()

    async def read(self, offset: int, length: int) -> bytes:
        """Return what is there; see the port."""
        if not self._mode.read:
            raise FileFailed("not opened for reading")
        async with self._lock:
            return bytes(memoryview(self._content)[offset : offset + length])

    async def write(self, offset: int, data: bytes) -> None:
        """Hold it; the container has it when `sync` or `close` returns."""
        async with self._lock:
            start = len(self._content) if self._mode.append else offset
            self._resize(max(len(self._content), start + len(data)))
            self._content[start : start + len(data)] = data
            self._is_changed, self._times_are_given = True, False

    async def stat(self) -> Attributes:
        """Return what it will be."""
        return replace(self._attributes, size=len(self._content))

    async def change(self, changes: Changes) -> None:
        """Change what it will be."""
        async with self._lock:
            refuse_owner(self._attributes, changes)
            if changes.size is not None:
                self._resize(changes.size)
            self._attributes = changed(self._attributes, changes)
            self._times_are_given = self._times_are_given or changes.times is not None
            self._is_changed = True

    async def sync(self) -> None:
        """Put it there."""
        async with self._lock:
            await self._flush()

    async def close(self) -> None:
        """Put it there, unless it is there already."""
        async with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._released()
            try:
                await self._flush()
            finally:
                self._room.take(-len(self._content))
                self._content = bytearray()

    def _resize(self, size: int) -> None:
        if not 0 <= size < 2**63:
            raise FileFailed("no size that a file can have")
        self._room.take(size - len(self._content))
        if size < len(self._content):
            del self._content[size:]
        else:
            self._content += bytes(size - len(self._content))

    async def _flush(self) -> None:
        if not self._is_changed:
            return
        if not self._times_are_given:
            now = int(time.time())
            self._attributes = replace(self._attributes, accessed=now, modified=now)
        content = memoryview(self._content)
        try:
            await self._put(replace(self._attributes, size=len(content)), content)
        except BastionError:
            content.release()
            raise
        content.release()  # not where this was cancelled: it is put all the same
        self._is_changed = False


def refuse_owner(attributes: Attributes, changes: Changes) -> None:
    """Refuse to give a file to somebody else: the engine would, whoever asks.

    Raises:
        FileFailed: that was asked for.
    """
    if changes.owner not in (None, (attributes.user, attributes.group)):
        raise FileFailed("not given to anybody else by the engine's archive API", kind="unsupported")


def changed(attributes: Attributes, changes: Changes) -> Attributes:
    """Return what permissions and times make of a file."""
    if changes.permissions is not None:
        mode = attributes.mode & ~0o7777 | changes.permissions & 0o7777
        attributes = replace(attributes, mode=mode)
    if changes.times is not None:
        attributes = replace(attributes, accessed=changes.times[0], modified=changes.times[1])
    return attributes
