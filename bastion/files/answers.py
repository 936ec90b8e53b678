"""One answer of a helper shell as it arrives: held for whoever reads it, bounded, and by its end a failure or not."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files import words

HELD: Final = 512 * 1024  # bytes that wait for a reader before the container is held back
_WORDS_LIMIT: Final = 8192
SMALL: Final = 64 * 1024  # bytes of a short answer


class Answer:
    """What a command gave, in pieces.

    Another command that waits behind it has the rest come without a reader: `keep` bytes are held then, and of what is
    more only the number is known. `limit` is how many seconds may pass without a byte, `most` how many may come.
    """

    def __init__(self, limit: float, keep: int, most: int, *, is_ahead: bool = False) -> None:
        self.token = secrets.token_hex(16)
        self.mark = f"\n{self.token} ".encode()
        self.limit = limit
        self.keep = keep
        self.most = most
        self.is_ahead = is_ahead  # it is asked for by who reads the one before
        self.emptied: Callable[[], None] | None = None  # called when a reader has taken what was held
        self.size = 0
        self.total = 0
        self.is_cut = False
        self.is_hurried = False  # whether another command waited for its end
        self.is_over = False
        self.is_failing = False
        self._wanted = 1
        self._pieces: deque[bytes | memoryview | None] = deque()  # None: a part ends
        self._words = b""
        self._error: FileFailed | RuntimeFailed | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def read(self, wanted: int) -> list[bytes | memoryview]:
        """Return what has come, when it is `wanted` bytes or all that comes; nothing at the end.

        Raises:
            FileFailed: the command failed.
            RuntimeFailed: the helper is no more.
        """
        await self._until(min(wanted, HELD // 2))
        pieces = [piece for piece in self._pieces if piece is not None]
        self._pieces.clear()
        self.size = 0
        self._give_room()
        return pieces

    async def part(self) -> bytes | None:
        """Return all of the next part; None at the end."""
        pieces: list[bytes | memoryview] = []
        while True:
            await self._until(1)
            if not self._pieces:
                return b"".join(pieces) if pieces else None
            piece = self._pieces.popleft()
            if piece is None:
                return b"".join(pieces)
            self.size -= len(piece)
            self._give_room()
            pieces.append(piece)

    async def whole(self) -> bytes:
        """Return all of a short answer."""
        try:
            return await self.part() or b""
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Hold nothing of it any more."""
        self.keep = 0
        self.size = 0
        self.is_cut = self.is_cut or bool(self._pieces)
        self._pieces.clear()
        self._give_room()

    def add(self, piece: bytes | memoryview, *, is_watched: bool) -> None:
        """Take what has come; it is watched while a reader is waited for.

        Raises:
            ValueError: that is more than was asked for.
        """
        if self.is_failing:
            self._words += bytes(piece)[: _WORDS_LIMIT - len(self._words)]
            return
        self.total += len(piece)
        if self.total > self.most:
            raise ValueError(self.total)
        if not piece:
            return
        if self.is_cut or (not is_watched and self.size + len(piece) > self.keep) or not self.keep:
            self.is_cut = True
            return
        self.size += len(piece)
        self._pieces.append(piece)
        if self.size >= self._wanted:
            self._wake()

    def mark_found(self, status: bytes) -> bool:
        """Take what stands behind a mark; say whether that ended the answer.

        Raises:
            ValueError: nothing that the script says.
        """
        match status:
            case b"0":
                self.end(None)
            case b"1":
                self.is_failing = True
            case b"." if self.is_failing:
                self.end(words.failed(self._words))
            case b"+":
                self._pieces.append(None)
                self._wake()
            case b"<":
                self._pieces.clear()
                self.size = self.total = 0
            case _:
                raise ValueError(status)
        return self.is_over

    def end(self, error: FileFailed | RuntimeFailed | None) -> None:
        """Let its reader know that nothing more comes."""
        self._error = error
        self.is_over = True
        self._wake()

    async def _until(self, wanted: int) -> None:
        """Wait for so many bytes, the end of a part or of all."""
        self._wanted = wanted
        while not self.is_over and self.size < wanted and not (self._pieces and self._pieces[-1] is None):
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if not self._pieces and self._error is not None:
            raise self._error

    def _give_room(self) -> None:
        if self.emptied is not None and self.size <= HELD // 2:
            self.emptied()
            self.emptied = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
