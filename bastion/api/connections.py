"""One connection of the API: one of not too many, whose requests come and whose answers are taken in time."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bastion.admission import source_of
from bastion.api.callers import Peer
from bastion.api.limits import BODY_SECONDS
from bastion.tasks import background

MOST_CONNECTIONS: Final = 128  # of one listener
MOST_OF_ONE_ADDRESS: Final = 32
HEADER_SECONDS: Final = 10.0
HANDSHAKE_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 60.0  # how long a client may take nothing of an answer
_UCRED: Final = struct.Struct("3i")  # process, user and group id: unix(7), SO_PEERCRED


class Protocol(H11Protocol):
    """One connection of which it is known who is at its other end."""

    network = ""
    _made = False
    _early = b""
    _awaited: object = None
    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Note who it is, or turn the connection away."""
        super().connection_made(transport)
        self._made = True
        self.network = _network_of(transport)
        same = sum(isinstance(other, Protocol) and other.network == self.network for other in self.connections)
        if len(self.connections) > MOST_CONNECTIONS or (self.network and same > MOST_OF_ONE_ADDRESS):
            transport.abort()
            return
        self.app_state = {**self.app_state, "peer": _peer(transport), "abort": transport.abort}
        self.data_received(self._early)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
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

    def _watch_request(self) -> None:
        state = self.conn.their_state
        if state is self._awaited:
            return
        self._awaited = state
        if self._late is not None:
            self._late.cancel()
            self._late = None
        # A body that a route reads is cut earlier, with an answer; one that is left unread would come for ever.
        seconds = {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: HEADER_SECONDS + BODY_SECONDS}.get(state)
        if seconds is not None:
            self._late = self.loop.call_later(seconds, self.transport.abort)


class Gate(asyncio.Protocol):
    """A connection whose TLS handshake is not over: one of not too many, since each is a descriptor."""

    def __init__(self, tls: ssl.SSLContext, waiting: "set[Gate]", make: Callable[[], Protocol]) -> None:
        self.network = ""
        self._tls = tls
        self._waiting = waiting
        self._make = make
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, or turn the connection away."""
        if not isinstance(transport, asyncio.Transport):
            return
        self.network = _network_of(transport)
        same = sum(other.network == self.network for other in self._waiting)
        if len(self._waiting) >= MOST_CONNECTIONS or same >= MOST_OF_ONE_ADDRESS:
            transport.abort()
            return
        self._waiting.add(self)
        self._shaking = background(self._shake(transport), name="api handshake")
        self._shaking.add_done_callback(lambda _: self._waiting.discard(self))

    def cancel(self) -> None:
        """Leave it."""
        if self._shaking is not None:
            self._shaking.cancel()

    async def _shake(self, transport: asyncio.Transport) -> None:
        protocol = self._make()
        try:
            secret = await asyncio.get_running_loop().start_tls(
                transport, protocol, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError:  # what a stranger sends is nothing to speak of
            return
        if secret is not None and not secret.is_closing():
            protocol.connection_made(secret)


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
