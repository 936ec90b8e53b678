"""Shut the bastion down: refuse new sessions, and give running sessions time to end by themselves."""

import asyncio
import contextlib
from typing import Final

import structlog

from bastion.errors import ShuttingDown
from bastion.sessions import Sessions

SECOND_SIGNAL_SECONDS: Final = 5.0
"""How long sessions may still run after a second signal."""

log = structlog.get_logger(__name__)


class Shutdown:
    """Counts the signals to stop: the first starts the drain, the second shortens the drain, the third ends the drain.

    `requested` is set by the first signal, or by `abandon` when an essential part of the bastion has failed.
    """

    def __init__(self, drain_seconds: float, sessions: Sessions) -> None:
        self.requested = asyncio.Event()
        self.reason: Final = ShuttingDown("the bastion is shutting down", "connect again in a moment")
        self._sessions = sessions
        self._limits = iter((drain_seconds, SECOND_SIGNAL_SECONDS))
        self._deadline = float("inf")
        self._timer: asyncio.Timeout | None = None

    def signal(self) -> None:
        """Handle one signal: refuse new sessions, and show every user how long their session may still run."""
        self._shorten(next(self._limits, 0.0))

    def abandon(self) -> None:
        """Stop without a drain, because a part that every session needs has failed."""
        self._shorten(0.0)

    def _shorten(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._sessions.refuse_new(self.reason)
        self._deadline = min(self._deadline, loop.time() + seconds)
        left = max(0, round(self._deadline - loop.time()))
        log.info("stopping", sessions=len(self._sessions.own()), drain_seconds=left)
        if left:
            self._sessions.tell(f"bastion: hint: the bastion is shutting down in {left} s; save your work and leave")
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(self._deadline)
        self.requested.set()

    async def drain(self) -> None:
        """Wait until the last session has ended by itself, or the drain's time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline) as self._timer:
                await self._sessions.wait_until_none()
        self._timer = None
