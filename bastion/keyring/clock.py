"""A clock that never goes back, also over restarts, so that setting the wall clock back revives no expired key."""

import time
from collections.abc import Callable
from pathlib import Path

from bastion.keyring.files import write_private

PERSIST_EVERY = 60.0  # seconds
SKEW = 300.0  # seconds behind which the wall clock is spoken of
_SIZE_LIMIT = 32


class Clock:
    """Gives seconds since the epoch: the wall clock, but never less than the highest time seen (threats A16).

    The highest time is kept in a small file. Between two readings it advances with the monotonic clock.
    """

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._mark = 0.0
        self._marked_at = time.monotonic()
        self._persisted = 0.0
        self._read_fault = ""
        self._write_fault = ""
        self._is_unread = False

    def load(self) -> None:
        """Take over the highest time that the file knows; what is wrong with the file is in `problems`."""
        self._read_fault, self._is_unread = "", False
        try:
            with self._path.open("rb") as file:
                text = file.read(_SIZE_LIMIT).strip()
        except FileNotFoundError:
            return
        except OSError as error:
            self._read_fault, self._is_unread = f"{self._path}: cannot be read: {error.strerror}", True
            return
        if not (text.isdigit() and text.isascii()):
            self._read_fault = f"{self._path}: was no number of seconds; it is written anew"
            return
        self._persisted = float(int(text))
        self._raise_to(max(self._persisted, self.now()))

    def now(self) -> float:
        """Return the present in seconds since the epoch, never less than before."""
        wall = self._wall()
        floor = self._mark + time.monotonic() - self._marked_at
        if wall >= floor:
            self._raise_to(wall)
            return wall
        return floor

    def persist(self) -> None:
        """Write the highest time once a minute at most; never overwrite a file that could not be read."""
        if self._is_unread:
            self.load()
        if self._is_unread:
            return
        now = self.now()
        if now - self._persisted < PERSIST_EVERY:
            return
        self._persisted = now
        try:
            write_private(self._path, b"%d\n" % now, durable=False)  # called on the event loop
            self._write_fault = ""
        except OSError as error:
            self._write_fault = f"{self._path}: cannot be written: {error.strerror}"

    @property
    def persisted(self) -> float:
        """The time that was last written down, in seconds since the epoch; 0 where none was."""
        return self._persisted

    @property
    def problems(self) -> list[str]:
        """What an operator must know: a file that does not serve, a wall clock that was set back."""
        behind = self.now() - self._wall()
        words = [fault for fault in (self._read_fault, self._write_fault) if fault]
        if behind > SKEW:
            words.append(
                f"{self._path}: the clock is {behind / 60:.0f} minutes behind the latest time seen;"
                " set the clock, or remove the file if the clock was once ahead"
            )
        return words

    def _raise_to(self, moment: float) -> None:
        self._mark, self._marked_at = moment, time.monotonic()
