"""End all that a session left in its container, and say in the log what could not be ended."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from bastion.errors import RuntimeFailed
from bastion.model import Target

_LIMIT: Final = 8.0  # seconds that ending a session's processes may take

_log = structlog.get_logger(__name__)


class Program(Protocol):
    """The session's own program, as far as its engine tells."""

    async def started(self) -> None:
        """Wait, within bounds, until it runs or has ended: one that starts later would not be found."""
        ...

    async def has_ended(self) -> bool:
        """Say whether it is over; one that has started but not yet its environment was not found."""
        ...


async def end_all(
    target: Target,
    script: tuple[str, ...],
    uid: str,
    *,
    program: Program,
    run: Callable[[tuple[str, ...], str | None], Awaitable[bytes]],
    users: Sequence[str | None],
) -> None:
    """Run the ending script of session `uid` as each of `users`, until one may end and see all of it.

    `run` runs a script as a user and returns its output. It is run again while the program itself has not ended.
    """
    log = _log.bind(session=uid, container=target.container_name)
    left = b""
    try:
        async with asyncio.timeout(_LIMIT):
            await program.started()
            while True:
                for user in users:
                    left = (await run(script, user)).strip()
                    if not left:
                        break
                left = left.removesuffix(b"other").strip()
                if left or await program.has_ended():
                    break
    except (RuntimeFailed, TimeoutError) as error:
        detail = (error.detail or error.public) if isinstance(error, RuntimeFailed) else "time is up"
        log.warning("not all processes known to have ended", error=detail)
        return
    if left:
        log.warning("processes are left in the container", left=left[:200].decode(errors="replace"))
