"""One program run in a pod: its events both ways, its end, and why it ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from bastion.errors import ConnectionLost, ContainerEnded, NoShell, RuntimeFailed
from bastion.model import STDERR, Data, Eof, Event, Exit, Resize, Signal, Target
from bastion.runtimes.kubernetes.stream import Place, PodStream, Status, StreamBroken, status_of
from bastion.runtimes.shell import SIGNALS
from bastion.tasks import background

GRACE: Final = 0.4  # seconds in which a pod's last output may still come, and a better reason for its end

_KILLED: Final = 137
_LOOKS_AT_POD: Final = (0.0, 0.3, 0.5)
_QUIET: Final = 2.0  # seconds without output before one looks whether the program is over
_SELDOM: Final = 300.0
_HINT_AFTER: Final = 1.0  # seconds without output
_HINT: Final = (
    b"bastion: hint: this cluster (before Kubernetes 1.30) cannot pass on the end of standard input: a program that "
    b"waits for it waits for ever; end it with ^C, and give it its input as a file or an argument\n"
)
_FAREWELLS: Final = (b"exit\r\n", b"logout\r\n")
_NO_PROGRAM: Final = ("executable file not found", "no such file or directory", "permission denied")
_NO_CONTAINER: Final = (
    "container not found",
    "container not running",
    "container is not",
    "container_exited",
    "has stopped",
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Calls:
    """What a session asks of its pod: why that ended, if it did; a signal; whether the program is over; an end."""

    pod: Callable[[], Awaitable[str | None]]
    signal: Callable[[str], Awaitable[None]]
    is_over: Callable[[], Awaitable[bool]]
    end: Callable[[], Awaitable[None]]


class KubernetesExec:
    """A program running in a container of a pod; `notes` are lines that the user is told first."""

    def __init__(
        self, target: Target, stream: PodStream, calls: Calls, *, tty: bool, notes: Sequence[str] = ()
    ) -> None:
        self.stream = stream
        self.container_ended = False
        self.target = target
        self._calls = calls
        self._tty = tty
        self._notes = notes
        self._line_open = False
        self._reason: str | None = None
        self._result: asyncio.Future[Exit] | None = None
        self._spoke = False
        self._farewell = asyncio.Event()
        self._input_ended = asyncio.Event()
        self._hinted = False
        self._tasks: list[asyncio.Task[None]] = []

    def told(self, words: str) -> None:
        """Take what the watch says of the pod."""
        first, self._reason = self._reason is None, words
        self.container_ended = self.container_ended or words != "is being deleted"
        if first:
            asyncio.get_running_loop().call_later(GRACE, self.stream.abort)

    def started(self) -> None:
        """Begin to look, now and then, whether the program is over although its output is still held open."""
        self._tasks.append(background(self._mind(), name=f"mind {self.stream.place.pod}"))

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the output in order; see the port."""
        for note in self._notes:
            yield Data(STDERR, f"bastion: note: {note}\n".encode())
        while (data := await self._next()) is not None:
            self._spoke = True
            if self._tty and data.payload.endswith(_FAREWELLS):
                self._farewell.set()
            yield data
        await self.wait()

    async def send(self, event: Event) -> None:
        """Deliver one event; what comes after the program's end is dropped."""
        if self.stream.ended:
            return
        match event:
            case Data(payload=payload):
                self._line_open = bool(payload) and payload[-1:] not in (b"\r", b"\n")
                await self.stream.write(payload)
            case Eof() if self._tty:  # a terminal has no half-close; this is how its input ends
                await self.stream.write(b"\x04\x04" if self._line_open else b"\x04")
            case Eof() if self.stream.half_closes:
                await self.stream.write_eof()
            case Eof():
                self._input_ended.set()
            case Resize(columns=columns, rows=rows):
                if columns > 0 and rows > 0:
                    await self.stream.resize(columns, rows)
            case Signal(name=name) if name in SIGNALS:
                await self._signal(name)
            case Signal(name=name):
                _log.info("unknown signal dropped", signal=name[:32])

    async def wait(self) -> Exit:
        """Return how the program ended; see the port."""
        if self._result is None:
            self._result = asyncio.get_running_loop().create_future()
            try:
                self._result.set_result(await self._settle())
            except asyncio.CancelledError:
                self._result = None
                raise
            except RuntimeFailed as error:
                self._result.set_exception(error)
        return await asyncio.shield(self._result)

    async def close(self) -> None:
        """End the tasks that look after the program; the stream stays open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _next(self) -> Data | None:
        """Return the next output, or once, where the end of input was kept back and nothing comes, words for it."""
        try:
            if self._tty or self.stream.half_closes or self._hinted:
                return await self.stream.read()
            reading = asyncio.create_task(self.stream.read())
            ending = asyncio.create_task(self._input_ended.wait())
            try:
                await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await asyncio.wait((reading,), timeout=_HINT_AFTER)
                if reading.done():
                    return await reading
                self._hinted = True
                return Data(STDERR, _HINT)
            finally:
                reading.cancel()
                ending.cancel()
                await asyncio.gather(reading, ending, return_exceptions=True)
        except StreamBroken as error:
            await self._blame_pod()
            raise self._lost(str(error)) from error

    async def _settle(self) -> Exit:
        try:
            status = status_of(self.stream.status)
        except StreamBroken as error:
            await self._blame_pod()
            raise self._lost(str(error)) from error
        if status.code is None:
            failure = self._lost(status.message) if self._spoke else never_ran(status, self.stream.place)
            if not isinstance(failure, NoShell):
                await self._blame_pod()
            raise failure
        if status.code == _KILLED:
            await self._blame_pod()
        return Exit(status.code)

    async def _blame_pod(self) -> None:
        """Raise when the pod or its container ended under the program: that is known a moment later."""
        for pause in _LOOKS_AT_POD:
            await asyncio.sleep(pause)
            self._raise_if_ended()
            try:
                words = await self._calls.pod()
            except RuntimeFailed as error:
                raise self._lost(error.detail or error.public) from error
            if words is not None:
                self.told(words)
                await asyncio.sleep(GRACE)  # there may be a better reason
                self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if self._reason is not None:
            pod = self.target.pod_name
            raise ContainerEnded(f"the pod {pod} {self._reason}", "connect again when its service is back")

    def _lost(self, detail: str) -> ConnectionLost:
        return ConnectionLost(
            f"the connection to the cluster was lost before it said how the program in {self.target.pod_name} ended",
            "the program may have done its work or not; connect again and look",
            detail=detail,
        )

    async def _signal(self, name: str) -> None:
        try:
            await self._calls.signal(name)
        except RuntimeFailed as error:
            _log.warning("signal not delivered", pod=self.target.pod_name, error=error.detail or error.public)

    async def _mind(self) -> None:
        """Look whether the program is over although its status does not come: a child of it may hold its output.

        Then the rest is ended as at the session's end. Looks are rare, for each is a program in the container: the more
        so the longer the session lasts, and at once when a shell at a terminal has said that it ends.
        """
        pause, found_over = _QUIET, False
        while not self.stream.ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._farewell.wait()
            if self._farewell.is_set():
                self._farewell.clear()
                pause = _QUIET
                await asyncio.sleep(_QUIET)
            if self.stream.ended or self.stream.quiet < _QUIET:
                continue
            try:
                over = await self._calls.is_over()
                # one that has said nothing yet may not have begun
                if over and (self._spoke or found_over):
                    await self._calls.end()
            except RuntimeFailed as error:
                _log.info("no look at the program", pod=self.target.pod_name, error=error.detail or error.public)
                over = False
            pause = _QUIET if over and not found_over else min(pause * 2, _SELDOM)
            found_over = over


def never_ran(status: Status, place: Place) -> RuntimeFailed:
    """Return the error for a status without an exit status, when nothing was read: no program could be started."""
    words = status.message.lower()
    if any(text in words for text in _NO_CONTAINER):
        return ContainerEnded(
            f"the container {place.container} of the pod {place.pod} is not running",
            "connect again when its service is back",
            detail=status.message,
        )
    if any(text in words for text in _NO_PROGRAM):
        return NoShell(
            f"no program could be started in {place.container} of the pod {place.pod}",
            "its shell is not there or cannot be run; a `toolbox` image for its stack brings one",
            detail=status.message,
        )
    return RuntimeFailed(
        f"the cluster could not start a program in the pod {place.pod}",
        "the bastion's log says more",
        detail=status.message,
    )
