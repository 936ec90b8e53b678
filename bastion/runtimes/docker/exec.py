"""One program run by `docker exec`: its events both ways, its end, and why it ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bastion.errors import ConnectionLost, ContainerEnded, NoShell, RuntimeFailed, RuntimeUnreachable
from bastion.model import STDERR, STDOUT, Data, Eof, Event, Exit, Resize, Signal, Target
from bastion.runtimes.docker.shells import refusal
from bastion.runtimes.docker.stream import ExecStream, StreamBroken
from bastion.runtimes.shell import SIGNALS
from bastion.tasks import background

PAUSED: Final = "is paused"
PAUSE_SECONDS: Final = 10.0  # that a session waits for its container's unpause; `docker commit` pauses for about one
PAUSE_NOTICE_SECONDS: Final = 2.0  # of a pause before the user is told
GRACE: Final = 0.4  # seconds in which a container's last output may still come, and a better reason for its end

_NEVER_RAN: Final = (b"OCI runtime exec failed", b"unable to find user", b"no matching entries in passwd file")
_NEVER_RAN_LIMIT: Final = 4096
_KILLED: Final = 137
_POLLS: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5)
_STARTING: Final = 40  # looks at a program that has no pid yet
_ENDED: Final = (0.0, 0.02, 0.05, 0.1, 0.2)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Calls:
    """What an exec asks of its engine, bound to its ids: its own state, its container's, a terminal size, a signal."""

    state: Callable[[], Awaitable[dict[str, Any]]]
    container: Callable[[], Awaitable[str | None]]
    resize: Callable[[int, int], Awaitable[None]]
    signal: Callable[[str], Awaitable[None]]


class Inspected:
    """The session's program by what the engine says of its exec, for the ending of the rest."""

    def __init__(self, state: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._state = state

    async def started(self) -> None:
        """Wait until the program has a pid or has ended."""
        for _ in range(_STARTING):
            found = await self._state()
            if found.get("Pid") or found.get("ExitCode") is not None:
                return
            await asyncio.sleep(0.05)

    async def has_ended(self) -> bool:
        """Say whether the program is over, after a moment in which it may be."""
        for pause in _ENDED:
            await asyncio.sleep(pause)
            if not (await self._state()).get("Running"):
                return True
        return False


class DockerExec:
    """A program running in a container of a Docker Engine; `notes` are lines that the user is told first.

    `pause_seconds` is how long it waits for the unpause of its container.
    """

    def __init__(
        self,
        target: Target,
        calls: Calls,
        *,
        tty: bool,
        notes: Sequence[str] = (),
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self.stream = ExecStream(tty=tty, stalled=self._stalled)
        self.container_ended = False
        self._target = target
        self._calls = calls
        self._tty = tty
        self._notes = notes
        self._line_open = False
        self._reason: str | None = None
        self._result: asyncio.Future[Exit] | None = None
        self._stall_check: asyncio.Task[None] | None = None
        self._pause_seconds = pause_seconds
        self._pause: asyncio.Task[None] | None = None
        self._unpaused = asyncio.Event()

    def told(self, word: str) -> None:
        """Take what the watch says of the container: it has ended, or is paused, which is waited for a while."""
        if word != PAUSED:
            self._over(word)
        elif self._pause is None or self._pause.done():
            self._unpaused.clear()
            self._pause = background(self._outlast_pause(), name="docker pause")

    def resumed(self) -> None:
        """Take what the watch says: the container is no longer paused."""
        self._unpaused.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the output in order; see the port."""
        for note in self._notes:
            yield Data(STDERR, f"bastion: note: {note}\n".encode())
        first = True
        while (data := await self._read()) is not None:
            if first and data.stream == STDOUT and data.payload.startswith(_NEVER_RAN):
                async for event in self._suspect(data):
                    yield event
            else:
                yield data
            first = False
        await self.wait()

    async def send(self, event: Event) -> None:
        """Deliver one event; what comes after the program's end is dropped."""
        if self.stream.ended:
            return
        match event:
            case Data(payload=payload):
                self._line_open = bool(payload) and payload[-1:] not in (b"\r", b"\n")
                await self.stream.write(payload)
            case Eof() if self._tty:  # a half-close would end the output too; this is how a terminal's input ends
                await self.stream.write(b"\x04\x04" if self._line_open else b"\x04")
            case Eof():
                self.stream.write_eof()
            case Resize(columns=columns, rows=rows):
                if self._tty and columns > 0 and rows > 0:
                    await self._calls.resize(columns, rows)
            case Signal(name=name) if name in SIGNALS:
                await self._calls.signal(name)
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

    def close(self) -> None:
        """Let go of the stream and of the tasks that look after a stall and a pause."""
        self.stream.abort()
        for task in (self._stall_check, self._pause):
            if task is not None:
                task.cancel()

    async def _read(self) -> Data | None:
        try:
            return await self.stream.read()
        except StreamBroken as error:
            self._raise_if_ended()
            if await self._container_state() is not None:
                self._raise_if_ended()
            raise self._lost(str(error)) from error

    async def _suspect(self, data: Data) -> AsyncIterator[Event]:
        """Hold back what looks like the engine's words until it says whether a program ever ran (pid 0: none)."""
        held = [data]
        size = len(data.payload)
        while size < _NEVER_RAN_LIMIT:
            try:
                async with asyncio.timeout(1):
                    more = await self._read()
            except TimeoutError:
                break
            if more is None:
                state = await self._ended_state()
                if state.get("Pid") == 0:
                    self._never_ran(b"".join(piece.payload for piece in held))
                break
            held.append(more)
            size += len(more.payload)
        for piece in held:
            yield piece

    def _never_ran(self, words: bytes) -> None:
        text = words.decode(errors="replace").strip()
        if error := refusal(self._target, text):
            raise error
        raise NoShell(
            f"no program could be started in {self._target.container_name}",
            "its shell is not there or cannot be run",
            detail=text,
        )

    async def _settle(self) -> Exit:
        self._raise_if_ended()
        state = await self._ended_state()
        code = state.get("ExitCode")
        if code == _KILLED or not isinstance(code, int):
            await self._blame_container()
        if not isinstance(code, int) or not 0 <= code <= 255:  # noqa: PLR2004 - a status is one byte
            raise self._lost(f"exit code {code!r}")
        return Exit(code)

    async def _ended_state(self) -> dict[str, Any]:
        """Ask until the program is no longer running and its status is known: the stream's end comes first."""
        state: dict[str, Any] = {}
        for pause in _POLLS:
            await asyncio.sleep(pause)
            try:
                state = await self._calls.state()
            except RuntimeUnreachable as error:
                raise self._lost(error.detail or error.public) from error
            except RuntimeFailed as error:
                await self._blame_container()
                raise self._lost(error.detail or error.public) from error
            if not state.get("Running") and state.get("ExitCode") is not None:
                break
        return state

    async def _blame_container(self) -> None:
        """Raise when the container ended under the program: its state follows its programs' by a moment."""
        for _ in range(8):
            self._raise_if_ended()
            if (word := await self._container_state()) is not None:
                self._over(word)
                await asyncio.sleep(GRACE)  # "stopped" may become "was removed"
            else:
                await asyncio.sleep(0.1)
        self._raise_if_ended()

    async def _container_state(self) -> str | None:
        try:
            return await self._calls.container()
        except RuntimeFailed as error:
            raise self._lost(error.detail or error.public) from error

    def _over(self, word: str) -> None:
        """End the session for what became of its container."""
        first, self._reason = self._reason is None, word
        self.container_ended = word != PAUSED
        if first:
            asyncio.get_running_loop().call_later(GRACE, self.stream.abort)

    async def _outlast_pause(self) -> None:
        """Wait for the unpause, tell the user when that takes long, and end the session when it takes too long."""
        notice = min(PAUSE_NOTICE_SECONDS, self._pause_seconds / 2)
        if await self._is_unpaused_within(notice):
            return
        ending = "\r\n" if self._tty else "\n"
        container = f"the container {self._target.container_name}"
        self.stream.insert(f"bastion: hint: {container} is paused; waiting up to {self._pause_seconds:.0f} s{ending}")
        if await self._is_unpaused_within(self._pause_seconds - notice):
            return
        try:
            word = await self._calls.container()  # an unpause is missed where the stream of events has a gap
        except RuntimeFailed as error:
            _log.info("paused container not inspected", error=error.detail)
            return
        if word is not None:
            self._over(word)

    async def _is_unpaused_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._unpaused.wait()
        except TimeoutError:
            return False
        return True

    def _raise_if_ended(self) -> None:
        if self._reason is not None:
            raise ContainerEnded(
                f"the container {self._target.container_name} {self._reason}",
                "connect again when its service is back",
            )

    def _lost(self, detail: str) -> ConnectionLost:
        return ConnectionLost(
            f"the engine went away before it said how the program in {self._target.container_name} ended",
            "the program may have done its work or not; connect again and look",
            detail=detail,
        )

    def _stalled(self) -> None:
        if self._stall_check is None or self._stall_check.done():
            self._stall_check = background(self._check_stall(), name="docker stall")

    async def _check_stall(self) -> None:
        """Once the program has ended, take what is left of its output: the engine drops it after 2 s."""
        try:
            running = (await self._calls.state()).get("Running")
        except RuntimeFailed as error:
            _log.info("stalled exec not inspected", error=error.detail)
            running = True
        if running:
            self.stream.wait_longer()
        else:
            self.stream.drain_all()
