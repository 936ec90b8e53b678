"""Bound what one SSH connection can make us hold and do: asyncssh itself buffers without limit in four places.

It ignores the transport's back-pressure, queues everything sent during a key exchange, queues everything received while
authentication is pending, and answers requests whether anybody reads or not. One Guard per connection closes all four.
It also bounds what asyncssh lets run on: a key exchange without end, global requests, and refused channels.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncssh
import structlog
from asyncssh.packet import SSHPacket

PENDING_INPUT = 256 * 1024
UNREAD_OUTPUT = 4 * 2**20
PACKETS_HELD = 4096
REQUESTS_HELD = 1024
STALLED_SECONDS = 120.0
KEY_EXCHANGE_SECONDS = 30.0
MAX_GLOBAL_REQUESTS = 100  # at once, and in each minute: OpenSSH's ServerAliveInterval=1 asks 60 times in a minute
MAX_REFUSED_CHANNELS = 100  # of one connection
_MSG_GLOBAL_REQUEST = 80  # RFC 4254 §9
_POLL_SECONDS = 0.01

log = structlog.get_logger(__name__)


class Guard:
    """Stands between one asyncssh connection and its transport.

    It replaces methods of the connection object, which asyncio looks up anew at each call.
    """

    def __init__(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connection = connection
        self._writable = asyncio.Event()
        self._writable.set()
        self._stalled: asyncio.TimerHandle | None = None
        self._exchange_deadline: asyncio.TimerHandle | None = None
        self._pending = 0
        self._requests_left = float(MAX_GLOBAL_REQUESTS)
        self._requested_at = time.monotonic()
        self._refused_channels = 0
        self._is_dropped = False
        self._deliver: Callable[[bytes], None] = connection.data_received
        connection.pause_writing = self._pause  # type: ignore[method-assign] # asyncssh's own does nothing
        connection.resume_writing = self._resume  # type: ignore[method-assign]
        connection.data_received = self._count_pending  # type: ignore[method-assign,assignment]
        # asyncssh 2.24.1 has no public name for these. Pinned by test_asyncssh_still_has_what_is_hooked.
        connection._send = self._write  # type: ignore[method-assign] # noqa: SLF001
        self._begin_exchange = connection._send_kexinit  # noqa: SLF001
        connection._send_kexinit = self._watch_exchange  # type: ignore[method-assign] # noqa: SLF001
        self._take_request = connection._packet_handlers[_MSG_GLOBAL_REQUEST]  # noqa: SLF001
        connection._packet_handlers = {  # noqa: SLF001
            **connection._packet_handlers,  # noqa: SLF001
            _MSG_GLOBAL_REQUEST: self._count_request,
        }
        self._refuse_channel = connection.send_channel_open_failure
        connection.send_channel_open_failure = self._count_refusal  # type: ignore[method-assign]

    def authenticated(self) -> None:
        """Stop counting what arrives: from here on the channels' windows bound it, and `_bound_answers` the rest."""
        self._connection.data_received = self._bound_answers  # type: ignore[method-assign,assignment]

    async def clear(self) -> None:
        """Wait until the transport takes more and no key exchange is under way."""
        # A connection that closed while it waited is let through: the write that follows then says so.
        await self._until_writable()
        while self._exchanging():  # not for ever: see `_watch_exchange`
            await asyncio.sleep(_POLL_SECONDS)
            await self._until_writable()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Hand to the transport in one piece what is written inside: asyncssh hands over each packet by itself."""
        held: list[bytes] = []
        self._connection._send = held.append  # type: ignore[method-assign,assignment] # noqa: SLF001 - no public name
        try:
            yield
        finally:
            self._connection._send = self._write  # type: ignore[method-assign] # noqa: SLF001
            if held:
                self._write(b"".join(held))

    def drop(self, reason: str, **facts: object) -> None:
        """End the connection at once: its client does what none in good faith does."""
        if not self._is_dropped:
            self._is_dropped = True
            log.info("connection dropped", reason=reason, **facts)
            self._connection.abort()

    def release(self) -> None:
        """Let every waiter go: the connection is lost."""
        self._disarm()
        if self._exchange_deadline is not None:
            self._exchange_deadline.cancel()
        self._writable.set()

    async def _until_writable(self) -> None:
        while not self._writable.is_set():  # again for each: of many that wait, the first may fill it
            await self._writable.wait()

    def _exchanging(self) -> bool:
        return not self._connection._kex_complete and not self._connection.is_closed()  # noqa: SLF001 - no public name

    def _pause(self) -> None:
        self._writable.clear()
        self._stalled = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._connection.abort)

    def _resume(self) -> None:
        self._disarm()
        self._writable.set()

    def _disarm(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _bound_answers(self, data: bytes) -> None:
        connection = self._connection
        self._deliver(data)
        transport = connection._transport  # noqa: SLF001 - no public name, as the two below
        if transport is not None and (
            transport.get_write_buffer_size() > UNREAD_OUTPUT
            or len(connection._deferred_packets) > PACKETS_HELD  # noqa: SLF001
            or len(connection._global_request_queue) > REQUESTS_HELD  # noqa: SLF001
        ):
            self.drop("it asks for more than it reads")

    def _count_pending(self, data: bytes) -> None:
        self._pending += len(data)
        if self._pending > PENDING_INPUT:
            self._connection.abort()
        else:
            self._deliver(data)

    def _write(self, data: bytes) -> None:
        # asyncio logs "socket.send() raised exception" at writes to a transport that has failed, which asyncssh does
        # not look at. Pinned by test_a_client_that_resets_leaves_no_warning.
        transport = self._connection._transport  # noqa: SLF001 - no public name
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _watch_exchange(self) -> None:
        """Begin a key exchange, the client's or ours, that must end in time, whether anything is written or not."""
        if self._exchange_deadline is not None:
            self._exchange_deadline.cancel()
        self._exchange_deadline = asyncio.get_running_loop().call_later(KEY_EXCHANGE_SECONDS, self._end_exchange)
        self._begin_exchange()

    def _end_exchange(self) -> None:
        if self._exchanging():
            self.drop("its key exchange does not end")

    def _count_request(self, connection: Any, kind: int, sequence: int, packet: SSHPacket) -> Awaitable[None] | None:
        """Take a global request (RFC 4254 §4) while there are not too many: a bucket that a minute fills."""
        if self._is_dropped:
            return None
        passed, self._requested_at = time.monotonic() - self._requested_at, time.monotonic()
        filled = self._requests_left + passed * MAX_GLOBAL_REQUESTS / 60
        self._requests_left = min(filled, MAX_GLOBAL_REQUESTS) - 1
        if self._requests_left < 0:
            self.drop("it sends too many global requests")
            return None
        return self._take_request(connection, kind, sequence, packet)

    def _count_refusal(self, send_chan: int, code: int, reason: str, lang: str) -> None:
        """Refuse to open a channel, of whatever type, and end a connection to which that happens too often."""
        self._refused_channels += 1
        if self._refused_channels > MAX_REFUSED_CHANNELS:
            self.drop("it opens too many channels that are refused")
        else:
            self._refuse_channel(send_chan, code, reason, lang)
