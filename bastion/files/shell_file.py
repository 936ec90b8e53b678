"""A file that a helper shell holds open: read ahead as a stream, written in large pieces, wherever it is asked to."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files import Attributes, Changes, Mode, stat_lines
from bastion.files.answers import Answer
from bastion.files.changing import change
from bastion.files.helper import Helper

_FIRST: Final = 256 * 1024  # bytes that are asked for ahead at first
_AHEAD: Final = 8 * 2**20  # and at most
_HURRIED: Final = 2**20  # and while others wait for the same helper
_MOST: Final = 2**20  # bytes of one read, and of one piece of a write
_BLOCK: Final = 64 * 1024
_SMALL_BLOCK: Final = 4096
_BEHIND: Final = 128 * 1024  # bytes that are kept for a reader who is a little behind
_SKIPPED: Final = 256 * 1024  # bytes that are read and dropped rather than skipped
_FRESH: Final = 1.0  # seconds
_SYNC_LIMIT: Final = 120.0
_FURTHEST: Final = 2**63 - 1


@dataclass(slots=True)
class _Chunk:
    """Bytes that were asked for; `drop` are those at its beginning that nobody wants."""

    answer: Answer
    asked: int
    drop: int


class ShellFile:
    """Descriptor `slot` of a helper; see the port.

    Reads and writes may be asked for at once: they are done in their order, and what is to be written is on its way
    while the piece before it is not yet on the disk.
    """

    def __init__(self, helper: Helper, slot: int, mode: Mode, release: Callable[[], Awaitable[None]]) -> None:
        self._helper = helper
        self._slot = slot
        self._mode = mode
        self._release = release
        self._lock = asyncio.Lock()
        self._position: int | None = 0  # the descriptor's; None when nobody knows
        self._window = bytearray()
        self._begin = 0  # the window's place in the file
        self._chunks: deque[_Chunk] = deque()  # what was asked for and has not been read
        self._ahead = _FIRST
        self._end: tuple[int, float] | None = None  # where the file was found to end, and how long that is believed
        self._is_closed = False

    async def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes, but at most 1 MiB, and fewer at the end only; see the port."""
        length = min(length, _MOST)
        if not self._mode.read:
            raise FileFailed("not opened for reading", kind="permission-denied")
        if length <= 0 or not 0 <= offset <= _FURTHEST:
            return b""
        async with self._lock:
            self._check()
            try:
                return await self._read(offset, length)
            except (FileFailed, asyncio.CancelledError):
                self._forget()
                raise

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of it; see the port."""
        if not self._mode.write:
            raise FileFailed("not opened for writing", kind="permission-denied")
        if not 0 <= offset <= _FURTHEST - len(data):
            raise FileFailed("more than the container's file system takes in one file")
        view = memoryview(data)
        answers: list[Answer] = []
        for at in range(0, len(view), _MOST):
            async with self._lock:
                self._check()
                answers.append(await self._put(offset + at, view[at : at + _MOST]))
            if len(answers) > 1:
                await self._written(answers.pop(0))
        for answer in answers:
            await self._written(answer)

    async def stat(self) -> Attributes:
        """Return what it is now; see the port."""
        self._check()
        return stat_lines.attributes(await self._helper.do("stat", 1, paths=[self._name]))

    async def change(self, changes: Changes) -> None:
        """Change it; see the port."""
        self._check()
        async with self._lock:
            self._forget_if_resized(changes)
            await change(self._helper, self._name, changes, follow=True)

    async def sync(self) -> None:
        """Have it written to the disk; see the port."""
        self._check()
        await self._helper.do("sync", self._slot, limit=_SYNC_LIMIT)

    async def close(self) -> None:
        """Let go of it; see the port."""
        if self._is_closed:
            return
        self._is_closed = True
        self._forget()
        try:
            if self._helper.failure is None:
                await self._helper.do("close", self._slot)
        except RuntimeFailed:
            return  # with the helper its descriptors are gone
        finally:
            await self._release()

    @property
    def _name(self) -> bytes:
        return str(self._slot).encode()

    def _check(self) -> None:
        if self._is_closed:
            raise FileFailed("closed already")
        if self._helper.failure is not None:
            raise self._helper.failure

    async def _read(self, offset: int, length: int) -> bytes:
        if not self._begin <= offset <= self._begin + len(self._window) + _SKIPPED:
            self._forget()
            self._begin = offset
        while (missing := offset + length - self._begin - len(self._window)) > 0:
            if not self._chunks and not await self._begin_chunk(missing):
                break
            chunk = self._chunks[0]
            pieces = await chunk.answer.read(missing + chunk.drop)
            if not pieces:
                self._end_chunk(self._chunks.popleft())
                continue
            for piece in pieces:
                self._window += piece[chunk.drop :]
                chunk.drop = max(0, chunk.drop - len(piece))
            await self._ask_ahead()
        begin = offset - self._begin
        data = bytes(memoryview(self._window)[begin : begin + length])
        if not data:
            self._end = None  # it has been told; a file that grows has more next time
        if begin > 2 * _BEHIND:
            del self._window[: begin - _BEHIND]
            self._begin += begin - _BEHIND
        return data

    async def _begin_chunk(self, missing: int) -> bool:
        """Ask for what comes behind the window; False when that is known to be the end."""
        end = self._begin + len(self._window)
        if self._end is not None and self._end[0] == end and self._end[1] > _now():
            return False
        if self._position == end:
            await self._ask(_BLOCK, "-", 0, max(self._ahead, missing), 0)
            return True
        block = _SMALL_BLOCK if missing <= _FIRST else _BLOCK
        await self._ask(block, "<>" if self._mode.write else "<", end // block, missing, end % block)
        return True

    async def _ask_ahead(self) -> None:
        """Ask for the next chunk while most of the last is still to come, that the container does not wait for us."""
        last = self._chunks[-1]
        is_alone = len(self._chunks) == 1 and not (last.answer.is_over or last.answer.is_hurried)
        if is_alone and last.asked >= _HURRIED and 2 * last.answer.total > last.asked:
            self._grow(is_hurried=False)
            await self._ask(_BLOCK, "-", 0, self._ahead, 0, is_ahead=True)

    async def _ask(self, block: int, how: str, skip: int, size: int, drop: int, *, is_ahead: bool = False) -> None:
        count = -(-(size + drop) // block)
        self._position = None
        answer = await self._helper.ask(
            "get", self._slot, how, block, skip, count, most=count * block, is_ahead=is_ahead
        )
        self._chunks.append(_Chunk(answer, count * block, drop))

    def _end_chunk(self, chunk: "_Chunk") -> None:
        """Know where the descriptor is now."""
        end = self._begin + len(self._window)
        if chunk.answer.is_cut:
            self._give_up()
            self._ahead = _FIRST
        elif chunk.answer.total < chunk.asked:
            self._end = (end, _now() + _FRESH)
            self._position = None if chunk.drop or self._chunks else end
            self._give_up()
        elif not self._chunks:
            self._position = end
            self._grow(is_hurried=chunk.answer.is_hurried)

    def _grow(self, *, is_hurried: bool) -> None:
        self._ahead = min(2 * self._ahead, _HURRIED if is_hurried else _AHEAD)

    async def _put(self, offset: int, piece: memoryview) -> Answer:
        position = self._position
        self._forget()
        how, skip = "-", 0
        if self._mode.append:
            how = ">>" if self._mode.read else "-"
        elif position is None or offset < position:
            how, skip = "<>", offset
        else:
            skip = offset - position
        blocks = _blocks(len(piece))
        answer = await self._helper.ask("put", self._slot, how, len(piece) // blocks, skip, blocks, payload=piece)
        self._position = offset + len(piece)
        return answer

    async def _written(self, answer: Answer) -> None:
        try:
            await answer.whole()
        except FileFailed:
            self._position = None
            raise

    def _forget_if_resized(self, changes: Changes) -> None:
        if changes.size is not None:
            position = self._position
            self._forget()
            self._position = position

    def _forget(self) -> None:
        """Forget what was read ahead."""
        self._give_up()
        self._window = bytearray()
        self._ahead = _FIRST
        self._end = None
        self._position = None

    def _give_up(self) -> None:
        while self._chunks:
            self._chunks.popleft().answer.abandon()


def _blocks(length: int) -> int:
    """Return how many blocks a piece is written in: as many as divide it, so that reading and writing overlap."""
    for blocks in range(-(-length // _BLOCK), length // _SMALL_BLOCK + 1):
        if length % blocks == 0:
            return blocks
    return 1


def _now() -> float:
    return asyncio.get_running_loop().time()
