"""Handle unhandled exceptions: a log line and a count for each fault, and an orderly shutdown after a fatal one."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from bastion.errors import BastionError
from bastion.metrics import Metrics
from bastion.tasks import background

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger(__name__)


class Faults:
    """Installs itself as the event loop's exception handler; calls `stop` when an essential task has ended.

    `fatal` is the first error that ended an essential task.
    """

    def __init__(self, metrics: Metrics, stop: Callable[[], None]) -> None:
        self.fatal: BaseException | None = None
        self._metrics = metrics
        self._stop = stop
        asyncio.get_running_loop().set_exception_handler(self._handle)

    @asynccontextmanager
    async def running(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
        """Run an essential task beside the body of the `async with`."""
        task = background(work, name=name, essential=True)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def raise_fatal(self) -> None:
        """Raise the fatal error, if a fatal error stopped the server."""
        if self.fatal is not None:
            raise self.fatal

    def _handle(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context:
            # asyncio (CPython 3.11) then removes the listener from the loop for a second
            log.warning("no connection is accepted for a second", reason=error.strerror)
            return
        self._metrics.internal_error()
        task = context.get("task") or context.get("future")
        name = task.get_name() if isinstance(task, asyncio.Task) else None
        log.error("internal error", where=context["message"], task=name, exc_info=error)
        if context.get("essential"):
            self.fatal = self.fatal or error or BastionError(f"the task {name} ended")
            self._stop()
