"""Speak a pod's exec over a WebSocket, frame for frame as a real cluster does (reference/kubernetes-frames.txt)."""

import asyncio
import base64
import contextlib
import json
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import WSMsgType, web

from tests.cluster.answers import Object, go_json
from tests.cluster.kubelet import Pod
from tests.cluster.runc import NotStarted, Process, Runc, read, write
from tests.cluster.switches import Switches

V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
_KNOWN: Final = (V5, V4, "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io")
_PIECE: Final = 32 * 1024
_ERROR, _RESIZE, _CLOSE = 3, 4, 255
_LEFT: Final[set[asyncio.Task[None]]] = set()  # a task that nobody holds is collected


class _Gone(Exception):
    """The connection is not there any more."""


@dataclass(frozen=True)
class Asked:
    """What an exec request asks for."""

    command: Sequence[str]
    container: str  # the engine's id
    tty: bool
    streams: frozenset[int]


def choose(offered: Sequence[str], switches: Switches) -> str | None:
    """Choose the subprotocol: v5 before all others, else the first that is known; "" when none was offered."""
    if not offered:
        return ""
    known = [name for name in _KNOWN if name != V5 or switches.has_v5()]
    if V5 in offered and V5 in known:
        return V5
    return next((name for name in offered if name in known), None)


class Exec:
    """One exec over one WebSocket that has been accepted with this subprotocol."""

    def __init__(self, asked: Asked, pod: Pod, runc: Runc, protocol: str, switches: Switches) -> None:
        self._asked = asked
        self._pod = pod
        self._runc = runc
        self._protocol = protocol
        self._switches = switches
        self._left = switches.cut_after
        self._resizes = 0

    async def serve(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        """Run the command, move its bytes, tell its status, and leave behind what a real cluster leaves."""
        self._request, self._ws = request, ws
        process: Process | None = None
        with contextlib.suppress(_Gone):
            await self._send(min({1, 2, _ERROR} & {*self._asked.streams, _ERROR}), b"")
            try:
                process = await self._runc.start(
                    self._asked.container, self._asked.command, tty=self._asked.tty, streams=set(self._asked.streams)
                )
            except (NotStarted, FileNotFoundError) as error:
                await self._status(self._not_started(str(error)))
            else:
                await self._relay(process)
        if process is not None:
            left = asyncio.create_task(_let_go(process))
            _LEFT.add(left)
            left.add_done_callback(_LEFT.discard)

    async def _relay(self, process: Process) -> None:
        output = asyncio.create_task(self._output(process))
        receiving = asyncio.create_task(self._input(process))
        try:
            await asyncio.wait({output, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if output.done():
                code = output.result()
                await _cancel(receiving)
                await self._status(self._exited(code))
            elif receiving.result() and self._protocol != V5:
                process.kill()
        finally:
            await _cancel(output, receiving)

    async def _output(self, process: Process) -> int:
        """Send all output, until everybody has closed it, and return the exit status."""
        pumps = [asyncio.create_task(self._pump(process, stream)) for stream in process.outputs]
        try:
            await asyncio.gather(*pumps)
        finally:
            await _cancel(*pumps)
        return await process.wait()

    async def _pump(self, process: Process, stream: int) -> None:
        while payload := await read(process.outputs[stream], _PIECE):
            if self._left is not None:
                payload = payload[: self._left]
                self._left -= len(payload)
            await self._send(stream, payload)
            if self._left == 0:
                await self._cut()
            await asyncio.sleep(0)  # neither reading nor sending waits in a flood, and nobody else would run
        if self._switches.output_end_closes_input:
            process.close_input()

    async def _cut(self) -> None:
        """Reset the TCP connection, once what was sent has left."""
        transport = self._request.transport
        if transport is None:
            raise _Gone
        while transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        raise _Gone

    async def _input(self, process: Process) -> bool:
        """Take frames until the client has gone; tell whether it went without a close frame."""
        while True:
            message = await self._ws.receive()
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                await self._take(process, self._decoded(message.data))
            else:
                return message.type is not WSMsgType.CLOSE

    async def _take(self, process: Process, frame: bytes) -> None:
        channel, payload = (frame[0], frame[1:]) if frame else (-1, b"")
        if channel == 0 and process.stdin is not None:
            try:
                await write(process.stdin, payload)
            except OSError:  # the program has ended or closed its input: the rest goes nowhere
                process.close_input()
        elif channel == _RESIZE:
            self._resizes += 1
            if self._protocol == V5 and not self._asked.tty and self._resizes > 1:
                await asyncio.Event().wait()  # nobody takes the second size, and so nothing is read any more
            with contextlib.suppress(ValueError, KeyError, TypeError, struct.error, OSError):
                size = json.loads(payload)
                process.resize(size["Width"], size["Height"])
        elif channel == _CLOSE and payload == b"\x00" and self._protocol == V5:
            process.close_input()

    async def _send(self, channel: int, payload: bytes) -> None:
        if self._pod.frozen:
            await asyncio.Event().wait()
        try:
            if self._is_base64():
                await self._ws.send_str(f"{channel}{base64.b64encode(payload).decode()}")
            else:
                await self._ws.send_bytes(bytes([channel]) + payload)
        except (ConnectionError, RuntimeError) as error:
            raise _Gone from error

    def _decoded(self, data: str | bytes) -> bytes:
        frame = data.encode() if isinstance(data, str) else data
        if not self._is_base64() or not frame:
            return frame
        try:
            return bytes([frame[0] - ord("0")]) + base64.b64decode(frame[1:])
        except ValueError:
            return b""

    def _is_base64(self) -> bool:
        return "base64" in self._protocol

    async def _status(self, status: Object) -> None:
        versioned = self._protocol.startswith(("v4.", "v5."))
        text = go_json(status) if versioned else status.get("message", "")
        if text and not self._switches.no_status:
            await self._send(_ERROR, text.encode())
        if self._pod.frozen:
            await asyncio.Event().wait()
        await self._ws.close()

    def _exited(self, code: int) -> Object:
        if code == 0:
            return {"metadata": {}, "status": "Success"}
        words = f"error executing command [{' '.join(self._asked.command)}], exit code {code}"
        if self._protocol == V5:
            words = f"command terminated with exit code {code}"
        message = f"command terminated with non-zero exit code: {words}"
        status: Object = {"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode"}
        return status | {"details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}

    def _not_started(self, words: str) -> Object:
        number = secrets.token_hex(32)
        cause = f'error executing command in container: failed to exec in container: failed to start exec "{number}": '
        cause += f"OCI runtime exec failed: {words}"
        if self._protocol == V5:
            cause = f"Internal error occurred: {cause}"
        status: Object = {"metadata": {}, "status": "Failure", "message": f"Internal error occurred: {cause}"}
        return status | {"reason": "InternalError", "details": {"causes": [{"message": cause}]}, "code": 500}


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _let_go(process: Process) -> None:
    """Give a process the end of its input and keep its other streams open, unread, until it has ended."""
    process.close_input()
    await process.wait()
    process.close()
