"""The SSH server: listens with hardened settings, admits connections, and ends those whose key is no longer good."""

import asyncio
import contextlib
import re
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial

import asyncssh
import structlog

from bastion.admission import Gatekeeper, Refusal, source_of
from bastion.config import SshSettings
from bastion.errors import ConfigurationError, SessionEnded
from bastion.gateway import Gateway
from bastion.keyring import Keyring
from bastion.metrics import Metrics
from bastion.model import Request
from bastion.ssh.channel import SessionChannel
from bastion.ssh.connection import Connection
from bastion.ssh.connections import Connections
from bastion.ssh.front_door import FrontDoor, resolve
from bastion.ssh.host_keys import certificates_stamp, read_host_keys
from bastion.ssh.refused_logins import RefusedLogins
from bastion.tasks import background

SAFE_ASYNCSSH = (2, 24, 1)
KEY_CHECK_SECONDS = 2.0
CLOSE_SECONDS = 10.0
MAX_PROBLEMS_LOGGED = 20  # of the key home, at each change
LONGEST_ORIGINAL_COMMAND = 64 * 1024  # characters; an environment variable of 128 KiB keeps a program from starting

log = structlog.get_logger(__name__)


class SshServer:
    """All listeners and connections; one per process.

    The algorithms are those of docs/security.md: AES-GCM only, no finite-field Diffie-Hellman, no compression.
    """

    def __init__(self, settings: SshSettings, keyring: Keyring, gateway: Gateway, metrics: Metrics) -> None:
        self.keyring = keyring
        self.max_channels = settings.max_channels
        self.login_grace = settings.login_grace
        self.unused_timeout = settings.unused_connection_timeout
        self._settings = settings
        self._gateway = gateway
        self._metrics = metrics
        self._listeners: list[asyncssh.SSHAcceptor] = []
        self._connections: set[Connection] = set()
        self.refused_logins = RefusedLogins(metrics, gateway.note)
        self._gatekeeper = Gatekeeper(settings)
        self._logged_in = Connections(settings.max_connections_per_user, settings.max_connections_per_source)
        self._work: set[asyncio.Task[None]] = set()
        self._granted: set[Connection] = set()
        self._host_stamp: tuple[object, ...] = ()
        self._host_fault = ""

    async def listen(self) -> list[tuple[str, int]]:
        """Bind every address of `[ssh] listen`; return the (host, port) pairs bound.

        Raises:
            ConfigurationError: an address is malformed or cannot be bound, a host key is unreadable, or asyncssh is
                older than is safe.
        """
        _check_library()
        try:
            paths = self.keyring.host_keys()
            self._host_stamp = certificates_stamp(paths)
        except OSError as error:
            raise ConfigurationError(f"host keys: {error}", "bastion check") from error
        host_keys = read_host_keys(paths)
        for address in self._settings.listen:
            try:
                for host, port in await resolve(*_split(address)):
                    door = FrontDoor(self._gatekeeper, self)
                    listener = await asyncssh.listen(
                        host,
                        port,
                        tunnel=door,
                        server_factory=partial(self._take, door),
                        server_host_keys=host_keys,
                        server_version="bastion",
                        gss_host=None,
                        kex_algs=["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"],
                        encryption_algs=["aes256-gcm@openssh.com", "aes128-gcm@openssh.com"],
                        mac_algs=["hmac-sha2-256-etm@openssh.com"],
                        compression_algs=None,
                        password_auth=False,
                        kbdint_auth=False,
                        host_based_auth=False,
                        agent_forwarding=False,
                        x11_forwarding=False,
                        login_timeout=self._settings.login_grace,
                        keepalive_interval=self._settings.keepalive,
                        keepalive_count_max=3,
                        encoding=None,
                        line_editor=False,
                    )
                    self._listeners.append(listener)
            except OSError as error:
                await self.close()
                raise ConfigurationError(
                    f"cannot listen on {address}: {error.strerror or error}",
                    "another server may have the port: ss -ltnp shows it",
                ) from error
        return [address[:2] for listener in self._listeners for address in listener.get_addresses()]

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """End every connection and wait for what still cleans up after its sessions."""
        self.stop_listening()
        for connection in list(self._connections):
            connection.end(SessionEnded("the bastion is shutting down", "connect again in a moment"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._work:
                    await asyncio.wait(self._work)
        await self.refused_logins.flush(everything=True)
        if self._work:
            log.warning("stopped before all had cleaned up", left=len(self._work))

    async def watch_keys(self) -> None:
        """For ever: re-read what changed of the keys, and end connections whose key is no longer good."""
        reading: asyncio.Task[bool] | None = None
        while True:
            await asyncio.sleep(KEY_CHECK_SECONDS)
            reading = reading or background(asyncio.to_thread(self.keyring.refresh), name="refresh keys")
            await asyncio.wait({reading}, timeout=KEY_CHECK_SECONDS)  # a key expires whether a database answers or not
            if reading.done():
                if reading.result():
                    problems = self.keyring.problems
                    for problem in problems[:MAX_PROBLEMS_LOGGED]:
                        log.warning("key home", problem=problem)
                    if len(problems) > MAX_PROBLEMS_LOGGED:
                        log.warning("key home", problem="there are more", number=len(problems) - MAX_PROBLEMS_LOGGED)
                reading = None
            for key in self.keyring.newly_expired():
                self.keep(self._gateway.note("key expired", user=key.user, key_fingerprint=key.fingerprint))
            self._follow_host_certificates()
            self.keep(self.refused_logins.flush())
            for connection in [c for c in self._connections if c.is_logged_in]:
                self._end_if_not_good(connection)
                self._end_if_not_granted(connection)

    # What a connection asks of its server.

    def turned_away(self, address: str, refusal: Refusal) -> None:
        """Count a connection that was refused when it arrived."""
        self._metrics.turned_away(refusal.reason)
        self.refused_logins.turned_away(address, refusal)

    def logged_in(self, connection: Connection) -> None:
        """Count the connection as logged in, or tell its client that there are too many."""
        self._gatekeeper.log_in(connection.startup)
        user, source = connection.identity.user, source_of(connection.address)
        if reason := self._logged_in.add(connection, user, source):
            self._metrics.refused("connections")
            connection.end(SessionEnded(reason, "close a connection that is not used"))
            return
        self._metrics.login()
        facts = connection.facts
        log.info("login", **facts)
        self.keep(self._gateway.note("login", **facts))
        if self._gateway.may_enter(connection.identity, connection.name):
            self._granted.add(connection)

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is lost; one that never logged in may be held against its source."""
        self._gatekeeper.leave(connection.startup, logged_in=connection.is_logged_in)
        if (offence := connection.offence) is not None:
            self._gatekeeper.penalise(connection.address, offence)
        self._connections.discard(connection)
        self._logged_in.discard(connection)
        self._granted.discard(connection)

    def _take(self, door: FrontDoor) -> Connection:
        """Return the owner of the connection that the door has just admitted."""
        startup, door.arriving = door.arriving, None
        if startup is None:
            raise RuntimeError("asyncssh made a connection that did not come in by the door")
        connection = Connection(self, startup)
        self._connections.add(connection)
        return connection

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run the work as a task that lives on when the connection has gone."""
        task = background(work, name=getattr(work, "__qualname__", "ssh"))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def serve(self, connection: Connection, request: Request, channel: SessionChannel) -> None:
        """Hand a request to the gateway, unless the connection's key is no longer good."""
        self._end_if_not_good(connection)
        request = _forced(request, connection.identity.force_command)
        await self._gateway.serve(connection.identity, request, connection.local_address, channel)

    def _end_if_not_good(self, connection: Connection) -> None:
        if objection := self.keyring.objection(connection.identity):
            self._end(connection, SessionEnded(objection, "ask whoever runs this bastion for a new key"))

    def _end_if_not_granted(self, connection: Connection) -> None:
        """End a connection without sessions whose user has lost the grant; sessions the gateway ends, in more words."""
        if self._gateway.may_enter(connection.identity, connection.name):
            self._granted.add(connection)
        elif connection.is_idle and connection in self._granted:
            reason = "the grant for this connection is gone"
            self._end(connection, SessionEnded(reason, "ask whoever runs this bastion for a grant"))

    def _end(self, connection: Connection, reason: SessionEnded) -> None:
        if connection.is_ending:
            return
        connection.end(reason)
        facts = connection.facts
        log.info("connection ended", **facts, reason=reason.public)
        self.keep(self._gateway.note("connection ended", **facts, reason=reason.public))

    def _follow_host_certificates(self) -> None:
        """Show new connections the certificates that now lie beside the host keys.

        A wrong one changes nothing. What cannot be read changes nothing either, and is read again at the next look.
        """
        try:
            paths = self.keyring.host_keys()
            stamp = certificates_stamp(paths)
            if stamp != self._host_stamp:
                host_keys = read_host_keys(paths)
                self._host_stamp = stamp
                for listener in self._listeners:
                    listener.update(server_host_keys=host_keys)
        except (ConfigurationError, ValueError, OSError) as error:
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
                self._host_stamp = stamp
            if (reason := str(error)) != self._host_fault:
                log.error("host certificates not taken over", reason=reason)  # noqa: TRY400 - it is the file's fault
            self._host_fault = reason
        else:
            self._host_fault = ""


def _check_library() -> None:
    """Refuse an asyncssh that lets one user's name follow another's signature (threats A4)."""
    if tuple(int(number) for number in re.findall(r"\d+", asyncssh.__version__)[:3]) < SAFE_ASYNCSSH:
        raise ConfigurationError(
            f"asyncssh {asyncssh.__version__} is not safe to serve with",
            f"pip install 'asyncssh>={'.'.join(map(str, SAFE_ASYNCSSH))}'",
        )


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the highest port there is
        raise ConfigurationError(f"ssh.listen: {address} is no HOST:PORT", "write 127.0.0.1:2222 or [::1]:2222")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _forced(request: Request, command: str | None) -> Request:
    """Return the request with the certificate's command in place of what was asked for, as sshd(8) does."""
    if command is None:
        return request
    if command == "internal-sftp":
        return replace(request, kind="subsystem", command="sftp")
    asked = request.command if request.command and len(request.command) <= LONGEST_ORIGINAL_COMMAND else None
    # Engines take no NUL in a variable, and no bytes that are not UTF-8.
    is_text = asked is not None and "\0" not in asked and asked == request.command_text
    original = {"SSH_ORIGINAL_COMMAND": asked} if asked and is_text else {}
    return replace(request, kind="exec", command=command, environment={**request.environment, **original})
