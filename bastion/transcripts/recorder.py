"""Record one session: every event is in a write-ahead file before `record` returns, and in the age file soon after."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from bastion.errors import BastionError, RecordingFailed
from bastion.model import Data, Recorded
from bastion.transcripts.age_file import AgeFile
from bastion.transcripts.asciicast import Lines
from bastion.transcripts.layout import SUFFIX
from bastion.transcripts.wal import WriteAhead
from bastion.transcripts.wrapping import Recipient

_MEMBER: Final = 256 * 1024
_MEMBER_SECONDS: Final = 10
_BACKLOG: Final = 4 * _MEMBER
_PIECE: Final = 256 * 1024  # bytes of one event in one frame: with lines of 8 times that, the reader still takes it
ASK: Final = "tell whoever runs the bastion; nothing goes on unrecorded"


class Recorder:
    """One session's record; made by `Transcripts.open`.

    `uid` and `path` name the transcript. All of it runs on the event loop but `_add`, which the worker thread runs.
    """

    __slots__ = (
        "_backlog",
        "_began",
        "_drained",
        "_executor",
        "_held",
        "_lines",
        "_loop",
        "_on_failure",
        "_size",
        "_stored",
        "age",
        "closed",
        "complete",
        "durable",
        "failure",
        "listed",
        "uid",
        "wal",
    )

    def __init__(
        self,
        uid: str,
        folder: Path,
        recipients: Sequence[Recipient],
        executor: Executor,
        on_failure: Callable[[BastionError], None],
    ) -> None:
        self.uid = uid
        self.age = AgeFile(folder / f"{uid}{SUFFIX}", recipients)
        try:
            self.wal = WriteAhead(folder / uid, recipients)
        except OSError:
            os.close(self.age.descriptor)
            raise
        self.failure: RecordingFailed | None = None
        self.closed = False
        self.complete = False  # its signature says that it is finished
        self.durable = -1
        self.listed: tuple[int, ...] = ()
        self._executor = executor
        self._on_failure: Callable[[BastionError], None] | None = on_failure
        self._held: list[bytes] = []
        self._size = 0
        self._stored = 0
        self._began = 0.0
        self._backlog = 0
        self._drained: asyncio.Event | None = None

    @property
    def path(self) -> Path:
        """The transcript's file."""
        return self.age.path

    def stored_bytes(self) -> int:
        """Return the most bytes that this session's files held at a call, write-ahead files among them."""
        if not self.closed:
            self._stored = max(self._stored, self.age.size + sum(part.size for part in list(self.wal.parts)))
        return max(self._stored, self.age.size)

    async def record(self, event: Recorded) -> None:
        """Put one event on record; when this returns, its encrypted record has been accepted by `write`.

        Waits while the worker is more than 1 MiB behind.

        Raises:
            RecordingFailed: it could not be recorded, now or before; nothing may be delivered.
        """
        self._raise_if_failed()
        for piece in _pieces(event):
            self._put(self._lines.event(piece))
        while self._backlog > _BACKLOG and self.failure is None:
            await self._woken()
        self._raise_if_failed()

    async def mark(self, text: str) -> None:
        """Put a marker on record.

        Raises:
            RecordingFailed: as `record`.
        """
        self._raise_if_failed()
        self._put(self._lines.mark(text))

    def begin(self, lines: Lines, header: bytes) -> None:
        """Put the header on record and be ready for events.

        Raises:
            RecordingFailed: as `record`.
        """
        self._loop = asyncio.get_running_loop()
        self._lines = lines
        self._put(header)

    def cut_if_old(self) -> None:
        """End the member when its first line is 10 s old."""
        if self._size and self.failure is None and time.monotonic() - self._began >= _MEMBER_SECONDS:
            self._cut()

    async def end(self, words: str | None) -> None:
        """Put the totals, and why it ended where it did not end well, on record; wait until the worker has it all.

        Raises:
            RecordingFailed: as `record`.
        """
        if self.failure is None:
            self._put(self._lines.totals() + (self._lines.mark(words) if words else b""))
        if self.failure is None and self._size:
            self._cut()
        while self._backlog and self.failure is None:
            await self._woken()
        self._raise_if_failed()

    async def drained(self) -> None:
        """Wait until the worker has nothing of this session, whether it failed or not."""
        while self._backlog:
            await self._woken()

    def fail(self, error: OSError | BastionError, *, tell: bool) -> RecordingFailed:
        """Stop recording for good; `tell` calls on_failure, once."""
        if self.failure is None:
            words = (
                error.public if isinstance(error, BastionError) else f"the session cannot be recorded: {error.strerror}"
            )
            self.failure = RecordingFailed(words, ASK, detail=str(error))
            self._wake()
        if tell and self._on_failure is not None:
            told, self._on_failure = self._on_failure, None
            told(self.failure)
        return self.failure

    def close(self) -> None:
        """Close the files."""
        self.closed = True
        self.wal.close()
        if self.age.descriptor >= 0:
            os.close(self.age.descriptor)
            self.age.descriptor = -1

    def _put(self, lines: bytes) -> None:
        provisional = self._lines.provisional()
        if not lines and not provisional:
            return
        try:
            self.wal.append(lines, provisional)
        except OSError as error:
            raise self.fail(error, tell=False) from error
        if lines:
            self._began = self._began if self._held else time.monotonic()
            self._held.append(lines)
            self._size += len(lines)
            if self._size >= _MEMBER:
                self._cut()

    def _cut(self) -> None:
        generation, lines = self.wal.generation, b"".join(self._held)
        self._held, self._size = [], 0
        try:
            self.wal.step(self._lines.count)
            if provisional := self._lines.provisional():
                self.wal.append(b"", provisional)
        except OSError as error:
            raise self.fail(error, tell=False) from error
        self._backlog += len(lines)
        future = self._loop.run_in_executor(self._executor, self.age.add, generation, lines)
        future.add_done_callback(lambda done: self._added(len(lines), done))

    def _added(self, size: int, done: asyncio.Future[None]) -> None:
        self._backlog -= size
        error = done.exception()
        if isinstance(error, OSError):
            self.fail(error, tell=True)
        elif error is not None:
            self._loop.call_exception_handler({"message": "a transcript's worker failed", "exception": error})
            self.fail(RecordingFailed("the session cannot be recorded: internal error"), tell=True)
        if self._backlog <= _BACKLOG // 2:
            self._wake()

    def _raise_if_failed(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _woken(self) -> None:
        self._drained = self._drained or asyncio.Event()
        await self._drained.wait()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None


def _pieces(event: Recorded) -> Sequence[Recorded]:
    """Return the event, or several of it where its payload is large: a WebSocket message may have 4 MiB."""
    if not isinstance(event, Data) or len(event.payload) <= _PIECE:
        return (event,)
    return [Data(event.stream, event.payload[start : start + _PIECE]) for start in range(0, len(event.payload), _PIECE)]
