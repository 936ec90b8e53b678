"""Let others follow a live session: each by a bounded ring, which loses what its reader is too slow for."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bastion.errors import LimitReached
from bastion.model import STDIN, Data, Event, Resize

MOST_WATCHERS: Final = 8
MOST_FRAMES: Final = 1024
MOST_BYTES: Final = 2**20  # of one watcher's ring


@dataclass(frozen=True, slots=True)
class Lost:
    """So many frames are missing here: the watcher was too slow."""

    frames: int


class Watcher:
    """One watcher's ring: what was shown since the last `take`, the newest kept when it is full."""

    def __init__(self) -> None:
        self._frames: deque[Data | Resize] = deque()
        self._bytes = 0
        self._lost = 0
        self._ended = False
        self._arrived = asyncio.Event()

    def put(self, frame: Data | Resize) -> None:
        """Add a frame; the oldest make room and are counted as lost. Never waits."""
        self._frames.append(frame)
        self._bytes += _size(frame)
        while len(self._frames) > MOST_FRAMES or (self._bytes > MOST_BYTES and len(self._frames) > 1):
            self._bytes -= _size(self._frames.popleft())
            self._lost += 1
        self._arrived.set()

    def end(self) -> None:
        """Say that nothing more will come."""
        self._ended = True
        self._arrived.set()

    async def take(self) -> Data | Resize | Lost | None:
        """Wait for the next frame; None when the session has ended and all of it was taken."""
        while not self._frames and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return Lost(lost)
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._bytes -= _size(frame)
        return frame


class Watchers:
    """All who watch one session."""

    def __init__(self) -> None:
        self._watchers: tuple[Watcher, ...] = ()
        self._ended = False

    def publish(self, event: Event) -> None:
        """Show an event to every watcher: what the program wrote, and the terminal's size; never what was typed."""
        if self._watchers and ((isinstance(event, Data) and event.stream != STDIN) or isinstance(event, Resize)):
            for watcher in self._watchers:
                watcher.put(event)

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Follow the session from now on, for as long as the context lasts.

        Raises:
            LimitReached: as many watch it as may.
        """
        if len(self._watchers) >= MOST_WATCHERS:
            raise LimitReached(f"{MOST_WATCHERS} watch this session already", "try again when one has left")
        watcher = Watcher()
        if self._ended:
            watcher.end()
        self._watchers = (*self._watchers, watcher)
        try:
            yield watcher
        finally:
            self._watchers = tuple(other for other in self._watchers if other is not watcher)

    def end(self) -> None:
        """Tell every watcher, and those who still come, that the session has ended."""
        self._ended = True
        for watcher in self._watchers:
            watcher.end()


def _size(frame: Data | Resize) -> int:
    return len(frame.payload) if isinstance(frame, Data) else 0
