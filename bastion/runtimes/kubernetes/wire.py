"""One WebSocket to a pod: what comes of it, pings both ways, and when silence means that the connection is lost."""

import asyncio
import contextlib
import socket
import sys
from typing import Final

import aiohttp

from bastion.tasks import background

CONNECTION: Final = (aiohttp.ClientError, OSError)  # what sending and receiving raise when the connection is no more
ENDS: Final = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)

_PING: Final = 20.0  # seconds; a load balancer cuts a stream that was silent for 60
_SILENCE: Final = 90.0  # seconds without a byte, not even a pong's, while one reads
_LOOK: Final = 10.0  # seconds between looks at a connection whose server need not answer
# A server that waits for a program to take its input reads no pings. A pipe, terminal or socket takes so many at once.
_HARMLESS: Final = 2048
_UNANSWERED: Final = 2  # packets sent again in a row: one can be on its way
_TCP_INFO_BYTES: Final = 60
_RETRANSMITS, _PROBES = 2, 3  # where Linux's struct tcp_info has what was sent again since the last acknowledgement
_LAST_ACK: Final = slice(56, 60)  # milliseconds since any acknowledgement came


class WireLost(Exception):
    """The connection is no more, though nobody said so."""


class Wire:
    """A WebSocket that is open. `close` ends the pings, not the WebSocket; needs a running loop.

    That a server is gone shows by silence where it would have to answer: it has taken all that was sent, or that was
    little. Else it may wait for a program that takes no input, and only its host's TCP tells that anybody is there:
    by acknowledgements, which it gives of a full window too. (TCP_USER_TIMEOUT would end those, however alive.)
    """

    def __init__(self, opened: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.protocol = opened.protocol
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._taken = 0  # of what was sent: the server has answered a ping behind it
        self._pings = 0
        self._sent_at_ping = 0
        self._pinged = asyncio.Event()
        self._pong = b""
        self._pinging = background(self._keep(), name=f"ping {name}")

    def close(self) -> None:
        """Send no more pings."""
        self._pinging.cancel()

    async def send(self, frame: bytes) -> None:
        """Send a binary message, and wait while too much has not been taken.

        Raises:
            ClientError, OSError: the connection is no more.
        """
        self._sent += len(frame)
        await self._socket.send_bytes(frame)

    async def receive(self) -> aiohttp.WSMessage:
        """Return the next message that is no ping and no pong.

        Raises:
            WireLost: nothing came for 90 s, and the server would have answered or its host does not acknowledge.
            ClientError, OSError: the connection is no more.
        """
        heard = self._loop.time()
        while True:
            try:
                message = await self._socket.receive(max(heard + _SILENCE - self._loop.time(), min(_LOOK, _SILENCE)))
            except TimeoutError as error:
                if self._sent == self._taken or self._sent <= _HARMLESS:
                    raise WireLost(f"nothing came for {_SILENCE:.0f} s") from error
                if self._is_cut():
                    raise WireLost(f"the server's host acknowledged nothing for {_SILENCE:.0f} s") from error
                continue
            if message.type is aiohttp.WSMsgType.PING:
                self._pong = bytes(message.data)
                self._pinged.set()  # to answer here could wait for a server that waits for us to read
            elif message.type is aiohttp.WSMsgType.PONG:
                if message.data == b"%d" % self._pings:
                    self._taken = self._sent_at_ping
            else:
                return message
            heard = self._loop.time()

    async def _keep(self) -> None:
        """Ping now and then, and answer the last ping that came."""
        due = self._loop.time() + _PING
        with contextlib.suppress(*CONNECTION):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._pinged.wait()
                if self._pinged.is_set():
                    self._pinged.clear()
                    await self._socket.pong(self._pong)
                if self._loop.time() >= due:
                    due = self._loop.time() + _PING
                    self._pings += 1
                    self._sent_at_ping = self._sent
                    await self._socket.ping(b"%d" % self._pings)

    def _is_cut(self) -> bool:
        """Say whether the server's host has not acknowledged anything for long, though it was asked to."""
        ends: socket.socket | None = self._socket.get_extra_info("socket")
        if ends is None or sys.platform != "linux":
            return False
        try:
            told = ends.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # it was closed a moment ago, and the next look says so
            return False
        if len(told) < _TCP_INFO_BYTES:
            return False
        silent = int.from_bytes(told[_LAST_ACK], sys.byteorder) / 1000
        return silent >= _SILENCE and told[_RETRANSMITS] + told[_PROBES] >= _UNANSWERED
