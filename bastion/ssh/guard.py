"""Bound what one SSH connection can make us hold: asyncssh itself buffers without limit in four places.

It ignores the transport's back-pressure, queues everything sent during a key exchange, queues everything received while
authentication is pending, and answers requests whether anybody reads or not. One Guard per connection closes all four.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncssh
import structlog

PENDING_INPUT = 256 * 1024
UNREAD_OUTPUT = 4 * 2**20
PACKETS_HELD = 4096
REQUESTS_HELD = 1024
STALLED_SECONDS = 120.0
KEY_EXCHANGE_SECONDS = 30.0
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
        self._pending = 0
        self._deliver: Callable[[bytes], None] = connection.data_received
        connection.pause_writing = self._pause  # type: ignore[method-assign] # asyncssh's own does nothing
        connection.resume_writing = self._resume  # type: ignore[method-assign]
        connection.data_received = self._count_pending  # type: ignore[method-assign,assignment]

    def authenticated(self) -> None:
        """Stop counting what arrives: from here on the channels' windows bound it, and `_bound_answers` the rest."""
        self._connection.data_received = self._bound_answers  # type: ignore[method-assign,assignment]

    async def clear(self) -> None:
        """Wait until the transport takes more and no key exchange is under way."""
        # A connection that closed while it waited is let through: the write that follows then says so.
        await self._until_writable()
        if not self._exchanging():
            return
        try:
            async with asyncio.timeout(KEY_EXCHANGE_SECONDS):
                while self._exchanging():
                    await asyncio.sleep(_POLL_SECONDS)
                    await self._until_writable()
        except TimeoutError:
            self._connection.abort()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Hand to the transport in one piece what is written inside: asyncssh hands over each packet by itself."""
        held: list[bytes] = []
        self._connection._send = held.append  # type: ignore[method-assign,assignment] # noqa: SLF001 - no public name
        try:
            yield
        finally:
            del self._connection._send  # noqa: SLF001
            if held:
                self._connection._send(b"".join(held))  # noqa: SLF001

    def release(self) -> None:
        """Let every waiter go: the connection is lost."""
        self._disarm()
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
            log.info("connection dropped", reason="it asks for more than it reads")
            connection.abort()

    def _count_pending(self, data: bytes) -> None:
        self._pending += len(data)
        if self._pending > PENDING_INPUT:
            self._connection.abort()
        else:
            self._deliver(data)
