"""The answers of a helper shell as they arrive: told apart, held for whoever reads them, bounded, and failed or not."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files import words

HELD: Final = 512 * 1024  # bytes that wait for a reader before the container is held back
KEPT: Final = 2 * 2**20  # bytes of an answer that wait for a reader while others are read; of all together twice that
_WORDS_LIMIT: Final = 8192
_STATUS: Final = 16  # bytes behind a mark
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


class Answers:
    """Those that are on their way, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.waiting: deque[Answer] = deque()
        self.rest = b""  # what may be a mark that has begun, or was said by no helper
        self._unread: list[Answer] = []

    def expect(self, answer: Answer) -> None:
        """Let those before it come in whole, with a bound on what all of them hold."""
        if not answer.is_ahead:
            self._unread = [other for other in self._unread if other.size]
            held = sum(other.size for other in self._unread)
            for other in self.waiting:
                other.is_hurried = True
                if other.keep == KEPT:
                    other.keep = max(0, min(KEPT, 2 * KEPT - held))
        self.waiting.append(answer)

    def take(self, data: bytes) -> bytes:
        """Share out what has come; return what nobody has asked for.

        Raises:
            ValueError: it is no answer.
        """
        while data and self.waiting:
            data = self._share(self.waiting[0], data)
        return data

    def is_held_back(self) -> bool:
        """Whether what comes has to wait for the reader of the first."""
        return bool(self.waiting) and self.waiting[0].size > HELD and self._is_watched(self.waiting[0])

    def end(self, error: RuntimeFailed) -> None:
        """End all of them."""
        while self.waiting:
            self.waiting.popleft().end(error)

    def _is_watched(self, answer: Answer) -> bool:
        return all(other.is_ahead for other in self.waiting if other is not answer)

    def _share(self, answer: Answer, data: bytes) -> bytes:
        """Give an answer what is its own, and return what is the next one's."""
        is_watched = self._is_watched(answer)
        kept = len(answer.mark) - 1
        if self.rest:
            if len(data) > kept + _STATUS and answer.mark not in self.rest + data[:kept]:
                answer.add(self.rest, is_watched=is_watched)
            else:
                data = self.rest + data
            self.rest = b""
        at = data.find(answer.mark)
        if at < 0:
            answer.add(memoryview(data)[:-kept], is_watched=is_watched)
            self.rest = data[-kept:]
            return b""
        answer.add(memoryview(data)[:at], is_watched=is_watched)
        begin = at + len(answer.mark)
        end = data.find(b"\n", begin, begin + _STATUS)
        if end < 0:
            self.rest = data[at:]
            if len(self.rest) >= len(answer.mark) + _STATUS:
                raise ValueError(self.rest)
            return b""
        if answer.mark_found(data[begin:end]):
            self.waiting.popleft()
            if answer.size:
                self._unread.append(answer)
        return data[end + 1 :]
