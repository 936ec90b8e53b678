"""A plain WebSocket client for exec and port-forward, so that the tests see every frame."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from tests.cluster import Cluster

V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
CLOSED: Final = (8, b"\x03\xe8")
SUCCESS: Final = (2, b'\x03{"metadata":{},"status":"Success"}')
_SECONDS: Final = 20.0

Frame = tuple[int, bytes]  # the WebSocket's opcode and its payload


class Wire:
    """An open WebSocket; what comes is given as frames."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self.protocol = ws.protocol

    async def frame(self, seconds: float = _SECONDS) -> Frame:
        """Return the next frame.

        Raises:
            TimeoutError: none came in time.
            ConnectionError: the connection ended without a close frame.
        """
        async with asyncio.timeout(seconds):
            message = await self._ws.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            return 8, int(message.data).to_bytes(2, "big")
        if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
            raise ConnectionError(str(message.data))
        return int(message.type), message.data.encode() if isinstance(message.data, str) else bytes(message.data)

    async def rest(self) -> list[Frame]:
        """Return all frames up to the close frame."""
        frames = [await self.frame()]
        while frames[-1][0] != 8:
            frames.append(await self.frame())
        return frames

    async def until(self, word: bytes) -> bytes:
        """Return the payload of data frames, without their channels, until a word has come."""
        seen = bytearray()
        while word not in seen:
            opcode, payload = await self.frame()
            assert opcode == 2, f"{word!r} never came: {bytes(seen)!r}, {payload!r}"
            seen += payload[1:]
        return bytes(seen)

    async def silent(self, seconds: float = 1.0) -> bool:
        """Tell whether nothing comes for a while."""
        try:
            await self.frame(seconds)
        except TimeoutError:
            return True
        return False

    async def send(self, channel: int, payload: bytes) -> None:
        """Send a frame on a channel."""
        await self._ws.send_bytes(bytes([channel]) + payload)

    async def resize(self, columns: int, rows: int) -> None:
        """Send a terminal's size."""
        await self.send(4, json.dumps({"Width": columns, "Height": rows}).encode())

    async def ping(self, payload: bytes) -> None:
        """Send a ping."""
        await self._ws.ping(payload)

    async def close(self) -> None:
        """Close politely, by a close frame."""
        await self._ws.close()

    def drop(self) -> None:
        """End the TCP connection without a word of WebSocket."""
        ends: socket.socket = self._ws.get_extra_info("socket")
        ends.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def _session(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    try:
        async with aiohttp.ClientSession(headers=cluster.headers) as session:
            yield session
    finally:
        await asyncio.sleep(0.05)  # aiohttp does not wait until its TLS transports have closed


@asynccontextmanager
async def opened(
    cluster: Cluster, path: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
) -> AsyncIterator[Wire]:
    """Open a WebSocket at a path below the namespace's pods.

    Raises:
        aiohttp.WSServerHandshakeError: it was refused.
    """
    timeout = aiohttp.ClientWSTimeout(ws_close=5.0)
    async with (
        _session(cluster) as session,
        session.ws_connect(
            f"{cluster.server}/api/v1/namespaces/{cluster.namespace}/pods/{path}",
            params=list(query),
            protocols=protocols,
            ssl=cluster.context,
            timeout=timeout,
            autoping=False,
            autoclose=False,
            max_msg_size=0,
        ) as ws,
    ):
        yield Wire(ws)


@asynccontextmanager
async def executed(
    cluster: Cluster, pod: str, command: Sequence[str], protocols: Sequence[str] = (V5,), **options: Any
) -> AsyncIterator[Wire]:
    """Run a command in a pod's container `web`; `options` are the query's (stdin, tty, …), True or False."""
    asked = {"stdin": False, "stdout": True, "stderr": True, "container": "web"} | options
    query = [(name, str(value).lower()) for name, value in asked.items() if value is not None]
    query += [("command", word) for word in command]
    async with opened(cluster, f"{pod}/exec", query, protocols) as wire:
        yield wire


async def refusal(
    cluster: Cluster, path: str, query: Sequence[tuple[str, str]], method: str = "GET"
) -> tuple[int, str]:
    """Ask for a WebSocket and return the status and the body of the refusal."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": V5}
    url = f"{cluster.server}/api/v1/namespaces/{cluster.namespace}/pods/{path}"
    async with (
        _session(cluster) as session,
        session.request(method, url, params=list(query), headers=headers, ssl=cluster.context) as answer,
    ):
        return answer.status, await answer.text()
