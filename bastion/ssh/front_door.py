"""Where connections are accepted: a refused one costs no asyncssh connection, reads why, and is closed gracefully."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from bastion import descriptors
from bastion.admission import Gatekeeper, Refusal, Startup

FAREWELL_SECONDS: Final = 1.0  # how long a refused client has to read why
FAREWELL_BYTES: Final = 64 * 1024  # read and thrown away meanwhile
MAX_FAREWELLS: Final = 64  # at a time, since each holds a descriptor; others are closed at once
BACKLOG: Final = 1024  # connections that the kernel holds until they are accepted

SCARCE: Final = Refusal("descriptors", "Too many connections")

ConnectionFactory = Callable[[str, int], asyncio.Protocol]


async def resolve(host: str, port: int) -> list[tuple[str, int]]:
    """Return every address that a host has, as (address, port) pairs; an empty host is every address there is.

    Raises:
        OSError: it has none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((str(address[0]), int(address[1])) for _, _, _, _, address in found))


class Observer(Protocol):
    """What is told of connections that are refused."""

    def turned_away(self, address: str, refusal: Refusal) -> None:
        """Count a connection that was refused when it arrived."""
        ...


class FrontDoor:
    """Listens in asyncssh's stead: asyncssh.listen takes anything that has `create_server` as its `tunnel`.

    Pinned by tests/unit/ssh/test_front_door.py, with asyncssh 2.24.1.
    """

    def __init__(self, gatekeeper: Gatekeeper, observer: Observer) -> None:
        self.arriving: Startup | None = None
        self._gatekeeper = gatekeeper
        self._observer = observer
        self._farewells = 0

    async def create_server(
        self, session_factory: ConnectionFactory, listen_host: str, listen_port: int
    ) -> asyncio.Server:
        """Listen on one address, as `resolve` gives it; what is admitted is handed to a protocol of the factory's.

        Raises:
            OSError: the address cannot be bound.
        """
        family, _, _, _, address = socket.getaddrinfo(listen_host, listen_port, flags=socket.AI_NUMERICHOST)[0]
        listener = descriptors.Listener(
            family,
            farewell=SCARCE.line.encode() + b"\r\n",
            turned_away=lambda: self._observer.turned_away("", SCARCE),
        )
        descriptors.bind(listener, address, backlog=BACKLOG)
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Arrival(self, session_factory), sock=listener, backlog=BACKLOG)

    def arrive(self, address: str) -> Startup | Refusal:
        """Ask for admission; the connection that waits sets `evict` to what ends it."""
        decision = self._gatekeeper.arrive(address, _nothing)
        if isinstance(decision, Refusal):
            self._observer.turned_away(address, decision)
        return decision

    def abandon(self, startup: Startup) -> None:
        """Give back the place of a connection that nothing was made of."""
        self._gatekeeper.leave(startup, logged_in=False)

    def may_linger(self) -> bool:
        """Take a place among the refused connections that may read why, if there is one."""
        if self._farewells >= MAX_FAREWELLS:
            return False
        self._farewells += 1
        return True

    def lingered(self) -> None:
        """Give that place back."""
        self._farewells -= 1


class _Arrival(asyncio.Protocol):
    """A connection until it is handed to asyncssh, or refused."""

    def __init__(self, door: FrontDoor, factory: ConnectionFactory) -> None:
        self._door = door
        self._factory = factory
        self._discarded_bytes = 0
        self._farewell: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have it admitted."""
        if not isinstance(transport, asyncio.Transport):
            return
        self._transport = transport
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        decision = self._door.arrive(str(host))
        if isinstance(decision, Refusal):
            self._refuse(decision)
            return
        self._door.arriving = decision
        connection: Any = None
        try:
            connection = self._factory(str(host), int(port))
            transport.set_protocol(connection)
            connection.connection_made(transport)
        finally:
            if self._door.arriving is not None:  # no owner took it: it failed
                self._door.arriving = None
                self._door.abandon(decision)

    def data_received(self, data: bytes) -> None:
        """Throw away what a refused client sends: unread, it would make the kernel answer the close with a reset."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > FAREWELL_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Give the place back."""
        if self._farewell is not None:
            self._farewell.cancel()
            self._door.lingered()

    def _refuse(self, refusal: Refusal) -> None:
        """Send a line before the identification (RFC 4253 §4.2), then close once the client has."""
        self._transport.write(refusal.line.encode() + b"\r\n")
        if not self._door.may_linger():
            self._transport.close()
            return
        self._transport.write_eof()
        self._farewell = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._transport.abort)


def _nothing() -> None:
    return
