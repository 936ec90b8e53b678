"""The room that is left on the transcripts' volume, and the reserve in which no new session begins."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from bastion.config.values import size_in_words
from bastion.errors import RecordingFailed

DEFAULT_RESERVE_BYTES: Final = 2**30
DEFAULT_RESERVE_SHARE: Final = 0.05
MAX_SILENT_SECONDS: Final = 30.0  # without a look, which is taken every half second: the volume hangs
_HINT: Final = "tell whoever runs the bastion: make room in [audit] directory; sessions that run go on"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a volume: what this process may still write, and what of it is the reserve."""

    free: int
    reserve: int

    @property
    def is_low(self) -> bool:
        """Whether only the reserve is left, so that no new session begins."""
        return self.free < self.reserve

    @property
    def is_scarce(self) -> bool:
        """Whether little more than the reserve is left."""
        return self.free < 2 * self.reserve

    def __str__(self) -> str:
        return f"{size_in_words(self.free)} free, {size_in_words(self.reserve)} in reserve"


def measure(folder: Path, reserve: int | None) -> Room:
    """Look at the volume of a folder; blocks, on a network file system for long.

    `reserve` None is 1 GiB, or 5 % of a volume of less than 20 GiB.

    Raises:
        OSError: it cannot be looked at.
    """
    volume = os.statvfs(folder)
    if reserve is None:
        reserve = min(DEFAULT_RESERVE_BYTES, int(volume.f_blocks * volume.f_frsize * DEFAULT_RESERVE_SHARE))
    return Room(volume.f_bavail * volume.f_frsize, reserve)


class Volume:
    """What was seen last of the volume of one folder; `room` is None before the first look."""

    def __init__(self, folder: Path, reserve: int | None) -> None:
        self.room: Room | None = None
        self._folder = folder
        self._reserve = reserve
        self._problem: OSError | None = None
        self._looked_at = time.monotonic()

    def look(self) -> None:
        """Measure the room that is left; blocks. A change to the reserve and back is logged."""
        was_low = self.room is not None and self.room.is_low
        try:
            self.room, self._problem = measure(self._folder, self._reserve), None
        except OSError as error:
            self._problem = error
            return
        finally:
            self._looked_at = time.monotonic()
        if self.room.is_low and not was_low:
            log.error("no session is opened: the transcripts' volume has only its reserve left", room=str(self.room))
        elif was_low and not self.room.is_low:
            log.info("sessions are opened again: the transcripts' volume has room", room=str(self.room))

    def admit(self) -> None:
        """Look, and refuse a new session when only the reserve is left; blocks.

        Raises:
            RecordingFailed: it is, or the volume cannot be looked at.
        """
        self.look()
        self._refuse()

    def refuse_unless_ready(self) -> None:
        """Refuse by what was seen at the last look; never blocks.

        Raises:
            RecordingFailed: only the reserve was left, the volume could not be looked at, or it does not answer.
        """
        silent = time.monotonic() - self._looked_at
        if silent > MAX_SILENT_SECONDS:
            raise RecordingFailed(f"the volume of the transcripts has not answered for {silent:.0f} s", _HINT)
        self._refuse()

    def _refuse(self) -> None:
        if self._problem is not None:
            raise RecordingFailed(
                f"the volume of the transcripts cannot be looked at: {self._problem.strerror}",
                _HINT,
                detail=str(self._problem),
            )
        if self.room is not None and self.room.is_low:
            raise RecordingFailed(f"the volume of the transcripts has only its reserve left: {self.room}", _HINT)
