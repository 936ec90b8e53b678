"""One SSH connection: who it is, by the key whose signature verified, and what it may open."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Protocol

import asyncssh
import structlog

from bastion.admission import Offence, Startup
from bastion.errors import SessionEnded
from bastion.keyring import Keyring
from bastion.log import shorten
from bastion.model import Identity, Name, Request
from bastion.ssh.authentication import Authentication
from bastion.ssh.channel import SessionChannel
from bastion.ssh.guard import Guard
from bastion.ssh.refused_logins import MAX_VERSION_BYTES, Reason, RefusedLogins, reason_of
from bastion.targets import parse

MOST_LEFT_BEHIND = 64  # requests still under way whose channels the client has closed
FAREWELL_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Server(Protocol):
    """What a connection needs of the server it came in by."""

    keyring: Keyring
    max_channels: int
    login_grace: float
    unused_timeout: float
    """How long a connection may have no channel, in seconds; 0 is for ever."""
    refused_logins: RefusedLogins

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
    """asyncssh's owner of one connection."""

    identity: Identity
    name: Name
    guard: Guard

    address = ""

    def __init__(self, server: Server, startup: Startup) -> None:
        self.startup = startup
        self._server = server
        self._is_evicted = False
        self._authenticated = False
        self._ending = False
        self._channels: set[SessionChannel] = set()
        self._under_way = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._unused: asyncio.TimerHandle | None = None

    # Arriving and leaving.

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Stand guard over the connection; while it waits to log in it may have to go for another."""
        self._conn = conn
        self.address = str((conn.get_extra_info("peername") or ("",))[0])
        self._arrived_at = asyncio.get_running_loop().time()
        self.startup.evict = self._evict
        self.guard = Guard(conn)
        self._authentication = Authentication(conn, self._server.keyring, self.address)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything that waits for this connection."""
        self._all_closed.set()
        self._stop_unused_clock()
        if not self._authenticated:
            self._record_refusal(exc)
        self._server.forget(self)
        self.guard.release()

    @property
    def local_address(self) -> str:
        """The local address the client connected to, as IP:PORT."""
        host, port = (self._conn.get_extra_info("sockname") or ("", 0))[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def client(self) -> str:
        """The version that the client's program gave."""
        return str(self._conn.get_extra_info("client_version", ""))

    @property
    def facts(self) -> dict[str, object]:
        """Who is at the other end, as the log and the ledger say it."""
        identity = self.identity
        facts: dict[str, object] = {
            "user": identity.user, "key_fingerprint": identity.key_fingerprint, "client_address": self.address,
        }  # fmt: skip
        if (found := identity.certificate) is not None:
            facts |= {"key_id": found.key_id, "serial": found.serial, "authority": found.authority}
        return facts

    @property
    def is_logged_in(self) -> bool:
        """Whether a key's signature was good."""
        return self._authenticated

    @property
    def offence(self) -> Offence | None:
        """What the end of this connection is held against its source for: a login that failed or was not tried.

        As sshd(8) sees it: the grace used up counts first, then attempts that failed, then that there was none.
        """
        if self._authenticated or self._is_evicted:
            return None
        if self._has_used_up_the_grace:
            return "grace_exceeded"
        return "authfail" if self._authentication.attempts.reasons else "noauth"

    @property
    def _has_used_up_the_grace(self) -> bool:
        return asyncio.get_running_loop().time() - self._arrived_at >= self._server.login_grace > 0

    def _record_refusal(self, error: Exception | None) -> None:
        """Write down that nobody has logged in here; a peer that came and left without a word is only counted."""
        attempts = self._authentication.attempts
        broken, detail = reason_of(error)
        reason: Reason = "no-attempt" if attempts.name is None else "no-key"
        if self._has_used_up_the_grace:
            reason = "grace"
        reason = attempts.reason or broken or ("evicted" if self._is_evicted else reason)
        facts = attempts.facts()
        if self.client:
            facts["client"] = shorten(self.client, MAX_VERSION_BYTES)
        if detail:
            facts["detail"] = detail
        self._server.refused_logins.record(self.address, reason, **facts)

    def _evict(self) -> None:
        self._is_evicted = True
        self._conn.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "Exceeded MaxStartups")

    @property
    def is_idle(self) -> bool:
        """Whether no channel is open, as between two uses of a ControlMaster."""
        return not self._channels

    @property
    def is_ending(self) -> bool:
        """Whether it opens nothing more."""
        return self._ending

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

    def auth_completed(self) -> None:
        """Fix the identity, from the key that signed and no other."""
        login = self._authentication.complete()
        if login is None:
            self._conn.abort()
            return
        username, admission = login
        self.identity = admission.identity
        self.name = parse(username)
        self._authenticated = True
        self.guard.authenticated()
        self._start_unused_clock()
        self._server.logged_in(self)

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
            self._stop_unused_clock()
            self._channels.add(channel)  # now: asyncssh opens it later, behind other requests of the same moment
            self._all_closed.clear()
            return channel
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
        self.guard.drop(why, user=self.identity.user, client_address=self.address)

    def closed(self, channel: SessionChannel) -> None:
        """Count a channel as closed."""
        self._channels.discard(channel)
        if not self._channels:
            self._all_closed.set()
            self._start_unused_clock()

    def _start_unused_clock(self) -> None:
        """End the connection when no channel is opened in time, as OpenSSH's UnusedConnectionTimeout does."""
        self._stop_unused_clock()
        if self._server.unused_timeout and not self._conn.is_closed():
            loop = asyncio.get_running_loop()
            self._unused = loop.call_later(self._server.unused_timeout, self._end_unused)

    def _stop_unused_clock(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None

    def _end_unused(self) -> None:
        if self._ending:
            return
        reason = f"no session for {self._server.unused_timeout:g} s"
        log.info("connection ended", user=self.identity.user, client_address=self.address, reason=reason)
        self.end(SessionEnded(reason, "connect again"))

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run the work as a task that lives on when the connection has gone."""
        self._server.keep(work)
