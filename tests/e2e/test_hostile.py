"""Clients that misbehave: before they are known they get nothing, and what they cost is bounded (docs/security.md)."""

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence

import asyncssh
import pytest
from asyncssh.packet import String, UInt32

from tests.e2e.server import Bastion
from tests.e2e.test_transfer import resident

USERAUTH_REQUEST = 50
CHANNEL_OPEN = 90


async def _login(
    bastion: Bastion, name: str, key: str | asyncssh.SSHKey, **options: object
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1", bastion.port, username=name, known_hosts=str(bastion.known_hosts), config=None,
        client_keys=[key], agent_path=None, **options,
    )  # fmt: skip


async def _create_connection(bastion: Bastion, factory: Callable[[], asyncssh.SSHClient]) -> None:
    await asyncssh.create_connection(
        factory, "127.0.0.1", bastion.port, username="web@mystack", known_hosts=str(bastion.known_hosts), config=None,
        client_keys=None, agent_path=None,
    )  # fmt: skip


def _ignore(_data: bytes, _datatype: asyncssh.DataType = None) -> None:
    return


def test_asyncssh_still_has_the_step_that_is_wrapped() -> None:
    """The verifying step that Connection wraps has the parameters it is called with, in an asyncssh that is safe."""
    parameters = list(inspect.signature(asyncssh.SSHServerConnection.validate_public_key).parameters)
    assert parameters == ["self", "username", "key_data", "msg", "signature"]
    assert tuple(int(part) for part in asyncssh.__version__.split(".")[:3]) >= (2, 24, 1)


def _userauth(
    connection: asyncssh.SSHClientConnection, key: asyncssh.SSHKey, *, signed: bool, name: str = "web@mystack"
) -> bytes:
    """Return the body of a publickey request (RFC 4252 §7), with a signature or as a probe."""
    body = String(name) + String("ssh-connection") + String("publickey") + (b"\1" if signed else b"\0")
    body += String(key.algorithm) + String(key.public_data)
    if signed:
        body += String(key.sign(String(connection._session_id) + bytes([USERAUTH_REQUEST]) + body, key.algorithm))  # noqa: SLF001
    return body


def _asking(requests: Callable[[asyncssh.SSHClientConnection], Sequence[bytes]]) -> type[asyncssh.SSHClient]:
    """Return a client that sends these publickey requests as they are, and does not listen to what is answered."""

    class Asking(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self.connection = conn

        async def public_key_auth_requested(self) -> None:
            for request in requests(self.connection):
                self.connection.send_packet(USERAUTH_REQUEST, request)
            self.connection.data_received = _ignore  # type: ignore[method-assign,assignment]
            await asyncio.sleep(60)

    return Asking


@contextlib.asynccontextmanager
async def _sent(bastion: Bastion, client: type[asyncssh.SSHClient]) -> AsyncIterator[None]:
    task = asyncio.create_task(_create_connection(bastion, client))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncssh.Error, OSError):
            await task


NAMES = [
    "",
    "web＠mystack",
    "ｗｅｂ@mystack",
    "web@mystack\u00ad",
    "a" * 321 + "@mystack",
    "a@b@c",
    "a+b+c@s",
    "web@my stack",
]
NAMES += [
    "web@mystack\n",
    "web\0@mystack",
    "$(id)@x",
    "%u@x",
    "../web@mystack",
    "-web@mystack",
    "web@../mystack",
    "w" * 1023,
]


@pytest.mark.parametrize("name", NAMES)
async def test_names_outside_the_grammar_do_not_log_in(bastion: Bastion, name: str) -> None:
    """A good key and a true signature over a name that is none log nobody in."""
    alice = asyncssh.read_private_key(bastion.folder / "alice.key")
    logins = len(bastion.events("login"))
    async with _sent(bastion, _asking(lambda conn: [_userauth(conn, alice, signed=True, name=name)])):
        await asyncio.sleep(1)
    assert len(bastion.events("login")) == logins


@pytest.mark.parametrize("signer_first", [False, True])
async def test_the_identity_is_the_key_that_signed(bastion: Bastion, *, signer_first: bool) -> None:
    """A probe with alice's key, before or behind a signature of carol's in one go, logs in nobody but carol."""
    alice = asyncssh.read_private_key(bastion.folder / "alice.key")
    carol = asyncssh.generate_private_key("ssh-ed25519")
    bastion.cli("keys", "add", "carol", carol.export_public_key().decode())
    await asyncio.sleep(2.5)
    logins = len(bastion.events("login"))

    def requests(connection: asyncssh.SSHClientConnection) -> Sequence[bytes]:
        both = [_userauth(connection, alice, signed=False), _userauth(connection, carol, signed=True)]
        return both[::-1] if signer_first else both

    async with _sent(bastion, _asking(requests)), asyncio.timeout(20):
        while len(bastion.events("login")) == logins:
            await asyncio.sleep(0.1)
    assert [login["user"] for login in bastion.events("login")[logins:]] == ["carol"]


async def test_sha1_signatures_are_refused(bastion: Bastion) -> None:
    """An RSA key logs in with rsa-sha2-512 and not with ssh-rsa, which is SHA-1."""
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    users = bastion.keys / "users"
    (users / "rita.pub").write_bytes(key.export_public_key())
    await asyncio.sleep(2.5)
    try:
        (await _login(bastion, "web@mystack", key, signature_algs=["rsa-sha2-512"])).close()
        with pytest.raises(asyncssh.PermissionDenied):
            await _login(bastion, "web@mystack", key, signature_algs=["ssh-rsa"])
    finally:
        (users / "rita.pub").unlink()


def test_silent_connections_do_not_stop_a_login(bastion: Bastion) -> None:
    """Of sixty sockets that say nothing the limit per source cuts most; a login from elsewhere works meanwhile."""
    silent = [socket.create_connection(("127.0.0.1", bastion.port), source_address=("127.0.0.2", 0)) for _ in range(60)]
    try:
        began = time.monotonic()
        assert bastion.ssh("echo in").stdout == b"in\n"
        assert time.monotonic() - began < 20
        cut = 0
        for one in silent:
            one.settimeout(5)
            try:
                while data := one.recv(4096):
                    cut += data == b"Exceeded MaxStartups\r\n"
                    assert data.startswith((b"SSH-2.0-", b"Exceeded MaxStartups\r\n"))
                    break
                cut += not data
            except ConnectionResetError:
                cut += 1
        assert cut >= 50
    finally:
        for one in silent:
            one.close()


async def test_input_before_login_is_bounded(own: Bastion) -> None:
    """A stranger who floods is cut off after 256 KiB, and costs no memory to speak of."""
    own.start()
    before = resident(own.pid)
    _, writer = await asyncio.open_connection("127.0.0.1", own.port)
    writer.write(b"SSH-2.0-flood\r\n")
    sent = 0
    while sent < 64 * 2**20:
        writer.write(UInt32(200000) + b"\0" * 200000)
        sent += 200000
        try:
            await writer.drain()
        except ConnectionError:
            break
    else:
        pytest.fail("a stranger's flood was read to its end")
    writer.close()
    assert resident(own.pid) - before < 8 * 2**20


async def test_too_many_keys_end_the_connection(bastion: Bastion) -> None:
    """Fifteen wrong keys before the right one log in; fifty do not."""
    right = asyncssh.read_private_key(bastion.folder / "alice.key")

    async def with_wrong(count: int) -> None:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(count)]
        connection = await asyncssh.connect(
            "127.0.0.1", bastion.port, username="web@mystack", known_hosts=str(bastion.known_hosts), config=None,
            client_keys=[*keys, right], agent_path=None,
        )  # fmt: skip
        connection.close()

    await with_wrong(9)
    with pytest.raises(asyncssh.Error):
        await with_wrong(50)


async def test_channels_of_one_connection_are_bounded(bastion: Bastion) -> None:
    """The eleventh channel of a connection is refused; no forward, tunnel or agent channel is opened at all."""
    connection = await _login(bastion, "web@mystack", str(bastion.folder / "alice.key"))
    async with connection:
        processes = [await connection.create_process("sleep 100") for _ in range(10)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("true")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("169.254.169.254", 80)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "127.0.0.1", 1)
        for process in processes:
            process.close()


async def test_nothing_runs_before_authentication(bastion: Bastion) -> None:
    """A channel opened before login ends the connection."""
    logins = len(bastion.events("login"))

    class Impatient(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self.connection = conn

        def public_key_auth_requested(self) -> None:
            self.connection._auth_complete = True  # noqa: SLF001
            self.connection.send_packet(CHANNEL_OPEN, String("session"), UInt32(0), UInt32(2**20), UInt32(32768))

    with pytest.raises((asyncssh.Error, OSError)):
        await asyncio.wait_for(_create_connection(bastion, Impatient), 20)
    assert len(bastion.events("login")) == logins
