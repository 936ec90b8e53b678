"""Run `bastion` with processes of this machine for containers: for load and fuzzing, where no engine sets the pace.

`python -m tests.local_bastion serve --config FILE` is `bastion serve` but for the engine. LOCAL_BASTION_COMMAND
replaces the command of every session. SIGUSR1 logs `counts`: tasks, descriptors, resident KiB.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog
from asyncssh.connection import SSHConnection
from asyncssh.packet import PacketDecodeError

from bastion import app
from bastion.app.adapters import Adapters
from bastion.cli import main
from bastion.config import Settings
from bastion.model import Request, Target
from bastion.runtimes import Runtime
from bastion.runtimes.duties import Duty, DutyRecord, Reaped
from bastion.runtimes.process import ProcessExec, ProcessRuntime

STACK: Final = "mystack"
SERVICE: Final = "web"
COMMAND_VARIABLE: Final = "LOCAL_BASTION_COMMAND"
OWN_FRAMES: Final = "/bastion/"

log = structlog.get_logger("local")


class LocalRuntime(ProcessRuntime):
    """Local programs that are ended by their process group.

    The demo's own runtime looks through /proc for what has left the group, which takes 30 ms beside 1,000 programs. It
    still does so for what another run of the bastion has left.
    """

    def __init__(self, duties: DutyRecord | None) -> None:
        super().__init__(STACK, SERVICE, user="nobody" if os.geteuid() == 0 else None, duties=duties)
        self._command = os.environ.get(COMMAND_VARIABLE)
        self._groups: dict[str, ProcessExec] = {}

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[ProcessExec]:
        """Run the request, or the command that stands for every one."""
        if self._command is not None:
            request = replace(request, kind="exec", command=self._command)
        async with super().exec(target, request) as program:
            self._groups[request.uid] = program
            yield program

    async def reap(self, duty: Duty) -> Reaped:
        """Kill the process group of a session of this run; see the port."""
        if (program := self._groups.pop(duty.uid, None)) is None:
            return await super().reap(duty)
        if (process := program._process) is not None:  # noqa: SLF001 - the port has no name for it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return "ended"


class LocalAdapters(Adapters):
    """One runtime, whatever engine is asked for."""

    def __init__(self, duties: DutyRecord | None) -> None:
        self._runtime = LocalRuntime(duties)

    def __getitem__(self, engine: str) -> Runtime:
        return self._runtime

    def __iter__(self) -> Iterator[str]:
        return iter([self._runtime.name])

    def __len__(self) -> int:
        return 1

    def apply(self, settings: Settings) -> None:
        """Keep the runtime."""

    async def close(self) -> None:
        """Let go of nothing."""


def _build(settings: Settings, duties: DutyRecord | None = None) -> LocalAdapters:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _count)
    return LocalAdapters(duties)


def _count() -> None:
    gc.collect()
    resident = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    log.info("counts", tasks=len(asyncio.all_tasks()), descriptors=descriptors, resident_kib=resident)


_internal_error = SSHConnection.internal_error


def _note_error(connection: SSHConnection, exc_info: Any = None, error_logger: Any = None) -> None:
    """Log what asyncssh 2.24.1 hides at debug level, where the exception passed through code of the bastion's own.

    A packet that cannot be read is no fault of anybody's but its sender's: the connection ends either way.
    """
    error = (exc_info or sys.exc_info())[1]
    trace = error.__traceback__ if error is not None else None
    while trace is not None and not isinstance(error, PacketDecodeError):
        if OWN_FRAMES in trace.tb_frame.f_code.co_filename:
            log.error("exception in a callback", exc_info=error)
            break
        trace = trace.tb_next
    _internal_error(connection, exc_info, error_logger)


if __name__ == "__main__":
    app.build_runtimes = _build
    SSHConnection.internal_error = _note_error  # type: ignore[method-assign,assignment]
    main()
