"""Run tasks that nobody awaits, handle each way a task ends, and bound how long a caller waits for a task."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from bastion.errors import BastionError

_WAIT_STEP_SECONDS: Final = 0.5

Result = TypeVar("Result")

log = structlog.get_logger(__name__)

_running: set[asyncio.Task[Any]] = set()  # an event loop holds its tasks weakly


def background(
    work: Coroutine[Any, Any, Result],
    *,
    name: str,
    essential: bool = False,
    expected: tuple[type[BaseException], ...] = (),
) -> asyncio.Task[Result]:
    """Run `work` as a task and handle its end, whether anybody awaits the task or not.

    - A task that returned or was cancelled ended as intended.
    - An `expected` exception is silent: the task's caller raises it, or nobody needs it.
    - Another BastionError is one warning with the task's name.
    - Everything else is a fault, given to the event loop's exception handler: in the server that is
      app/faults.py, which logs and counts it, and stops the server when the task is `essential`.
    """
    task = asyncio.create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(partial(_ended, essential=essential, expected=expected))
    return task


async def race(main: Coroutine[Any, Any, Result], beside: Coroutine[Any, Any, object], *, name: str) -> Result:
    """Run two coroutines and return the result of `main`; both have ended when this returns.

    - If `beside` returns first, `main` goes on.
    - If `beside` raises before `main` has ended, its exception is raised here.
    - Any other exception of either is handled as that of a background task.
    """
    first = background(main, name=name, expected=(BastionError,))
    second = background(beside, name=f"beside {name}", expected=(BastionError,))
    try:
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            second.result()
        return await first
    finally:
        first.cancel()
        second.cancel()
        await asyncio.wait((first, second))


@asynccontextmanager
async def unpaused_timeout(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """Act as asyncio.timeout, but do not count a pause of the whole process (SIGSTOP, a suspended machine).

    Otherwise every waiting task would time out as soon as the process goes on, although no task could run meanwhile.

    Raises:
        TimeoutError: the body of the `async with` has not ended after `seconds`.
    """
    loop = asyncio.get_running_loop()
    ticking: asyncio.TimerHandle | None = None

    def tick(expected: float) -> None:
        nonlocal ticking
        # The loop runs handles in the order of their times: after a pause, this handle runs before the deadline's
        # handle, and moves the deadline.
        pause = loop.time() - expected
        if pause > _WAIT_STEP_SECONDS and (when := deadline.when()) is not None and not deadline.expired():
            deadline.reschedule(when + pause)
        ticking = loop.call_later(_WAIT_STEP_SECONDS, tick, loop.time() + _WAIT_STEP_SECONDS)

    ticking = loop.call_later(_WAIT_STEP_SECONDS, tick, loop.time() + _WAIT_STEP_SECONDS)
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield deadline
    finally:
        if ticking is not None:
            ticking.cancel()


async def result_within(task: "asyncio.Task[Result]", seconds: float) -> Result:
    """Wait for a task's result; neither a timeout nor cancellation of the caller stops the task.

    A pause of the whole process (SIGSTOP, a suspended machine) counts as one step of half a second, because the task
    could not run during the pause.

    Raises:
        TimeoutError: the task has not ended after `seconds`.
    """
    loop = asyncio.get_running_loop()
    remaining = seconds
    while not task.done():
        if remaining <= 0:
            raise TimeoutError
        began = loop.time()
        await asyncio.wait({task}, timeout=min(remaining, _WAIT_STEP_SECONDS))
        remaining -= min(loop.time() - began, _WAIT_STEP_SECONDS)
    return task.result()


def _ended(task: asyncio.Task[Any], *, essential: bool, expected: tuple[type[BaseException], ...]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()  # also marks it as retrieved
    if error is not None and isinstance(error, expected):
        return
    if isinstance(error, BastionError) and not essential:
        log.warning("background task failed", task=task.get_name(), code=error.code, reason=error.public)
    elif error is not None:
        task.get_loop().call_exception_handler(
            {
                "message": "a background task ended unexpectedly",
                "exception": error,
                "task": task,
                "essential": essential,
            }
        )
