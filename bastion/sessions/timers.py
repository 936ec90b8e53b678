"""End a session that nobody uses, or that has lasted too long, and say so a minute before."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from bastion.errors import SessionEnded
from bastion.sessions.live import LiveSession
from bastion.tasks import background

_WARNING: Final = 60.0  # seconds before the end; half of a shorter time


@asynccontextmanager
async def timed(live: LiveSession, *, idle: float, longest: float, warn: Callable[[str], None]) -> AsyncIterator[None]:
    """End the session after `idle` seconds without traffic, and `longest` seconds from now; 0 is never.

    `warn` is given a line a minute before. The loop's own clock counts: a step of the machine's changes nothing.
    """
    task = background(_watch(live, idle, longest, warn), name=f"timers {live.session.uid}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(live: LiveSession, idle: float, longest: float, warn: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    last = loop.time() + longest if longest else float("inf")
    warned_of: float | None = None
    while True:
        quiet = live.active_at + idle if idle else float("inf")
        end = min(quiet, last)
        if end == float("inf"):
            return
        left = end - loop.time()
        if left <= 0:
            live.end(_too_long(longest) if last <= quiet else _unused(idle))
            return
        ahead = min(_WARNING, (longest if last <= quiet else idle) / 2)
        if left <= ahead and warned_of != end:
            warned_of = end
            why = "it may not last longer" if last <= quiet else "nobody uses it"
            warn(f"bastion: hint: this session ends in {_words(left)}: {why}")
        await asyncio.sleep(left - ahead if left > ahead else min(left, 1.0))


def _unused(idle: float) -> SessionEnded:
    return SessionEnded(
        f"nothing was typed or shown for {_words(idle)}, and that is the limit", "connect again when you need it"
    )


def _too_long(longest: float) -> SessionEnded:
    return SessionEnded(f"the session has lasted {_words(longest)}, and that is the limit", "connect again to go on")


def _words(seconds: float) -> str:
    """Say a time in the largest unit that divides it."""
    whole = max(1, round(seconds))
    for size, unit in ((3600, "hour"), (60, "minute")):
        if whole % size == 0:
            return f"{whole // size} {unit}{'s' if whole > size else ''}"
    return f"{whole} second{'s' if whole > 1 else ''}"
