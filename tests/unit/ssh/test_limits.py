"""What a connection that is logged in may hold and ask for, and how long unused: threats B9, B11, B15 and E1."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from bastion.config import SshSettings
from bastion.ssh import guard
from bastion.ssh.connections import Connections
from tests.unit.no_descriptors import none_left
from tests.unit.ssh.house import CONFIRMED, OPEN, REFUSED, House, Raw, running, until

GLOBAL_REQUEST, REQUEST_FAILURE = 80, 82


def _settings(**more: object) -> SshSettings:
    return SshSettings.model_validate({"listen": ("127.0.0.1:0",), **more})


def test_users_and_sources_count_apart() -> None:
    """A user counts over all sources, a source over all users; who goes makes room."""
    connections = Connections(per_user=2, per_source=3)
    assert connections.add(1, "alice", "a") is None
    assert connections.add(2, "alice", "b") is None
    assert connections.add(3, "alice", "c") == "too many connections of alice: 2 are open"
    connections.discard(3)
    connections.discard(1)
    assert connections.add(4, "alice", "b") is None
    assert connections.add(5, "bob", "b") is None
    assert connections.add(6, "carol", "b") == "too many connections from b: 3 are open"


@pytest.mark.parametrize("option", ["max_connections_per_user", "max_connections_per_source"])
async def test_E1_one_connection_too_many_is_closed(tmp_path: Path, option: str) -> None:
    """The connections before it stay, and one that ends makes room; tests/e2e/test_descriptors.py reads the words."""
    async with running(tmp_path, _settings(**{option: 2})) as house:
        first, second = await house.connect(), await house.connect()
        with pytest.raises((asyncssh.Error, OSError)):
            await (await house.connect()).run("echo in", check=True)
        assert (await second.run("echo in", check=True)).stdout == "in\n"
        first.close()
        await until(lambda: len(house.server._connections) == 1)  # noqa: SLF001
        assert (await (await house.connect()).run("echo in", check=True)).stdout == "in\n"


async def test_E1_no_session_is_started_with_the_reserve(house: House) -> None:
    """While only the reserve is left a request is refused in words, on a connection that stays."""
    async with await house.connect() as connection:
        with none_left(but=12):
            refused = await connection.run("echo in")
        assert refused.exit_status == 253
        assert "bastion: error: the bastion has too many open connections" in str(refused.stderr)
        assert (await connection.run("echo in", check=True)).stdout == "in\n"


async def test_B15_a_connection_without_a_channel_is_closed(tmp_path: Path) -> None:
    """Unused from the login on, or since its last session: it is closed, and told; with a session it stays."""
    async with running(tmp_path, _settings(unused_connection_timeout=0.5)) as house:
        unused, used = await house.connect(), await house.connect()
        shell = await used.create_process("cat", encoding=None)
        await asyncio.wait_for(unused.wait_closed(), 10)
        assert (await used.run("echo in", check=True)).stdout == "in\n"
        shell.stdin.write_eof()
        await shell.wait()
        await asyncio.wait_for(used.wait_closed(), 10)


async def test_a_connection_may_stay_unused_where_the_operator_says_so(tmp_path: Path) -> None:
    """0 is never: nothing waits to end it."""
    async with running(tmp_path, _settings(unused_connection_timeout=0)) as house, await house.connect():
        (server_side,) = house.server._connections  # noqa: SLF001
        assert server_side._unused is None  # noqa: SLF001


async def test_B11_global_requests_are_bounded(house: House) -> None:
    """A hundred at once are answered, more end the connection; so do those that asyncssh knows."""
    for kind in ("keepalive@openssh.com", "nonsense@example.org"):
        connection = await house.connect()
        raw = Raw(connection)
        for _ in range(guard.MAX_GLOBAL_REQUESTS - 5):
            connection.send_packet(GLOBAL_REQUEST, String(kind), Boolean(value=True))
        await _answers(raw, guard.MAX_GLOBAL_REQUESTS - 5)
        for _ in range(guard.MAX_GLOBAL_REQUESTS):
            connection.send_packet(GLOBAL_REQUEST, String(kind), Boolean(value=True))
        await asyncio.wait_for(connection.wait_closed(), 10)


async def test_B11_an_answer_to_no_request_ends_the_connection(house: House) -> None:
    """A reply that nothing asked for is no message of a client in good faith."""
    connection = await house.connect()
    Raw(connection)
    connection.send_packet(REQUEST_FAILURE)
    await asyncio.wait_for(connection.wait_closed(), 10)


@pytest.mark.parametrize("kind", ["direct-tcpip", "direct-streamlocal@openssh.com", "x11", "nonsense"])
async def test_B9_refused_channels_of_every_type_are_counted(house: House, kind: str) -> None:
    """The hundredth refusal is an answer, the next ends the connection; a session among them opens."""
    connection = await house.connect()
    raw = Raw(connection)

    def open_channel(number: int) -> None:
        rest = {
            "direct-tcpip": String("127.0.0.1") + UInt32(80) + String("127.0.0.1") + UInt32(1),
            "direct-streamlocal@openssh.com": String("/run/x") + String("") + UInt32(0),
        }
        connection.send_packet(OPEN, String(kind), UInt32(number), UInt32(2**21), UInt32(32768), rest.get(kind, b""))

    for number in range(guard.MAX_REFUSED_CHANNELS):
        open_channel(number)
    await until(lambda: raw.count(REFUSED) == guard.MAX_REFUSED_CHANNELS)
    raw.open(1000)
    await until(lambda: raw.count(CONFIRMED))
    open_channel(1001)
    await asyncio.wait_for(connection.wait_closed(), 10)


async def test_a_key_exchange_without_end_is_cut_on_an_idle_connection(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that begins a key exchange and falls silent is dropped, though nothing is written to it."""
    monkeypatch.setattr(guard, "KEY_EXCHANGE_SECONDS", 0.5)
    connection = await house.connect()
    process = await connection.create_process("cat", encoding=None)
    connection._send_kexinit()  # noqa: SLF001 - asyncssh has no public name for beginning one
    connection.data_received = lambda *_: None  # type: ignore[method-assign]
    await until(lambda: not house.server._connections)  # noqa: SLF001
    process.close()
    connection.abort()


async def test_a_key_exchange_that_ends_is_not_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key exchanges of either side that end leave the connection as it was."""
    monkeypatch.setattr(guard, "KEY_EXCHANGE_SECONDS", 0.5)
    async with await house.connect() as connection:
        process = await connection.create_process("cat", encoding=None)
        (server_side,) = house.server._connections  # noqa: SLF001
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 2 * guard.KEY_EXCHANGE_SECONDS:  # longer than one that does not end may take
            for side in (connection, server_side._conn):  # noqa: SLF001
                side._send_kexinit()  # noqa: SLF001
                side._kexinit_sent = True  # noqa: SLF001
                await _exchanged(side)
            process.stdin.write(b"x\n")
            assert await asyncio.wait_for(process.stdout.readline(), 10) == b"x\n"
        process.close()


async def _answers(raw: Raw, number: int) -> None:
    await until(lambda: len(raw.received) >= number)


async def _exchanged(side: asyncssh.SSHClientConnection | asyncssh.SSHServerConnection) -> None:
    await until(lambda: side._kex_complete)  # noqa: SLF001


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    seen: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    handler = Note()
    logging.getLogger("asyncio").addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger("asyncio").removeHandler(handler)


async def test_a_client_that_resets_leaves_no_warning(house: House) -> None:
    """Nothing is written to a transport that has failed: asyncio would warn of each write."""
    with _warnings() as seen:
        connection = await house.connect()
        await connection.create_process("yes", encoding=None)
        (server_side,) = house.server._connections  # noqa: SLF001
        transport = connection._transport  # noqa: SLF001
        assert transport is not None
        client = transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
        transport.abort()
        for _ in range(20):
            server_side._conn._send(b"x")  # noqa: SLF001 - as asyncssh does for each packet
            await asyncio.sleep(0)
        await until(lambda: not house.server._connections)  # noqa: SLF001
        for _ in range(20):
            server_side._conn._send(b"x")  # noqa: SLF001
    assert seen == []
