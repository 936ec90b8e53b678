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
from bastion.runtimes.kubernetes.errors import stream_refusal
from bastion.runtimes.kubernetes.stream import V4
from bastion.runtimes.kubernetes.wire import CONNECTION, ENDS, Wire, WireLost

HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_DATA: Final = 0
_ERROR: Final = 1
_PORT_BYTES: Final = 2
_PIECE: Final = 32 * 1024
_CLOSING: Final = 2.0
_WORDS_LIMIT: Final = 500


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
        wire = Wire(await opened.__aenter__(), f"{pod}:{port}")
    except Answered as answered:
        raise _refused(answered, namespace, pod) from answered
    try:
        yield ForwardConnection(wire, pod, port)
    finally:
        wire.close()
        with contextlib.suppress(TimeoutError, *CONNECTION):
            async with asyncio.timeout(_CLOSING):
                await opened.__aexit__(None, None, None)


class ForwardConnection:
    """A connection to a port of a pod. The protocol has no half-close: `Eof` is kept back, and ends nothing."""

    def __init__(self, wire: Wire, pod: str, port: int) -> None:
        self._wire = wire
        self._pod = pod
        self._port = port
        self._begun: set[int] = set()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give what arrives until the pod's side has closed; see the port."""
        while not self._ended:
            try:
                message = await self._wire.receive()
            except (WireLost, *CONNECTION) as error:
                raise self._broken(str(error) if isinstance(error, WireLost) else type(error).__name__) from error
            if message.type in ENDS:
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
                with contextlib.suppress(*CONNECTION):  # the reader says why
                    for at in range(0, len(view), _PIECE):
                        if self._ended:
                            return
                        await self._wire.send(b"\x00" + view[at : at + _PIECE])
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


def _refused(answered: Answered, namespace: str, pod: str) -> RuntimeFailed:
    hint = "connect again when its service is back"
    if answered.status == 404:  # noqa: PLR2004 - HTTP's own numbers
        return ContainerEnded(f"the pod {pod} is gone", hint, detail=str(answered))
    if answered.status == 400:  # noqa: PLR2004
        return ContainerEnded(f"the pod {pod} is not running", hint, detail=str(answered))
    if answered.status == 403:  # noqa: PLR2004
        return stream_refusal(answered, "pods/portforward", namespace)
    return refusal(answered, f"forward a port of the pod {pod}")
