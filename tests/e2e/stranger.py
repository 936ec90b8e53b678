"""A client that is not known yet: it sends requests for authentication byte by byte as a test wants them."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import asyncssh
from asyncssh.packet import Boolean, SSHPacket, String

from tests.e2e.server import Bastion

USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK = 50, 51, 52, 60
CHANNEL_OPEN = 90
_ANSWER_SECONDS = 10.0


class Key(Protocol):
    """What a request needs of a key."""

    algorithm: bytes

    @property
    def public_data(self) -> bytes:
        """The public key in SSH wire format."""
        ...

    def sign(self, data: bytes, algorithm: bytes, /) -> bytes:
        """Return a signature in SSH wire format."""
        ...


Ask = Callable[[bytes], bytes]  # of a session's id it makes the body of a request


def none(name: str | bytes) -> Ask:
    """Ask for what is open to anybody (RFC 4252 §5.2)."""
    return lambda _: String(name) + String("ssh-connection") + String("none")


def offer(name: str | bytes, key: Key) -> Ask:
    """Ask whether a key would do, without a signature (RFC 4252 §7)."""
    head = String(name) + String("ssh-connection") + String("publickey") + Boolean(value=False)
    return lambda _: head + String(key.algorithm) + String(key.public_data)


def signed(
    name: str | bytes,
    key: Key,
    *,
    algorithm: bytes = b"",
    signed_with: bytes = b"",
    shown: bytes = b"",
    spoil: bool = False,
) -> Ask:
    """Log in with a signature, of other algorithms than the key's, for another key, or a false one where wanted."""
    head = String(name) + String("ssh-connection") + String("publickey") + Boolean(value=True)
    body = head + String(algorithm or key.algorithm) + String(shown or key.public_data)

    def make(session: bytes) -> bytes:
        message = String(session) + bytes([USERAUTH_REQUEST]) + body
        return body + String(key.sign(message + b"x" * spoil, signed_with or algorithm or key.algorithm))

    return make


class _Stranger(asyncssh.SSHClient):
    def __init__(self, requests: Sequence[Ask], behind: bytes | None) -> None:
        self._requests = requests
        self._behind = behind
        self.replies: list[tuple[int, bytes]] = []
        self.done = asyncio.Event()
        self._asked = False

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        self._arrived = asyncio.Event()
        conn.process_packet = self._take  # type: ignore[method-assign,assignment] # asyncssh passes by position
        self._process = asyncssh.SSHClientConnection.process_packet

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()

    def _take(self, number: int, sequence: int, packet: SSHPacket) -> object:
        if number not in (USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK) or not self._asked:
            return self._process(self._conn, number, sequence, packet)
        self.replies.append((number, packet.get_remaining_payload()))
        self._arrived.set()
        return True

    async def public_key_auth_requested(self) -> None:
        self._asked = True
        self._conn._auth.process_packet = self._take  # type: ignore[union-attr,method-assign] # noqa: SLF001 - as the session's id
        for request in self._requests:
            self._arrived.clear()
            self._conn.send_packet(USERAUTH_REQUEST, request(self._conn._session_id))  # noqa: SLF001 - no public name
            await self._arrived.wait()
        if self._behind is not None:
            self._conn._auth_complete = True  # noqa: SLF001 - or it would wait for a login
            self._conn.send_packet(CHANNEL_OPEN, self._behind)
            await self.done.wait()
        self.done.set()
        await asyncio.sleep(_ANSWER_SECONDS)


async def replies(bastion: Bastion, *requests: Ask, behind: bytes | None = None) -> list[tuple[int, bytes]]:
    """Send the requests on one connection, each when the one before is answered; return each answer's number and body.

    They are fewer than the requests where the server ended the connection. With the body of a channel open `behind`
    them it must end it.
    """
    return await replies_of(("127.0.0.1", bastion.port), *requests, behind=behind, known_hosts=bastion.known_hosts)


async def replies_of(
    address: tuple[str, int], *requests: Ask, behind: bytes | None = None, known_hosts: Path | None = None
) -> list[tuple[int, bytes]]:
    """Do the same to a server at an address; without known hosts whatever its key is."""
    stranger = _Stranger(requests, behind)
    task = asyncio.create_task(
        asyncssh.create_connection(
            lambda: stranger, *address, username="web@mystack", config=None,
            known_hosts=None if known_hosts is None else str(known_hosts), client_keys=None,
            agent_path=None, preferred_auth="publickey",
        )
    )  # fmt: skip
    try:
        async with asyncio.timeout(_ANSWER_SECONDS * 2):
            await stranger.done.wait()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncssh.Error, OSError):
            await task
    return stranger.replies
