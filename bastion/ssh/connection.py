"""One SSH connection: who it is, by the key whose signature verified, and what it may open."""

import asyncio
import contextlib
import ipaddress
from collections.abc import Coroutine
from typing import Protocol

import asyncssh
import structlog
from asyncssh.packet import PacketDecodeError, SSHPacket

from bastion.errors import BastionError, SessionEnded
from bastion.keyring import Keyring
from bastion.model import Identity, Name, Request
from bastion.ssh.channel import SessionChannel
from bastion.ssh.guard import Guard
from bastion.targets import parse

MOST_PROBES = 20
MOST_BAD_SIGNATURES = 10
MOST_REFUSED_CHANNELS = 100
MOST_LEFT_BEHIND = 64  # requests still under way whose channels the client has closed
FAREWELL_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Server(Protocol):
    """What a connection needs of the server it came in by."""

    keyring: Keyring
    max_channels: int

    def admit(self, connection: "Connection") -> bool:
        """Take the connection in, unless too many wait to log in."""
        ...

    def logged_in(self, connection: "Connection") -> None:
        """Count it as logged in."""
        ...

    def forget(self, connection: "Connection") -> None:
        """Let go of a connection that is lost."""
        ...

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run the work as a task that lives on when the connection has gone."""
        ...

    async def serve(self, connection: "Connection", request: Request, channel: SessionChannel) -> None:
        """Carry a request out."""
        ...


class Connection(asyncssh.SSHServer):
    """asyncssh's owner of one connection.

    asyncssh names neither the key that signed nor refuses weak signatures, so that the verifying step itself is wrapped
    here; a test pins its signature (reference: docs/security.md, "The verified key").
    """

    identity: Identity
    name: Name
    guard: Guard

    def __init__(self, server: Server) -> None:
        self._server = server
        self._verified: tuple[str, bytes] | None = None
        self._accepted: Identity | None = None
        self._admitted = False
        self._authenticated = False
        self._ending = False
        self._probes = 0
        self._bad_signatures = 0
        self._refused_channels = 0
        self._channels: set[SessionChannel] = set()
        self._under_way = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    # Arriving and leaving.

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Admit the connection and stand guard over it."""
        self._conn = conn
        self.address = str((conn.get_extra_info("peername") or ("",))[0])
        self._admitted = self._server.admit(self)
        if not self._admitted:
            conn.abort()
            return
        self.guard = Guard(conn)
        self._verify = conn.validate_public_key
        conn.validate_public_key = self._verify_key  # type: ignore[method-assign,assignment] # asyncssh passes by position

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything that waits for this connection."""
        self._all_closed.set()
        if self._admitted:
            self.guard.release()
            self._server.forget(self)

    @property
    def local_address(self) -> str:
        """The local address the client connected to, as IP:PORT."""
        host, port = (self._conn.get_extra_info("sockname") or ("", 0))[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def end(self, reason: SessionEnded) -> None:
        """End every session of this connection for the reason, open no more, then end the connection."""
        if self._ending:
            return
        self._ending = True
        for channel in list(self._channels):
            channel.end(reason)
        self._server.keep(self._disconnect(reason))

    async def _disconnect(self, reason: SessionEnded) -> None:
        """Disconnect once every channel has told its reason and is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._all_closed.wait()
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, reason.public)

    # Authentication.

    def begin_auth(self, username: str) -> bool:
        """Demand authentication from everybody; whether the name is one is checked with the key."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Offer public keys, and nothing else."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether the key is somebody's and the name fits the grammar; asked for probes and signatures."""
        try:
            parse(username)
        except BastionError:
            return False
        self._accepted = self._server.keyring.identify(key.public_data, self.address)
        return self._accepted is not None

    async def _verify_key(self, username: str, key_data: bytes, message: bytes, signature: bytes) -> bool:
        """Wrap asyncssh's verification: count attempts, refuse SHA-1, and note the key that signed."""
        if message:
            good = (
                _is_as_written(username, message)
                and _is_strong(key_data, signature)
                and await self._verify(username, key_data, message, signature)
            )
            self._bad_signatures += not good
        else:
            good = await self._verify(username, key_data, message, signature)
            self._probes += 1
        if self._bad_signatures > MOST_BAD_SIGNATURES or self._probes > MOST_PROBES:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )
        if good and message and self._verified is None:
            self._verified = username, key_data
        return good

    def auth_completed(self) -> None:
        """Fix the identity, from the key that signed and no other."""
        identity = self._verified and self._server.keyring.identify(self._verified[1], self.address)
        if self._verified is None or identity is None or identity != self._accepted:
            self._conn.abort()
            return
        self.identity = identity
        self.name = parse(self._verified[0])
        self._authenticated = True
        self.guard.authenticated()
        self._server.logged_in(self)
        log.info("login", user=identity.user, key_fingerprint=identity.key_fingerprint, client_address=self.address)

    # What it may open: sessions. Everything else is refused by asyncssh's defaults.

    def session_requested(self) -> SessionChannel | bool:
        """Open a session channel while there are not too many."""
        limit = self._server.max_channels
        if (
            self._authenticated
            and not self._ending
            and len(self._channels) < limit
            and self._under_way < limit + MOST_LEFT_BEHIND
        ):
            channel = SessionChannel(self)
            self._channels.add(channel)  # now: asyncssh opens it later, behind other requests of the same moment
            self._all_closed.clear()
            return channel
        self._refused_channels += 1
        if self._refused_channels > MOST_REFUSED_CHANNELS:
            asyncio.get_running_loop().call_soon(self._conn.abort)
        return False

    async def start(self, request: Request, channel: SessionChannel) -> None:
        """Carry the request out on the channel."""
        self._under_way += 1
        try:
            await self._server.serve(self, request, channel)
        finally:
            self._under_way -= 1

    def drop(self, why: str) -> None:
        """End the connection at once: its client does what none in good faith does."""
        log.info("connection dropped", user=self.identity.user, client_address=self.address, reason=why)
        self._conn.abort()

    def closed(self, channel: SessionChannel) -> None:
        """Count a channel as closed."""
        self._channels.discard(channel)
        if not self._channels:
            self._all_closed.set()

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run the work as a task that lives on when the connection has gone."""
        self._server.keep(work)


def source_of(address: str) -> str:
    """Return what a client's address counts as: an IPv4 address itself, of IPv6 the /64, which one client may own."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _is_as_written(username: str, message: bytes) -> bool:
    """Tell whether the name in the signed request is the one we were given: asyncssh normalises Unicode look-alikes."""
    try:
        packet = SSHPacket(message)
        packet.get_byte()
        return packet.get_string() == username.encode()
    except PacketDecodeError:
        return False


def _is_strong(key_data: bytes, signature: bytes) -> bool:
    """Tell whether the signature's algorithm is the key's own, and for RSA one with SHA-2 (RFC 8332)."""
    try:
        key_type, algorithm = SSHPacket(key_data).get_string(), SSHPacket(signature).get_string()
    except PacketDecodeError:
        return False
    if key_type == b"ssh-rsa":
        return algorithm in (b"rsa-sha2-256", b"rsa-sha2-512")
    return algorithm == key_type
