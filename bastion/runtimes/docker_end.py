"""End all that a session left in its container, and say in the log what could not be ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from bastion.errors import RuntimeFailed
from bastion.model import Target

_LIMIT: Final = 8.0  # seconds that ending a session's processes may take
_STARTING: Final = 40  # looks at a program that has no pid yet
_ENDED: Final = (0.0, 0.02, 0.05, 0.1, 0.2)

State = Callable[[], Awaitable[dict[str, Any]]]

_log = structlog.get_logger(__name__)


async def end_all(
    target: Target,
    script: tuple[str, ...],
    uid: str,
    *,
    state: State,
    run: Callable[[tuple[str, ...], str | None], Awaitable[bytes]],
) -> None:
    """Run the ending script of session `uid`; as root too, where its own user may not end or see all of it.

    `state` asks the engine about the session's program, `run` runs a script as a user and returns its output.
    """
    log = _log.bind(session=uid, container=target.container_name)
    left = b""
    try:
        async with asyncio.timeout(_LIMIT):
            await _wait_until_started(state)
            while True:
                for user in (target.user, "0"):
                    left = (await run(script, user)).strip()
                    if not left:
                        break
                left = left.removesuffix(b"other").strip()
                if left or await _has_ended(state):
                    break
    except (RuntimeFailed, TimeoutError) as error:
        detail = (error.detail or error.public) if isinstance(error, RuntimeFailed) else "time is up"
        log.warning("not all processes known to have ended", error=detail)
        return
    if left:
        log.warning("processes are left in the container", left=left[:200].decode(errors="replace"))


async def _wait_until_started(state: State) -> None:
    """Wait until the program has a pid or has ended: one that starts later would not be found."""
    for _ in range(_STARTING):
        found = await state()
        if found.get("Pid") or found.get("ExitCode") is not None:
            return
        await asyncio.sleep(0.05)


async def _has_ended(state: State) -> bool:
    """Say whether the program itself is over; one that has its pid but not yet its environment was not found."""
    for pause in _ENDED:
        await asyncio.sleep(pause)
        if not (await state()).get("Running"):
            return True
    return False
