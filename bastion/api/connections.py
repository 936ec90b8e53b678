"""One connection of the API: one of not too many, whose requests come and whose answers are taken in time."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bastion.admission import Startup, StartupTable, source_of
from bastion.api.callers import Peer
from bastion.api.limits import BODY_SECONDS
from bastion.config import MaxStartups
from bastion.tasks import background

MAX_WAITING: Final = 128  # connections of one listener that have yet to send a handshake or a request
MAX_WAITING_PER_SOURCE: Final = 32
MAX_ANSWERING: Final = 128  # connections of one listener whose requests are being answered
HEADER_SECONDS: Final = 10.0
HANDSHAKE_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 60.0  # how long a client may take nothing of an answer
_UCRED: Final = struct.Struct("3i")  # process, user and group id: unix(7), SO_PEERCRED


class Room:
    """The connections of one listener: the waiting connections, by source, and those whose requests are answered.

    As before a login by SSH, the source with most waiting connections loses one of them when there are too many. A
    unix socket has a single source, its administrators, which may take every place.
    """

    def __init__(self, *, is_unix: bool) -> None:
        limits = MaxStartups(MAX_WAITING, 100, MAX_WAITING)
        self._waiting = StartupTable(limits, MAX_WAITING if is_unix else MAX_WAITING_PER_SOURCE)
        self._answering: set[Protocol] = set()

    def wait_for(self, transport: asyncio.Transport, network: str) -> Startup | None:
        """Admit a connection that must send a handshake or a request; None when the connection itself is refused."""
        return self._waiting.admit(network, transport.abort)

    def leave(self, startup: Startup) -> None:
        """Remove a waiting connection."""
        self._waiting.release(startup)

    def answer(self, protocol: "Protocol") -> bool:
        """Admit a connection whose request has arrived; return False when too many requests are being answered."""
        if len(self._answering) >= MAX_ANSWERING:
            return False
        self._answering.add(protocol)
        return True

    def answered(self, protocol: "Protocol") -> None:
        """Remove a connection whose request was answered."""
        self._answering.discard(protocol)


class Protocol(H11Protocol):
    """One connection of which it is known who is at its other end."""

    network = ""
    startup: Startup | None = None
    _made = False
    _early = b""
    _awaited: object = None
    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, room: Room, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room = room

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Note who it is, or turn the connection away."""
        super().connection_made(transport)
        self._made = True
        self.network = _network_of(transport)
        if not self._wait():
            return
        self.app_state = {**self.app_state, "peer": _peer(transport), "abort": transport.abort}
        self.data_received(self._early)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        self._room.answered(self)
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()
        if self._made:  # else it went between the handshake and `connection_made`
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand it on, and see what of a request is still to come."""
        if not self._made:
            self._early += data
            return
        if data:
            super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent, but not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has taken some."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer has begun; the application then answers nobody.

        uvicorn 0.54.0 answers beside an application that still reads the body, whose own answer then raises h11's
        LocalProtocolError. Pinned by test_a_body_in_broken_chunks_is_no_error.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch_request()

    def _wait(self) -> bool:
        """Take a place among the waiting connections, or close."""
        self._room.answered(self)
        if self.startup is None:
            self.startup = self._room.wait_for(self.transport, self.network)
        else:
            self.startup.evict = self.transport.abort
        if self.startup is None:
            self.transport.close()
        return self.startup is not None

    def _stop_waiting(self) -> None:
        if self.startup is not None:
            self._room.leave(self.startup)
            self.startup = None

    def _watch_request(self) -> None:
        state = self.conn.their_state
        if state is self._awaited:
            return
        self._awaited = state
        if state in {h11.IDLE, h11.SEND_BODY}:
            if not self._wait():
                return
        else:
            self._stop_waiting()
            if not self._room.answer(self):
                self.transport.abort()
                return
        if self._late is not None:
            self._late.cancel()
            self._late = None
        # A body that a route reads is cut earlier, with an answer; one that is left unread would come for ever.
        seconds = {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: HEADER_SECONDS + BODY_SECONDS}.get(state)
        if seconds is not None:
            self._late = self.loop.call_later(seconds, self.transport.abort)


class Gate(asyncio.Protocol):
    """A connection whose TLS handshake is not over: one of not too many, since each is a descriptor."""

    def __init__(self, tls: ssl.SSLContext, waiting: "set[Gate]", room: Room, make: Callable[[], Protocol]) -> None:
        self._tls = tls
        self._waiting = waiting
        self._room = room
        self._make = make
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, or turn the connection away."""
        if not isinstance(transport, asyncio.Transport):
            return
        startup = self._room.wait_for(transport, _network_of(transport))
        if startup is None:
            transport.close()
            return
        self._waiting.add(self)
        self._shaking = background(self._shake(transport, startup), name="api handshake")
        self._shaking.add_done_callback(lambda _: self._waiting.discard(self))

    def cancel(self) -> None:
        """Leave it."""
        if self._shaking is not None:
            self._shaking.cancel()

    async def _shake(self, transport: asyncio.Transport, startup: Startup) -> None:
        protocol = self._make()
        protocol.startup = startup
        try:
            secret = await asyncio.get_running_loop().start_tls(
                transport, protocol, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError:  # what a stranger sends is nothing to speak of
            self._room.leave(startup)
            return
        except asyncio.CancelledError:
            self._room.leave(startup)
            raise
        if secret is not None and not secret.is_closing():
            protocol.connection_made(secret)
        else:
            self._room.leave(startup)


def _peer(transport: asyncio.Transport) -> Peer:
    connection = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        _, user_id, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer("unix", user_id)
    return Peer(str((transport.get_extra_info("peername") or ("unknown",))[0]))


def _network_of(transport: asyncio.Transport) -> str:
    """Return what the client's address counts as; nothing on a unix socket, whose clients are administrators."""
    if transport.get_extra_info("socket").family == socket.AF_UNIX:
        return ""
    return source_of(str((transport.get_extra_info("peername") or ("unknown",))[0]))
