"""The wire of scp: lines, answers of one byte and contents of a known length, over a channel."""

import re
from collections.abc import AsyncIterator
from typing import Final, NoReturn

from bastion.errors import FileFailed
from bastion.model import STDOUT, Channel, Data, Eof, Event

PIECE: Final = 1024 * 1024  # bytes of contents that are moved at once
LONGEST_LINE: Final = 2048  # of a client
LONGEST_NAME: Final = 1024  # no container has a longer one, and no client takes much more
LONGEST_PATH: Final = 4096  # PATH_MAX of Linux
_LONGEST_ERROR: Final = 1900  # a client reads 2048 bytes and takes what follows for something else
_OK: Final = b"\0"
_ERROR: Final = 1
_FATAL: Final = 2
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class ScpEnded(Exception):
    """The client broke the protocol, went away in the midst of it or has given up; its words are for the client."""


class Wire:
    """Both directions of one scp conversation; `failures` counts what went wrong on either side."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._events: AsyncIterator[Event] = aiter(channel)
        self._held = b""
        self._at = 0
        self._ended = False
        self.failures = 0

    async def send(self, payload: bytes) -> None:
        """Send bytes, and wait while the client takes no more."""
        await self._channel.send(Data(STDOUT, payload))

    async def acknowledge(self) -> None:
        """Say that all is well so far."""
        await self.send(_OK)

    async def complain(self, what: bytes, words: str) -> None:
        """Say in a line what went wrong with what, and count it."""
        self.failures += 1
        line = b"scp: " + (what[:LONGEST_NAME] + b": " if what else b"") + words.encode()
        await self.send(bytes((_ERROR,)) + _CONTROL.sub(_visible, line)[:_LONGEST_ERROR] + b"\n")

    async def fail(self, what: bytes, error: FileFailed) -> None:
        """Say what a file operation failed with."""
        await self.complain(what, error.public)

    def abandon(self, words: str) -> NoReturn:
        """End in the midst of a file, where nothing that is said would be taken for words.

        Raises:
            ScpEnded: always.
        """
        self.failures += 1
        self._channel.say(f"bastion: error: {words}")
        raise ScpEnded

    async def answer(self) -> bool:
        """Wait for the client's answer; False when it says that something went wrong.

        Raises:
            ScpEnded: the client gives up, or has gone.
        """
        kind = await self.byte()
        if kind == _OK[0]:
            return True
        self.failures += 1
        if kind in {_ERROR, _FATAL}:
            await self.line()
        if kind != _ERROR:
            raise ScpEnded
        return False

    async def byte(self) -> int:
        """Return the client's next byte.

        Raises:
            ScpEnded: there is none.
        """
        if not await self.more():
            raise ScpEnded("the client ended in the midst of the protocol")
        self._at += 1
        return self._held[self._at - 1]

    async def line(self) -> bytes:
        """Return what the client sends up to the next end of a line.

        Raises:
            ScpEnded: there is none, or it is overly long.
        """
        pieces: list[bytes] = []
        left = LONGEST_LINE
        while await self.more():
            end = self._held.find(b"\n", self._at, self._at + left)
            if end >= 0:
                pieces.append(self._held[self._at : end])
                self._at = end + 1
                return b"".join(pieces)
            piece = self._take(left)
            pieces.append(piece)
            left -= len(piece)
            if not left:
                break
        raise ScpEnded("the client ended in the midst of a line" if left else "overly long line")

    async def contents(self, size: int) -> AsyncIterator[bytes]:
        """Give the `size` bytes that the client sends now, in large pieces.

        Raises:
            ScpEnded: there are less.
        """
        gathered: list[bytes] = []
        length = 0
        while size:
            if not await self.more():
                raise ScpEnded("the client ended in the midst of a file")
            piece = self._take(min(size, PIECE - length))
            gathered.append(piece)
            length += len(piece)
            size -= len(piece)
            if length == PIECE or not size:
                yield b"".join(gathered)
                gathered, length = [], 0

    async def more(self) -> bool:
        """Wait until the client has sent more than was taken; False when nothing more will come."""
        while self._at == len(self._held):
            event = None if self._ended else await anext(self._events, None)
            if event is None or isinstance(event, Eof):
                self._ended = True
                return False
            if isinstance(event, Data):
                self._held, self._at = event.payload, 0
        return True

    def _take(self, most: int) -> bytes:
        taken = self._held[self._at : self._at + most]
        self._at += len(taken)
        return taken


def on_one_line(name: bytes) -> bytes:
    r"""Return a name as OpenSSH writes one that would end the line: with `\^J` for it, and the backslashes doubled."""
    return name if b"\n" not in name else name.replace(b"\\", b"\\\\").replace(b"\n", b"\\^J")


def _visible(character: re.Match[bytes]) -> bytes:
    return b"\\^" + bytes((character[0][0] ^ 0x40,))


def checked(path: bytes) -> bytes:
    """Return the path, if it can be one.

    Raises:
        FileFailed: it cannot.
    """
    if not path:
        raise FileFailed("no such file", kind="no-such-file")
    if len(path) > LONGEST_PATH:
        raise FileFailed("the name is too long")
    return path
