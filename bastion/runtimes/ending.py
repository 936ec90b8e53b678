"""End all that a program of a session left in its container: the one road, at the session's end and for a late duty."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from bastion.errors import BastionError, ProcessesLeft, RuntimeFailed
from bastion.runtimes.duties import Duty, DutyRecord, Reaped

ENDED: Final = b"ended"  # the ending script's last word; without it the script was itself ended
OTHERS: Final = b"other"  # its word for processes that its user may not look into

_LIMIT_SECONDS: Final = 8.0  # that ending a program's processes may take

_log = structlog.get_logger(__name__)


class Program(Protocol):
    """The session's own program, as far as its engine tells."""

    async def started(self) -> None:
        """Wait, within bounds, until it runs or has ended: one that starts later would not be found."""
        ...

    async def has_ended(self) -> bool:
        """Say whether it is over; one that has started but not yet its environment was not found."""
        ...


class ProgramOfTheDead:
    """A program whose bastion is no more: nobody tells when it starts or ends."""

    async def started(self) -> None:
        """Return at once."""

    async def has_ended(self) -> bool:
        """Return True: only its processes can be looked for."""
        return True


async def end_all(
    duty: Duty,
    script: tuple[str, ...],
    *,
    program: Program,
    run: Callable[[tuple[str, ...], str | None], Awaitable[bytes]],
    users: Sequence[str | None],
) -> None:
    """Run the duty's ending script as each of `users`, until one may end and see all of it.

    `run` runs a script as a user and returns its output. It is run again while the program itself has not ended.

    Raises:
        ProcessesLeft: some processes live on.
        RuntimeFailed: nobody knows whether any do.
    """
    left: Sequence[bytes] = ()
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            await program.started()
            while True:
                for user in users:
                    left, others = _left(await run(script, user))
                    if not left and not others:
                        break
                if left or await program.has_ended():
                    break
    except TimeoutError as error:
        raise RuntimeFailed(
            f"processes of {duty.container_name} were not ended in {_LIMIT_SECONDS:.0f} s", detail="time is up"
        ) from error
    if left:
        raise ProcessesLeft(
            f"processes of the session are left in {duty.container_name}",
            detail=ascii(b" ".join(left)[:200].decode(errors="replace"))[1:-1],
        )


def _left(output: bytes) -> tuple[list[bytes], bool]:
    """Read the script's output: what is left, and whether there are processes that its user may not look into."""
    words = output.split()
    others = OTHERS in words
    if words[-1:] != [ENDED]:
        return [*words, b"(the script did not come to its end)"], others
    return [word for word in words[:-1] if word != OTHERS], others


async def discharge(record: DutyRecord, duty: Duty, ending: Coroutine[Any, Any, Reaped]) -> None:
    """Await what ends a program's processes, and put on record how it went; raises nothing of ours."""
    try:
        await ending
    except RuntimeFailed as error:
        _log.warning("not all processes known to have ended", session=duty.uid, container=duty.container_name,
                     error=error.detail or error.public)  # fmt: skip
        record.failed(duty, error)
    except Exception as error:
        record.failed(duty, BastionError("internal error", detail=type(error).__name__))
        raise
    else:
        record.done(duty)
