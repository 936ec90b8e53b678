"""Speak a pod's port-forward over a WebSocket by v4.channel.k8s.io, as a real cluster does."""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from aiohttp import WSMsgType, web

from tests.cluster.kubelet import Pod

_CLONE_NEWNET: Final = 0x40000000
_PIECE: Final = 32 * 1024
_LINGER_SECONDS: Final = 1.0
_DIAL_SECONDS: Final = 10.0


class Forward:
    """The ports of one pod over one WebSocket; two channels for each port, data and error."""

    def __init__(self, pod: Pod, pid: int, ports: Sequence[int]) -> None:
        self._pod = pod
        self._pid = pid
        self._ports = ports

    async def serve(self, ws: web.WebSocketResponse) -> None:
        """Move the bytes until either side ends; then all is torn down."""
        writers: dict[int, asyncio.StreamWriter] = {}
        pumps: list[asyncio.Task[None]] = []
        with contextlib.suppress(ConnectionError, RuntimeError):
            for number, port in enumerate(self._ports):
                for channel in (2 * number, 2 * number + 1):
                    await ws.send_bytes(bytes([channel]) + struct.pack("<H", port))
            try:
                for number, port in enumerate(self._ports):
                    if (dialled := await self._dial(ws, number, port)) is None:
                        await ws.close()
                        return
                    reader, writers[2 * number] = dialled
                    pumps.append(asyncio.create_task(self._pump(ws, 2 * number, reader)))
                receiving = asyncio.create_task(_receive(ws, writers))
                await asyncio.wait({receiving, *pumps}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    await asyncio.wait({receiving}, timeout=_LINGER_SECONDS)  # what was sent meanwhile still arrives
                await _cancel(receiving, *pumps)
                await ws.close()
            finally:
                await _cancel(*pumps)
                for writer in writers.values():
                    writer.close()

    async def _dial(
        self, ws: web.WebSocketResponse, number: int, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            connected = await asyncio.to_thread(_connect_inside, self._pid, port)
        except OSError:
            inside = f"/var/run/netns/cni-{self._pod.uid}"
            words = f"error forwarding port {port} to pod {self._pod.sandbox}, uid : failed to execute portforward in "
            words += f'network namespace "{inside}": failed to connect to localhost:{port} inside namespace '
            words += f'"{self._pod.sandbox}", IPv4: dial tcp4 127.0.0.1:{port}: connect: connection refused '
            words += f"IPv6 dial tcp6 [::1]:{port}: connect: connection refused "
            await ws.send_bytes(bytes([2 * number + 1]) + words.encode())
            return None
        return await asyncio.open_connection(sock=connected, limit=2 * _PIECE)

    async def _pump(self, ws: web.WebSocketResponse, channel: int, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while payload := await reader.read(_PIECE):
                if self._pod.frozen:
                    await asyncio.Event().wait()
                await ws.send_bytes(bytes([channel]) + payload)


async def _receive(ws: web.WebSocketResponse, writers: dict[int, asyncio.StreamWriter]) -> None:
    while (message := await ws.receive()).type is WSMsgType.BINARY:
        writer = writers.get(message.data[0] if message.data else -1)
        if writer is not None and not writer.is_closing():
            writer.write(message.data[1:])
            with contextlib.suppress(ConnectionError):
                await writer.drain()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _connect_inside(pid: int, port: int) -> socket.socket:
    """Connect to a port of localhost in another process's network; run this in a thread of its own.

    Raises:
        OSError: nothing listens there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(theirs, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            return _connect(port)
        finally:
            if libc.setns(own, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns back")
    finally:
        os.close(own)
        os.close(theirs)


def _connect(port: int) -> socket.socket:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=_DIAL_SECONDS)
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port), timeout=_DIAL_SECONDS)
