"""One program's WebSocket of a pod: its channels taken apart, its input and the half-close of it, its status."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import aiohttp

from bastion.errors import ContainerEnded, RuntimeFailed
from bastion.model import STDERR, STDOUT, Data
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path, refusal
from bastion.runtimes.kubernetes.errors import stream_refusal
from bastion.runtimes.kubernetes.wire import CONNECTION, ENDS, Wire, WireLost

V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"

_STATUS: Final = 3
_RESIZE: Final = b"\x04"
_STDIN: Final = b"\x00"
_CLOSE_STDIN: Final = b"\xff\x00"
_CLOSED: Final = 255
_CODE: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_MOST: Final = 255  # an exit status is one byte
_STATUS_LIMIT: Final = 64 * 1024
_PIECE: Final = 32 * 1024  # bytes of input in one frame
_LAST: Final = 5.0  # seconds for the close behind the status
_CLOSING: Final = 2.0
_MESSAGE_LIMIT: Final = 500
_TOO_LONG: Final = (413, 414, 431)
_LONG: Final = 7 * 1024  # characters of a command that every proxy takes; some say 400 to more


class Place(NamedTuple):
    """A container of a pod."""

    namespace: str
    pod: str
    container: str


class StreamBroken(Exception):
    """What came is no stream of a program, or the connection is no more."""


class Status(NamedTuple):
    """What the cluster says of a program's end: its exit status, or None and why it has none, escaped."""

    code: int | None
    message: str


def status_of(frame: bytes | None) -> Status:
    """Read the frame of the status channel, by its causes: the words differ between versions.

    Raises:
        StreamBroken: none came, it is no Status, or has no exit status that a program can have.
    """
    if frame is None:
        raise StreamBroken("the stream ended without a status")
    try:
        told = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise StreamBroken("a status that is no JSON") from error
    if not isinstance(told, dict) or told.get("status") not in ("Success", "Failure"):
        raise StreamBroken("a status that says neither success nor failure")
    details = told.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            if told["status"] == "Success":
                raise StreamBroken("a success with the exit status of a failure")
            return Status(_code(cause.get("message")), "")
    if told["status"] == "Success":
        return Status(0, "")
    return Status(None, ascii(str(told.get("message", ""))[:_MESSAGE_LIMIT])[1:-1])


def _code(text: Any) -> int:
    if isinstance(text, str) and _CODE.fullmatch(text) and int(text) <= _MOST:
        return int(text)
    raise StreamBroken(f"an exit status that is none: {ascii(text)[:40]}")


class PodStream:
    """One program in a pod: started by `open`; its output is read, its input written.

    Reading stops when nobody calls `read`: then aiohttp holds at most 0.75 MiB, and the cluster waits. Writing waits
    when 0.75 MiB have not been taken.
    """

    def __init__(self, cluster: Cluster, place: Place, *, tty: bool) -> None:
        self.place = place
        self.status: bytes | None = None
        self.ended = False
        self._cluster = cluster
        self._tty = tty
        self._loop = asyncio.get_running_loop()
        self._stack = AsyncExitStack()
        self._wire: Wire | None = None
        self._deadline: asyncio.Timeout | None = None
        self._aborted = False
        self._waiting_since: float | None = None

    @property
    def half_closes(self) -> bool:
        """Whether the end of input can be passed on: by v5 (Kubernetes 1.30), without a terminal."""
        return self._wire is not None and self._wire.protocol == V5 and not self._tty

    @property
    def quiet(self) -> float:
        """Seconds for which a reader has waited for output; 0 when none waits."""
        return 0.0 if self._waiting_since is None else self._loop.time() - self._waiting_since

    async def open(self, arguments: Sequence[str], *, stdin: bool) -> None:
        """Start the program; that it could not be started may come as its status.

        Raises:
            RuntimeUnreachable: the cluster does not answer.
            ContainerEnded: the pod or its container is not there.
            RuntimeFailed: the cluster says no.
        """
        query = [("container", self.place.container), *(("command", word) for word in arguments)]
        query += [("stdin", "true")] if stdin else []
        query += [("stdout", "true"), *([("tty", "true")] if self._tty else [("stderr", "true")])]
        where = path("namespaces", self.place.namespace, "pods", self.place.pod, "exec")
        try:
            opened = await self._stack.enter_async_context(self._cluster.websocket(where, query, (V5, V4)))
        except Answered as answered:
            raise _refused(answered, self.place, sum(map(len, arguments))) from answered
        if opened.protocol not in (V5, V4):
            await self.close()
            raise RuntimeFailed(
                "the cluster speaks no protocol for programs that the bastion knows",
                "it needs Kubernetes 1.24 or later, and a proxy that passes WebSockets on",
                detail=ascii(opened.protocol)[:_MESSAGE_LIMIT],
            )
        self._wire = Wire(opened, self.place.pod)

    async def read(self) -> Data | None:
        """Return the next piece of output; None at its end, when `status` is there or will never be.

        Raises:
            StreamBroken: what came is no stream of a program, or the connection is no more.
        """
        while not self.ended and self._wire is not None:
            try:
                message = await self._receive()
            finally:
                self._waiting_since = None
            if message is None or message.type in ENDS:
                self._end()
            elif message.type is aiohttp.WSMsgType.BINARY:
                if (data := self._taken(message.data)) is not None:
                    return data
            else:
                self._end()
                raise StreamBroken(f"a message of type {message.type.name}")
        return None

    async def write(self, payload: bytes) -> None:
        """Send input, and wait while the program takes none; once it has ended the rest is dropped."""
        view = memoryview(payload)
        for at in range(0, len(view), _PIECE):
            if not await self._send(_STDIN + view[at : at + _PIECE]):
                return

    async def write_eof(self) -> None:
        """End the program's input, where that can be passed on."""
        if self.half_closes:
            await self._send(_CLOSE_STDIN)

    async def resize(self, columns: int, rows: int) -> None:
        """Give the terminal a size; without a terminal nothing may be sent: the second such frame stops v5's input."""
        if self._tty:
            await self._send(_RESIZE + json.dumps({"Width": columns, "Height": rows}).encode())

    def abort(self) -> None:
        """Have reading end now, but for what has arrived already."""
        self._aborted = True
        if self._deadline is not None:
            self._deadline.reschedule(self._loop.time())

    async def close(self) -> None:
        """Close the connection, within 2 s; the program knows nothing of it."""
        self.abort()
        self._end()
        with contextlib.suppress(TimeoutError, *CONNECTION):
            async with asyncio.timeout(_CLOSING):
                await self._stack.aclose()

    async def _receive(self) -> aiohttp.WSMessage | None:
        """Return the next message; None when reading was aborted, or when only the close was still to come."""
        assert self._wire is not None  # noqa: S101 - open() came first
        self._waiting_since = self._loop.time()
        left = None if self.status is None else _LAST
        try:
            async with asyncio.timeout(0 if self._aborted else left) as self._deadline:
                return await self._wire.receive()
        except TimeoutError:
            return None
        except (WireLost, *CONNECTION) as error:
            self._end()
            raise StreamBroken(str(error) if isinstance(error, WireLost) else type(error).__name__) from error
        finally:
            self._deadline = None

    def _taken(self, frame: bytes) -> Data | None:
        """Return what a frame has for the reader; keep the status."""
        if not frame:
            return None
        channel = frame[0]
        if channel in (STDOUT, STDERR):
            return Data(channel, frame[1:]) if len(frame) > 1 else None
        if channel == _STATUS and self.status is None and len(frame) <= _STATUS_LIMIT:
            self.status = frame[1:]
        elif channel != _CLOSED:
            self.status = None
            self._end()
            raise StreamBroken(f"a frame of channel {channel} with {len(frame)} bytes")
        return None

    async def _send(self, frame: bytes) -> bool:
        if self.ended or self.status is not None or self._wire is None:
            return False
        try:
            await self._wire.send(frame)
        except CONNECTION:
            return False  # the reader will say why
        return True

    def _end(self) -> None:
        self.ended = True
        if self._wire is not None:
            self._wire.close()


def _refused(answered: Answered, place: Place, length: int) -> RuntimeFailed:
    """Turn a handshake that was refused into our error; its body, which says why, is lost to aiohttp.

    `length` is how many characters the command has, which travels in the address.
    """
    hint = "connect again when its service is back"
    if answered.status in _TOO_LONG or (answered.status == 400 and length > _LONG):  # noqa: PLR2004 - HTTP's own numbers
        return RuntimeFailed(
            f"the cluster, or a proxy on the way to it, does not take a command of {length} characters",
            "send it on standard input instead of as a command",
            detail=str(answered),
        )
    if answered.status == 400:  # noqa: PLR2004
        words = f"the pod {place.pod} has no container {place.container} that runs"
        return ContainerEnded(words, hint, detail=str(answered))
    if answered.status == 404:  # noqa: PLR2004
        return ContainerEnded(f"the pod {place.pod} is gone", hint, detail=str(answered))
    if answered.status == 403:  # noqa: PLR2004
        return stream_refusal(answered, "pods/exec", place.namespace)
    return refusal(answered, f"start a program in the pod {place.pod}")
