"""Run a process in a container as containerd's shim does: detached by runc, on pipes or a console, and reaped here."""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import tempfile
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

_PR_SET_CHILD_SUBREAPER: Final = 36


class NotStarted(Exception):
    """The process could not be started; the text is runc's own."""


def adopt_orphans() -> None:
    """Make this process the parent of what runc leaves behind, so that its exit status can be waited for.

    Raises:
        OSError: the kernel refused.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


async def read(descriptor: int, size: int) -> bytes:
    """Read up to size bytes from a non-blocking descriptor; empty at its end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            await _until(loop.add_reader, loop.remove_reader, descriptor)
        except OSError as error:
            if error.errno != errno.EIO:  # a console whose programs have all closed it
                raise
            return b""


async def write(descriptor: int, payload: bytes) -> None:
    """Write all of the payload to a non-blocking descriptor.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    loop = asyncio.get_running_loop()
    rest = memoryview(payload)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            await _until(loop.add_writer, loop.remove_writer, descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _until(add: Callable[..., None], remove: Callable[[int], bool], descriptor: int) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(descriptor, _settle, ready)
    try:
        await ready
    finally:
        remove(descriptor)


class Process:
    """A process that runs in a container; the descriptors are ours, non-blocking, None where there is no stream."""

    def __init__(self, pid: int, stdin: int | None, outputs: dict[int, int], *, console: bool) -> None:
        self.pid = pid
        self.stdin = stdin
        self.outputs = outputs
        self._console = console
        self._pidfd = os.pidfd_open(pid)
        for descriptor in (*outputs.values(), *([] if stdin is None else [stdin])):
            os.set_blocking(descriptor, False)
        self._ended = asyncio.create_task(self._reap())

    async def wait(self) -> int:
        """Return its exit status, 128+n where signal n ended it."""
        return await asyncio.shield(self._ended)

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of its console."""
        if self._console:
            fcntl.ioctl(self.outputs[1], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_input(self) -> None:
        """Give it the end of its input; a console has no such thing."""
        if self.stdin is not None and not self._console:
            os.close(self.stdin)
            self.stdin = None

    def kill(self) -> None:
        """Kill it, and nothing else."""
        if not self._ended.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of its streams."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None
        for descriptor in self.outputs.values():
            os.close(descriptor)
        self.outputs = {}

    async def _reap(self) -> int:
        loop = asyncio.get_running_loop()
        await _until(loop.add_reader, loop.remove_reader, self._pidfd)
        _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it has ended
        os.close(self._pidfd)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


class Runc:
    """The runc under the tests' Docker Engine, by the engine's run folder."""

    def __init__(self, run: Path) -> None:
        self._root = run / "exec/runtime-runc/moby"
        self._bundles = run / "exec/containerd/daemon/io.containerd.runtime.v2.task/moby"

    def pid(self, container: str) -> int:
        """Return the pid of a container's first process, as this machine counts.

        Raises:
            FileNotFoundError: the container does not run.
        """
        pid = json.loads((self._root / container / "state.json").read_text())["init_process_pid"]
        assert isinstance(pid, int)
        return pid

    async def start(self, container: str, command: Sequence[str], *, tty: bool, streams: set[int]) -> Process:
        """Start a command in a running container, with the streams (0, 1, 2) that are asked for.

        Raises:
            NotStarted: runc refused.
            FileNotFoundError: the container does not run.
        """
        spec = json.loads((self._bundles / container / "config.json").read_text())["process"]
        spec |= {"args": list(command), "terminal": tty}
        spec.pop("consoleSize", None)
        if tty:
            spec["env"] = [word for word in spec["env"] if not word.startswith("TERM=")] + ["TERM=xterm"]
        with tempfile.TemporaryDirectory(prefix="runc-") as folder:
            (Path(folder) / "process.json").write_text(json.dumps(spec))
            start = self._on_console if tty else self._on_pipes
            return await start(Path(folder), container, streams)

    async def _on_pipes(self, folder: Path, container: str, streams: set[int]) -> Process:
        theirs: dict[int, int] = {}
        ours: dict[int, int] = {}
        for stream in streams:
            reading, writing = os.pipe()
            theirs[stream], ours[stream] = (reading, writing) if stream == 0 else (writing, reading)
        try:
            pid = await self._run(folder, container, [theirs.get(n, asyncio.subprocess.DEVNULL) for n in range(3)])
        except BaseException:
            for descriptor in ours.values():
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs.values():
                os.close(descriptor)
        return Process(pid, ours.pop(0, None), ours, console=False)

    async def _on_console(self, folder: Path, container: str, streams: set[int]) -> Process:
        path = str(folder / "console")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            pid = await self._run(folder, container, [asyncio.subprocess.DEVNULL] * 3, "--console-socket", path)
            with listener.accept()[0] as sender:  # runc has sent it before it ended
                (console,) = socket.recv_fds(sender, 4096, 1)[1]
        return Process(pid, os.dup(console) if 0 in streams else None, {1: console}, console=True)

    async def _run(self, folder: Path, container: str, streams: list[int], *options: str) -> int:
        log, number = folder / "log", folder / "pid"
        runc = await asyncio.create_subprocess_exec(
            *("runc", "--root", str(self._root), "--log", str(log), "--log-format", "json", "exec", "--detach"),
            *("--process", str(folder / "process.json"), "--pid-file", str(number), *options, container),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
        )
        if await runc.wait() != 0:
            raise NotStarted(_last_error(log))
        return int(number.read_text())


def _last_error(log: Path) -> str:
    words = "unknown"
    with contextlib.suppress(FileNotFoundError):
        for line in log.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if entry["level"] == "error":
                words = str(entry["msg"])
    return words
