"""What a hostile peer sends to the running server: before the key exchange, before login, after login, and by HTTP.

A case is a sequence of messages, each with its length before it, so that one that found something can be sent again.
"""

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.packet import Boolean, MPInt, NameList, SSHPacket, String, UInt32

from tests.fuzz.mutation import Mutator
from tests.unit.ssh.house import CONFIRMED, REFUSED, Raw

NAME: Final = "web@mystack"
WAIT_SECONDS: Final = 20.0
STALLED_SECONDS: Final = 1.0
"""How long a login is waited for that the server may rightly wait for as well: a key exchange that was begun."""
KEXINIT, NEWKEYS, ECDH_INIT = 20, 21, 30
SERVICE_REQUEST, UNKNOWN = 5, 192
USERAUTH_REQUEST, USERAUTH_SUCCESS, USERAUTH_INFO_RESPONSE = 50, 52, 61
CHANNEL_OPEN = 90
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82


def pack(messages: Sequence[bytes]) -> bytes:
    """Put messages together as one case."""
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def unpack(case: bytes) -> list[bytes]:
    """Take a case apart."""
    messages = []
    while len(case) >= 4:
        length = struct.unpack_from(">I", case)[0]
        messages.append(case[4 : 4 + length])
        case = case[4 + length :]
    return messages


def _plain(message: bytes) -> bytes:
    padding = 8 - (len(message) + 5) % 8
    padding += 8 * (padding < 4)
    return struct.pack(">IB", len(message) + padding + 1, padding) + message + bytes(padding)


_KEXINIT: Final = (
    bytes([KEXINIT])
    + hashlib.sha256(b"cookie").digest()[:16]
    + b"".join(
        NameList(names)
        for names in (
            [b"curve25519-sha256", b"ext-info-c", b"kex-strict-c-v00@openssh.com"],
            [b"ssh-ed25519"],
            *[[b"aes256-gcm@openssh.com"]] * 2,
            *[[b"hmac-sha2-256-etm@openssh.com"]] * 2,
            *[[b"none"]] * 2,
            [],
            [],
        )
    )
    + bytes(5)
)
HANDSHAKE: Final = (
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    _plain(_KEXINIT),
    _plain(bytes([ECDH_INIT]) + String(hashlib.sha256(b"point").digest())),
    _plain(bytes([NEWKEYS])),
)
BEFORE_KEYS: Final = (
    _plain(bytes([2]) + String(b"ignored")),  # IGNORE
    _plain(bytes([4]) + Boolean(value=True) + String(b"debug") + String(b"")),
    _plain(bytes([3]) + UInt32(7)),  # UNIMPLEMENTED
    _plain(bytes([1]) + UInt32(11) + String(b"bye") + String(b"")),  # DISCONNECT
    _plain(bytes([SERVICE_REQUEST]) + String(b"ssh-userauth")),
    _plain(bytes([USERAUTH_REQUEST]) + String(NAME) + String(b"ssh-connection") + String(b"none")),
    _plain(bytes([90]) + String(b"session") + UInt32(0) + UInt32(2**21) + UInt32(32768)),
    b"SSH-1.99-old\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
)
_KEY: Final = String(b"ssh-ed25519") + String(bytes(32))


def _userauth(method: bytes, *more: bytes, name: bytes | str = NAME, service: bytes = b"ssh-connection") -> bytes:
    return bytes([USERAUTH_REQUEST]) + String(name) + String(service) + String(method) + b"".join(more)


BEFORE_LOGIN: Final = (
    bytes([SERVICE_REQUEST]) + String(b"ssh-userauth"),
    bytes([SERVICE_REQUEST]) + String(b"ssh-connection"),
    _userauth(b"none"),
    _userauth(b"none", name=b""),
    _userauth(b"none", name=b"\xff\xfe@x"),
    _userauth(b"password", Boolean(value=False), String(b"secret")),
    _userauth(b"keyboard-interactive", String(b""), String(b"")),
    _userauth(b"hostbased", String(b"ssh-ed25519"), String(_KEY), String(b"host"), String(b"user"), String(b"sig")),
    _userauth(b"publickey", Boolean(value=False), String(b"ssh-ed25519"), String(_KEY)),
    _userauth(b"publickey", Boolean(value=True), String(b"ssh-ed25519"), String(_KEY), String(_KEY[:4] + bytes(70))),
    _userauth(b"publickey", Boolean(value=False), String(b"ssh-rsa"), String(String(b"ssh-rsa") + MPInt(3) + MPInt(9))),
    _userauth(
        b"publickey", Boolean(value=True), String(b"ssh-ed25519-cert-v01@openssh.com"),
        String(String(b"ssh-ed25519-cert-v01@openssh.com") + bytes(200)), String(bytes(80)),
    ),
    bytes([USERAUTH_INFO_RESPONSE]) + UInt32(1) + String(b"x"),
    bytes([USERAUTH_SUCCESS]),
    bytes([7]) + UInt32(1) + String(b"server-sig-algs") + String(b"x"),  # EXT_INFO
    _KEXINIT,
    bytes([NEWKEYS]),
)  # fmt: skip
NUMBERS: Final = (0, 1, 80, 255, 32768, 65535, 65536, 2**21, 2**31 - 1, 2**31, 2**32 - 1)


class Fields:
    """Makes fields that are well-formed whatever they hold: a malformed one would end the connection at once."""

    def __init__(self, mutator: Mutator) -> None:
        self._mutator = mutator

    def string(self, value: bytes) -> bytes:
        """Return a string, seldom with another content."""
        return String(self._mutator.sometimes(value, 0.1))

    def number(self, value: int) -> bytes:
        """Return a number, seldom another."""
        random = self._mutator.random
        return UInt32(random.choice(NUMBERS) if random.random() < 0.1 else value)

    def size(self) -> bytes:
        """Return a terminal's size."""
        return b"".join(self.number(value) for value in (80, 24, 640, 480))

    def open(self, channel: int, kind: bytes = b"session", *more: bytes) -> bytes:
        """Return CHANNEL_OPEN (RFC 4254 §5.1)."""
        return bytes([90]) + String(kind) + UInt32(channel) + self.number(2**21) + self.number(32768) + b"".join(more)

    def request(self, channel: int, kind: bytes, *more: bytes, reply: bool = True) -> bytes:
        """Return CHANNEL_REQUEST (RFC 4254 §5.4)."""
        return bytes([98]) + UInt32(channel) + String(kind) + Boolean(value=reply) + b"".join(more)


def _global(kind: bytes, *more: bytes) -> bytes:
    return bytes([GLOBAL_REQUEST]) + String(kind) + Boolean(value=True) + b"".join(more)


_FIXED: Final = Fields(Mutator(0))


def _in_good_order(fields: Fields, channel: int) -> list[bytes]:
    """Return what a client may send on a channel that it has opened, at any time."""
    number, request = UInt32(channel), fields.request
    return [
        request(channel, b"env", fields.string(b"LANG"), fields.string(b"C.UTF-8")),
        request(channel, b"pty-req", fields.string(b"xterm"), fields.size(), fields.string(b"\x01\0\0\0\x03\0")),
        request(channel, b"shell"),
        request(channel, b"exec", fields.string(b"cat")),
        request(channel, b"subsystem", fields.string(b"sftp")),
        request(channel, b"exec", fields.string(b"scp -t /tmp")),
        request(channel, b"exec", fields.string(b":help")),
        request(channel, b"window-change", fields.size(), reply=False),
        request(channel, b"signal", fields.string(b"INT"), reply=False),
        request(channel, b"break", fields.number(500)),
        request(channel, b"auth-agent-req@openssh.com"),
        request(
            channel,
            b"x11-req",
            Boolean(value=False),
            fields.string(b"MIT-MAGIC-COOKIE-1"),
            fields.string(b"0" * 32),
            UInt32(0),
        ),
        request(channel, b"exit-status", fields.number(0), reply=False),
        request(channel, b"eow@openssh.com", reply=False),
        bytes([94]) + number + fields.string(b"some input\n"),
        bytes([94]) + number + fields.string(bytes(30000)),
        bytes([93]) + number + fields.number(2**20),
    ]


def _last_of_a_channel(channel: int) -> list[bytes]:
    number = UInt32(channel)
    return [
        bytes([95]) + number + UInt32(1) + String(b"extended input\n"),
        bytes([96]) + number,
        bytes([97]) + number,
        bytes([91]) + number + number + UInt32(2**21) + UInt32(32768),
        bytes([92]) + number + UInt32(1) + String(b"no") + String(b""),
        bytes([99]) + number,
        bytes([100]) + number,
    ]


CONNECTION: Final = (
    _FIXED.open(5, b"direct-tcpip", String(b"169.254.169.254"), UInt32(80), String(b"127.0.0.1"), UInt32(1)),
    _FIXED.open(6, b"direct-streamlocal@openssh.com", String(b"/run/docker.sock"), String(b""), UInt32(0)),
    _FIXED.open(7, b"tun@openssh.com", UInt32(1), UInt32(2**31 - 1)),
    _FIXED.open(8, b"auth-agent@openssh.com"),
    _FIXED.open(9, b"x11", String(b"127.0.0.1"), UInt32(6000)),
    _global(b"tcpip-forward", String(b""), UInt32(0)),
    _global(b"cancel-tcpip-forward", String(b""), UInt32(1)),
    _global(b"streamlocal-forward@openssh.com", String(b"/tmp/x")),
    _global(b"keepalive@openssh.com"),
    _global(b"hostkeys-prove-00@openssh.com", String(_KEY)),
    _global(b"no-more-sessions@openssh.com"),
    bytes([REQUEST_SUCCESS]),
    bytes([REQUEST_FAILURE]),
    _userauth(b"none"),
    _userauth(b"publickey", Boolean(value=False), String(b"ssh-ed25519"), String(_KEY), name=b"other@mystack"),
    bytes([USERAUTH_SUCCESS]),
    bytes([SERVICE_REQUEST]) + String(b"ssh-userauth"),
    bytes([2]) + String(bytes(1000)),
    bytes([4]) + Boolean(value=True) + String(b"\x1b[2J") + String(b""),
    bytes([7]) + UInt32(2**31) + String(b"x"),
    bytes([192]) + bytes(10),
    bytes([255]),
    b"",
)
HTTP: Final = (
    b"GET /healthz HTTP/1.1\r\nHost: bastion\r\n\r\n",
    b"GET /api/sessions?page=1&per_page=10 HTTP/1.1\r\nHost: bastion\r\nConnection: close\r\n\r\n",
    b"GET /api/sessions/0123456789abcdef HTTP/1.1\r\nHost: bastion\r\nAccept: */*\r\n\r\n",
    b'POST /api/keys HTTP/1.1\r\nHost: bastion\r\nContent-Length: 18\r\n\r\n{"user": "mallory"',
    b"GET /metrics HTTP/1.0\r\n\r\n",
    b"POST /api/3/stacks/x/sessions HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def generate_handshake(mutator: Mutator) -> bytes:
    """Return a handshake in the clear: one or two of its messages changed, or left out, or others between them."""
    random = mutator.random
    messages = list(HANDSHAKE)
    for _ in range(random.choice((0, 0, 1, 2))):
        messages.insert(random.randint(0, len(messages)), random.choice(BEFORE_KEYS))
    if random.random() < 0.2:
        messages = mutator.shuffled(messages)
    return pack(_change_some(mutator, messages))


def generate_login(mutator: Mutator) -> bytes:
    """Return messages between the key exchange and the login."""
    messages = [BEFORE_LOGIN[0], *(mutator.random.choice(BEFORE_LOGIN) for _ in range(mutator.random.randint(1, 8)))]
    return pack(_change_some(mutator, messages))


def generate_channels(mutator: Mutator) -> bytes:
    """Return messages of a client that is logged in: many in good order, and at last some that are not."""
    random, fields = mutator.random, Fields(mutator)
    channels = range(random.randint(1, 3))
    messages = [fields.open(channel) for channel in channels]
    many, some, few = random.randint(2, 20), random.randint(0, 3), random.randint(0, 3)
    messages += [random.choice(_in_good_order(fields, random.choice(channels))) for _ in range(many)]
    messages += [random.choice(_last_of_a_channel(random.choice(channels))) for _ in range(some)]
    messages += [random.choice(CONNECTION) for _ in range(few)]
    return pack(_change_some(mutator, messages)) if random.random() < 0.5 else pack(messages)


def _change_some(mutator: Mutator, messages: list[bytes]) -> list[bytes]:
    """Change one message or two, the later ones rather: nothing is read behind one that cannot be."""
    for _ in range(mutator.random.randint(1, 2) if messages else 0):
        place = len(messages) - 1 - int(mutator.random.random() ** 2 * len(messages))
        messages[place] = mutator.mutate(messages[place])
    return messages


def generate_http(mutator: Mutator) -> bytes:
    """Return what is sent to the API's socket."""
    requests = [mutator.random.choice(HTTP) for _ in range(mutator.random.randint(1, 3))]
    return pack([mutator.sometimes(request, 0.8) for request in requests])


async def _until(done: Callable[[], object]) -> None:
    """Wait until it is so, or for as long as a server may rightly leave a message unanswered."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STALLED_SECONDS):
            while not done():
                await asyncio.sleep(0.001)


class Peer:
    """Sends cases to a running bastion; that it still serves is for somebody else to say."""

    def __init__(self, port: int, key: Path, api: Path) -> None:
        self._port = port
        self._key = asyncssh.read_private_key(key)
        self._api = api

    async def handshake(self, case: bytes) -> None:
        """Send messages in the clear, then end the input and read until the server closes."""
        await self._send(*await asyncio.open_connection("127.0.0.1", self._port), unpack(case))

    async def http(self, case: bytes) -> None:
        """Send to the API's socket, then end the input and read until the server closes."""
        await self._send(*await asyncio.open_unix_connection(str(self._api)), unpack(case))

    async def login(self, case: bytes) -> None:
        """Send messages where a client would ask for its login; one that is unknown ends the connection at last."""
        closed = asyncio.Event()

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                send = conn.send_packet

                def send_case(number: int, *parts: bytes, handler: object = None) -> None:
                    if number != SERVICE_REQUEST:
                        send(number, *parts)
                        return
                    for message in [*unpack(case), bytes([UNKNOWN])]:
                        if message:
                            send(message[0], message[1:])

                process = conn.process_packet

                def ignore_answers(number: int, sequence: int, packet: SSHPacket) -> object:
                    return number >= USERAUTH_REQUEST or process(number, sequence, packet)

                conn.send_packet = send_case  # type: ignore[method-assign,assignment] # asyncssh passes by position
                conn.process_packet = ignore_answers  # type: ignore[method-assign,assignment]

            def connection_lost(self, exc: Exception | None) -> None:
                closed.set()

        with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
            connection = await self._connect(Client, STALLED_SECONDS)
            connection.abort()
            await connection.wait_closed()
        async with asyncio.timeout(WAIT_SECONDS):
            await closed.wait()

    async def channels(self, case: bytes) -> None:
        """Log in, send messages, and wait until the server has read them or closed."""
        connection = await self._connect(asyncssh.SSHClient)
        raw = Raw(connection)
        ended = asyncio.create_task(connection.wait_closed())
        try:
            with contextlib.suppress(asyncssh.Error, OSError):
                for message in filter(None, unpack(case)):
                    connection.send_packet(message[0], message[1:])
                    if message[0] == CHANNEL_OPEN:  # what names a channel before it is open ends the connection
                        answers = raw.count(CONFIRMED) + raw.count(REFUSED)
                        await _until(lambda: ended.done() or raw.count(CONFIRMED) + raw.count(REFUSED) > answers)  # noqa: B023
                connection.send_packet(GLOBAL_REQUEST, String(b"fuzz@example.com"), Boolean(value=True))
                await _until(lambda: ended.done() or raw.count(REQUEST_FAILURE))
        finally:
            connection.abort()
            await ended

    async def _connect(
        self, client: type[asyncssh.SSHClient], login_seconds: float = WAIT_SECONDS
    ) -> asyncssh.SSHClientConnection:
        connection, _ = await asyncssh.create_connection(
            client, "127.0.0.1", self._port, username=NAME, client_keys=[self._key], known_hosts=None, config=None,
            agent_path=None, preferred_auth="publickey", login_timeout=login_seconds,
        )  # fmt: skip
        return connection

    @staticmethod
    async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: Sequence[bytes]) -> None:
        try:
            for message in messages:
                writer.write(message)
                await asyncio.sleep(0)
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
            async with asyncio.timeout(WAIT_SECONDS):
                while await reader.read(65536):
                    pass
        except OSError:
            return
        finally:
            writer.transport.abort()
