"""End all that a program of a session left in its container: the one road, at the session's end and for a late duty."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from bastion.errors import BastionError, ProcessesLeft, RuntimeFailed
from bastion.model import now
from bastion.runtimes import shell
from bastion.runtimes.duties import Duty, DutyRecord, Reaped

_ENDED: Final = b"ended"  # the ending script's last word
_OTHER: Final = re.compile(rb"other:([0-9]{1,10}:[0-9]{1,10})")
_MAX_OTHERS: Final = 8  # users as whom the script is run beside root: each is a program in the container
_CLOCK_SKEW_SECONDS: Final = 60.0  # between the clocks of the bastion that began a session and the one that ends it
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


def ending_script(duty: Duty) -> tuple[str, ...]:
    """Return the command that ends what a duty is about; see `shell.ending`."""
    age = (now() - duty.created_at).total_seconds() + _CLOCK_SKEW_SECONDS
    return shell.ending(duty.shell, duty.uid, round(max(age, _CLOCK_SKEW_SECONDS)))


async def end_all(
    duty: Duty,
    *,
    program: Program,
    run: Callable[[tuple[str, ...], str | None], Awaitable[bytes]],
    users: Sequence[str | None],
    may_be_anybody: bool,
) -> None:
    """Run the duty's ending script as each of `users`, until one may end and see all of it.

    `run` runs a script as a user and returns its output. With `may_be_anybody` the script is also run as each user who
    has processes that none of `users` may look into. All of it is done again while the program itself has not ended.

    Raises:
        ProcessesLeft: some processes live on.
        RuntimeFailed: nobody knows whether any do.
    """
    script = ending_script(duty)
    left: Sequence[bytes] = ()
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            await program.started()
            while True:
                left = await _end_as(script, run, users, may_be_anybody=may_be_anybody)
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


async def _end_as(
    script: tuple[str, ...],
    run: Callable[[tuple[str, ...], str | None], Awaitable[bytes]],
    users: Sequence[str | None],
    *,
    may_be_anybody: bool,
) -> Sequence[bytes]:
    """Run the script as the users and, where needed, as those whose processes they may not look into."""
    left: list[bytes] = []
    others: dict[str, None] = {}
    for user in users:
        left, seen = _left(await run(script, user))
        others |= seen
        if not left and not seen:
            return []
    for other in [*others][:_MAX_OTHERS] if may_be_anybody else []:
        left += _left(await run(script, other))[0]
    return left


def _left(output: bytes) -> tuple[list[bytes], dict[str, None]]:
    """Read the script's output: what is left, and the users who have processes that its own may not look into."""
    words = output.split()
    others = {found[1].decode(): None for word in words if (found := _OTHER.fullmatch(word))}
    if words[-1:] != [_ENDED]:
        return [*words, b"(the script did not come to its end)"], others
    return [word for word in words[:-1] if not _OTHER.fullmatch(word)], others


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
