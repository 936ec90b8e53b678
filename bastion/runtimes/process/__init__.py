"""The demo's runtime: a local shell in a session of its own, at a terminal or on pipes, as an unprivileged user."""

import asyncio
import contextlib
import errno
import fcntl
import os
import platform
import pwd
import shutil
import signal
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from bastion.errors import ConfigurationError, NoShell, OtherEngine, ProcessesLeft, RuntimeFailed
from bastion.model import STDERR, STDOUT, Data, Eof, Event, Exit, Request, Resize, Signal, Target
from bastion.runtimes import shell
from bastion.runtimes.dialling import SocketConnection, by_socket
from bastion.runtimes.duties import Duty, DutyRecord, Reaped, Unrecorded
from bastion.runtimes.ending import discharge
from bastion.runtimes.process.end import end_all
from bastion.tasks import background

_PIECE: Final = 64 * 1024
_GRACE: Final = 2.0  # seconds in which children of an ended program may still write, as in the Docker Engine
_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

# The first terminal that the leader of a Unix session opens becomes its controlling one.
_AT_TERMINAL: Final = 'exec "$@" <>"$0" >&0 2>&1'

_log = structlog.get_logger(__name__)


class ProcessRuntime:
    """One service, which is a shell on this machine; as root it runs as `user`, or as nobody.

    Raises:
        ConfigurationError: there is no such user, or only root could become it.
    """

    name = "process"

    def __init__(self, stack: str, service: str, *, user: str | None, duties: DutyRecord | None = None) -> None:
        self._place = (stack, service)
        self._duties = duties or Unrecorded()
        root = os.geteuid() == 0
        try:
            self._account = pwd.getpwnam(user or "nobody") if user or root else pwd.getpwuid(os.geteuid())
        except KeyError as error:
            raise ConfigurationError(f"there is no user {user!r} here", "name one of /etc/passwd") from error
        if not root and self._account.pw_uid != os.geteuid():
            raise ConfigurationError(f"only root can run programs as {user!r}", "leave the user out")
        self._identity: dict[str, Any] = {}
        if root:
            self._identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}

    async def services(self) -> list[tuple[str, str]]:
        """List the one service."""
        return [self._place]

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        """Return the one target when it is asked for."""
        if (stack, service) != self._place or container not in (None, service):
            return []
        identity = platform.node()
        return [Target(self.name, stack, service, identity, container_name=service, containers=(service,))]

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator["ProcessExec"]:
        """Run the request's shell or command; see the port."""
        chosen = target.shell or next((name for name in ("bash", "sh") if shutil.which(name, path=_PATH)), None)
        if chosen is None or shutil.which(chosen, path=_PATH) is None:
            raise NoShell("this machine has no such shell", "name another for the stack", detail=str(chosen))
        duty = Duty(request.uid, self.name, _boot(), target.container_id, target.container_name, chosen)
        running = ProcessExec(terminal=request.terminal is not None)
        try:
            await self._duties.add(duty)
            if request.terminal:
                running.resize(request.terminal.columns, request.terminal.rows)
            await running.start(
                shell.command_line(chosen, request), self._environment(request), self._options(), self._account.pw_uid
            )
            yield running
        finally:
            running.close()
            await asyncio.shield(self._end(duty, running))

    async def reap(self, duty: Duty) -> Reaped:
        """End what a session left; see the port. A machine that was started anew runs nothing of before."""
        if duty.engine != _boot():
            if duty.container_id == platform.node():
                return "gone"
            raise OtherEngine(f"this is not the machine {duty.container_id}")
        if left := await end_all(duty.uid):
            raise ProcessesLeft("processes of the session are left", detail=" ".join(map(str, left)))
        return "ended"

    @asynccontextmanager
    async def dial(self, target: Target, host: str, port: int) -> AsyncIterator[SocketConnection]:
        """Connect from this machine; see the port."""
        async with by_socket(host, port, target.container_name) as connection:
            yield connection

    def archive(self, target: Target) -> None:
        """Return None: there is no engine."""

    async def faults(self) -> list[RuntimeFailed]:
        """Find none: what answers can run sessions."""
        return []

    async def ping(self) -> str:
        """Say what this is."""
        return f"local processes of {self._account.pw_name} on {platform.node()}"

    async def close(self) -> None:
        """Let go of nothing: every exec has ended its own."""

    def _options(self) -> dict[str, Any]:
        home = self._account.pw_dir
        return {
            "cwd": home if os.path.isdir(home) else "/",  # noqa: PTH112 - a str is wanted
            "start_new_session": True,
            "preexec_fn": _heed_signals,
            **self._identity,
        }

    def _environment(self, request: Request) -> dict[str, str]:
        account = self._account
        own = {"PATH": _PATH, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
        return {**own, **shell.environment(request)}

    async def _end(self, duty: Duty, running: "ProcessExec") -> None:
        await discharge(self._duties, duty, self.reap(duty))
        await running.reap()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _heed_signals() -> None:
    """Undo, in the child, what a bastion in the background was told to ignore: a shell there could not trap it."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class ProcessExec:
    """A local program; it is read from only as fast as its reader asks."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._process: asyncio.subprocess.Process | None = None
        self._over = asyncio.Event()
        self._wake = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._line_open = False
        self._child_ends: tuple[int, ...] = ()
        if terminal:
            self._input, self._slave = os.openpty()
            self._output = {self._input: STDOUT}
        else:
            ends = (*os.pipe(), *os.pipe(), *os.pipe())
            self._child_ends = (ends[0], ends[3], ends[5])
            self._input = ends[1]
            self._output = {ends[2]: STDOUT, ends[4]: STDERR}
        self._open = {self._input, *self._output}
        for descriptor in self._open:
            os.set_blocking(descriptor, False)

    async def start(
        self, arguments: tuple[str, ...], variables: dict[str, str], options: dict[str, Any], uid: int
    ) -> None:
        """Start the program in a Unix session of its own."""
        if self._terminal:
            os.fchown(self._slave, uid, -1)
            words = ("/bin/sh", "-c", _AT_TERMINAL, os.ttyname(self._slave), *arguments)
            ends: tuple[int, ...] = (asyncio.subprocess.DEVNULL,) * 3
        else:
            words, ends = arguments, self._child_ends
        try:
            self._process = await asyncio.create_subprocess_exec(
                *words, stdin=ends[0], stdout=ends[1], stderr=ends[2], env=variables, **options
            )
        finally:
            self._close_child_ends()
        self._closing = background(self._follow(self._process), name="process exit")

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the output in order; see the port."""
        while self._output:
            for descriptor, stream in list(self._output.items()):
                piece = self._take(descriptor)
                if piece:
                    yield Data(stream, piece)
                elif piece is not None:
                    del self._output[descriptor]
            if self._output and not await self._readable():
                return
        await self.wait()

    async def send(self, event: Event) -> None:
        """Deliver one event; what comes after the program's end is dropped."""
        match event:
            case Data(payload=payload):
                self._line_open = bool(payload) and payload[-1:] not in (b"\r", b"\n")
                await self._write(payload)
            case Eof() if self._terminal:
                await self._write(b"\x04\x04" if self._line_open else b"\x04")
            case Eof():
                self._close(self._input)
            case Resize(columns=columns, rows=rows) if self._terminal:
                self.resize(columns, rows)
            case Signal(name=name) if name in shell.SIGNALS:
                self._signal(getattr(signal, f"SIG{name}"))
            case Resize() | Signal():
                return

    async def wait(self) -> Exit:
        """Return how the program ended; see the port."""
        assert self._process is not None  # noqa: S101 - start() comes first
        status = await self._process.wait()
        if status < 0:
            return Exit(128 - status, signal.Signals(-status).name.removeprefix("SIG"))
        return Exit(status)

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size; one outside 1…65535 is none."""
        if 0 < columns < 2**16 and 0 < rows < 2**16 and self._input in self._open:
            fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Close our ends, and the child's where it was never started: a terminal's program is hung up by it."""
        self._close_child_ends()
        for descriptor in list(self._open):
            self._close(descriptor)
        if self._terminal and self._slave >= 0:
            os.close(self._slave)
            self._slave = -1
        if self._closing is not None:
            self._closing.cancel()

    def _close_child_ends(self) -> None:
        for descriptor in self._child_ends:
            os.close(descriptor)
        self._child_ends = ()

    async def reap(self) -> None:
        """Wait a little for the ended program's status, so that no child watcher outlives the exec."""
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._process.wait()

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if self._terminal:  # held open until now, so that the master does not end before the program has opened it
            os.close(self._slave)
            self._slave = -1
        await asyncio.sleep(_GRACE)
        self._over.set()
        self._wake.set()

    def _take(self, descriptor: int) -> bytes | None:
        """Return what is there, b"" at the end, None when there is nothing yet."""
        try:
            return os.read(descriptor, _PIECE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EIO, errno.EBADF):  # how a terminal's end is told
                return b""
            raise

    async def _readable(self) -> bool:
        """Wait for output; say False when the program is gone and what it left behind writes nothing."""
        if self._over.is_set():
            return False
        self._wake.clear()
        loop = asyncio.get_running_loop()
        watched = [descriptor for descriptor in self._output if descriptor in self._open]
        for descriptor in watched:
            loop.add_reader(descriptor, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            for descriptor in watched:
                loop.remove_reader(descriptor)
        return True

    async def _write(self, payload: bytes) -> None:
        view = memoryview(payload)
        while view and self._input in self._open:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                writable = asyncio.Event()
                asyncio.get_running_loop().add_writer(self._input, writable.set)
                try:
                    await writable.wait()
                finally:
                    asyncio.get_running_loop().remove_writer(self._input)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return

    def _signal(self, number: int) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        group = self._process.pid
        if self._terminal:
            group = struct.unpack("i", fcntl.ioctl(self._input, termios.TIOCGPGRP, b"\0" * 4))[0] or group
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError) as error:
            _log.info("signal not delivered", error=str(error))

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)
