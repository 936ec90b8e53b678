"""Open a port of a pod by the cluster's port-forward, as a byte stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from bastion.errors import ConnectionLost, ContainerEnded, RuntimeFailed
from bastion.model import STDOUT, Data, Eof, Event
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path, refusal
from bastion.runtimes.kubernetes.stream import V4

HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_DATA: Final = 0
_ERROR: Final = 1
_PORT_BYTES: Final = 2
_PIECE: Final = 32 * 1024
_PING: Final = 20.0  # seconds; a load balancer cuts a stream that was silent for 60
_SILENCE: Final = 90.0
# A server that waits for the pod to take what was sent reads no pings. A socket takes so many bytes at once.
_HARMLESS: Final = 2048
_CLOSING: Final = 2.0
_WORDS_LIMIT: Final = 500
_CONNECTION: Final = (aiohttp.ClientError, OSError)
_ENDS: Final = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)


@asynccontextmanager
async def forward(cluster: Cluster, namespace: str, pod: str, port: int) -> AsyncIterator["ForwardConnection"]:
    """Connect to a port that a program of the pod listens on, at its localhost.

    Raises:
        ContainerEnded: the pod is gone or does not run.
        RuntimeFailed: the bastion may not, or the port is none. That nothing listens there is told by the connection.
        RuntimeUnreachable: the cluster does not answer.
    """
    if not 0 < port < 2**16:
        raise RuntimeFailed(f"{port} is no port", "write one of 1 to 65535")
    where = path("namespaces", namespace, "pods", pod, "portforward")
    opened = cluster.websocket(where, [("ports", str(port))], (V4,))
    try:
        socket = await opened.__aenter__()
    except Answered as answered:
        raise _refused(answered, namespace, pod) from answered
    pinging = asyncio.create_task(_ping(socket), name=f"ping {pod}:{port}")
    try:
        yield ForwardConnection(socket, pod, port)
    finally:
        pinging.cancel()
        with contextlib.suppress(TimeoutError, *_CONNECTION):
            async with asyncio.timeout(_CLOSING):
                await opened.__aexit__(None, None, None)


class ForwardConnection:
    """A connection to a port of a pod. The protocol has no half-close: `Eof` is kept back, and ends nothing."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, pod: str, port: int) -> None:
        self._socket = socket
        self._pod = pod
        self._port = port
        self._begun: set[int] = set()
        self._ended = False
        self._sent = 0

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give what arrives until the pod's side has closed; see the port."""
        while not self._ended:
            try:
                message = await self._socket.receive(_SILENCE)
            except TimeoutError as error:
                if self._sent > _HARMLESS:
                    continue
                raise self._broken(f"nothing came for {_SILENCE:.0f} s") from error
            except _CONNECTION as error:
                raise self._broken(type(error).__name__) from error
            if message.type in _ENDS:
                self._ended = True
                # a server that has closed says so; a connection that was cut ends without a word
                if message.type is not aiohttp.WSMsgType.CLOSE:
                    raise self._broken("the connection to the cluster was cut")
            elif message.type is aiohttp.WSMsgType.BINARY:
                if payload := self._taken(message.data):
                    yield Data(STDOUT, payload)
            else:
                raise self._broken(f"a message of type {message.type.name}")

    async def send(self, event: Event) -> None:
        """Deliver data; what comes after the end is dropped, and so is `Eof`: it would end both directions."""
        match event:
            case Data(payload=payload):
                view = memoryview(payload)
                with contextlib.suppress(*_CONNECTION):  # the reader says why
                    for at in range(0, len(view), _PIECE):
                        if self._ended:
                            return
                        self._sent += min(_PIECE, len(view) - at)
                        await self._socket.send_bytes(b"\x00" + view[at : at + _PIECE])
            case Eof():
                return
            case _:
                return

    def _taken(self, frame: bytes) -> bytes:
        """Return the bytes for the reader; the first frame of each channel has the port's number, in two bytes."""
        if not frame:
            return b""
        channel, payload = frame[0], frame[1:]
        if channel not in (_DATA, _ERROR):
            raise self._broken(f"a frame of channel {channel}")
        if channel not in self._begun:
            self._begun.add(channel)
            if payload[:_PORT_BYTES] != self._port.to_bytes(_PORT_BYTES, "little"):
                raise self._broken("a forward of another port")
            payload = payload[_PORT_BYTES:]
        if channel == _ERROR and payload:
            raise self._failed(payload)
        return payload

    def _failed(self, words: bytes) -> RuntimeFailed:
        self._ended = True
        detail = ascii(words[:_WORDS_LIMIT].decode(errors="replace"))[1:-1]
        if "refused" in detail.lower():
            return RuntimeFailed(
                f"nothing listens on localhost:{self._port} in {self._pod}",
                "is the port right, and does its program run?",
                detail=detail,
            )
        return RuntimeFailed(
            f"the cluster cannot forward localhost:{self._port} of {self._pod}",
            "the bastion's log says more",
            detail=detail,
        )

    def _broken(self, detail: str) -> ConnectionLost:
        self._ended = True
        return ConnectionLost(
            f"the connection to localhost:{self._port} in {self._pod} broke", "connect again", detail=detail
        )


async def _ping(socket: aiohttp.ClientWebSocketResponse) -> None:
    with contextlib.suppress(*_CONNECTION):
        while True:
            await asyncio.sleep(_PING)
            await socket.ping()


def _refused(answered: Answered, namespace: str, pod: str) -> RuntimeFailed:
    hint = "connect again when its service is back"
    if answered.status == 404:  # noqa: PLR2004 - HTTP's own numbers
        return ContainerEnded(f"the pod {pod} is gone", hint, detail=str(answered))
    if answered.status == 400:  # noqa: PLR2004
        return ContainerEnded(f"the pod {pod} is not running", hint, detail=str(answered))
    if answered.status == 403:  # noqa: PLR2004
        return refusal(answered, f"create and get pods/portforward in the namespace {namespace}")
    return refusal(answered, f"forward a port of the pod {pod}")
