"""Before login, attacked from other loopback addresses: who comes in, who is shut out, what the refused read."""

import asyncio
import contextlib
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from bastion.config import SshSettings
from bastion.ssh.front_door import FAREWELL_BYTES
from tests.unit.ssh.house import House, running, until

IDENTIFICATION = b"SSH-2.0-bastion\r\n"
PENALISED = b"Not allowed at this time\r\n"


@asynccontextmanager
async def house_with(folder: Path, **options: object) -> AsyncIterator[House]:
    async with running(folder, SshSettings.model_validate({"listen": ["127.0.0.1:0"], **options})) as made:
        yield made


async def call(house: House, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from another loopback address, and say nothing."""
    return await asyncio.open_connection(*house.address, local_addr=(source, 0))


async def first_line(house: House, source: str) -> bytes:
    """Return the first line that a client reads who says nothing; nothing where there is a reset before it."""
    reader, writer = await call(house, source)
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    return line


async def log_in(house: House, source: str, key: asyncssh.SSHKey | None = None) -> None:
    connection = await asyncssh.connect(
        *house.address, username="web@mystack", known_hosts=None, config=None, client_keys=[key or house.key],
        agent_path=None, local_addr=(source, 0),
    )  # fmt: skip
    connection.close()
    await connection.wait_closed()


async def fail_to_log_in(house: House, source: str) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        await log_in(house, source, asyncssh.generate_private_key("ssh-ed25519"))


def waiting(house: House) -> int:
    return len(house.server._gatekeeper._startups)  # noqa: SLF001 - only the server knows


def test_asyncssh_still_lets_somebody_else_listen() -> None:
    """`listen` takes a tunnel and calls `create_server` of it with a factory, a host and a port."""
    assert "tunnel" in inspect.signature(asyncssh.listen).parameters
    parameters = inspect.signature(asyncssh.SSHClientConnection.create_server).parameters
    assert list(parameters)[1:4] == ["session_factory", "listen_host", "listen_port"]


async def test_E6_silent_sockets_of_many_sources_keep_nobody_out(tmp_path: Path) -> None:
    """With 120 silent sockets of 12 addresses, all that the table holds, every login from elsewhere succeeds."""
    limits = {"max_startups": "60:30:120", "max_handshakes": 0, "max_handshakes_per_source": 0}
    async with house_with(tmp_path, **limits) as house, contextlib.AsyncExitStack() as silent:
        for number in range(2, 14):
            for _ in range(10):
                _, writer = await call(house, f"127.0.0.{number}")
                silent.callback(writer.close)
        await until(lambda: waiting(house) > 50)
        for _ in range(20):
            await log_in(house, "127.0.0.1")
        await asyncio.gather(*(log_in(house, "127.0.0.100") for _ in range(5)))
        assert waiting(house) > 40


async def test_B1_connections_of_one_source_that_do_not_log_in_are_bounded(tmp_path: Path) -> None:
    """Of forty silent sockets of one address ten are held; the others read why, and all are closed after the grace."""
    async with house_with(tmp_path, login_grace="2s", max_handshakes_per_source=0) as house:
        lines = []
        callers = await asyncio.gather(*(call(house, "127.0.0.2") for _ in range(40)))
        for reader, _ in callers:
            async with asyncio.timeout(10):
                lines.append(await reader.readline())
        assert sorted(lines) == [b"Exceeded MaxStartups\r\n"] * 30 + [IDENTIFICATION] * 10
        await log_in(house, "127.0.0.1")
        for reader, writer in callers:
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()
        await until(lambda: not waiting(house))


async def until_refused(house: House, source: str, offend: Callable[[], Awaitable[None]]) -> None:
    """Offend until the source is refused: at once, or later where penalties add up or the machine is slow."""
    for _ in range(20):
        await offend()
        if await first_line(house, source) == PENALISED:
            return
    pytest.fail("the source is never refused")


async def test_B2_failed_logins_shut_a_source_out_for_a_while(tmp_path: Path) -> None:
    """After the threshold a source reads "Not allowed at this time", others log in, and later it may again."""
    async with house_with(tmp_path, penalties="authfail:3s noauth:0 min:3s max:4s") as house:
        await until_refused(house, "127.0.0.2", lambda: fail_to_log_in(house, "127.0.0.2"))
        assert await first_line(house, "127.0.0.3") == IDENTIFICATION
        await log_in(house, "127.0.0.1")
        async with asyncio.timeout(10):
            while await first_line(house, "127.0.0.2") != IDENTIFICATION:
                await asyncio.sleep(0.1)
        await log_in(house, "127.0.0.2")


@pytest.mark.parametrize("offence", ["noauth", "grace-exceeded"])
async def test_B2_connections_that_never_log_in_shut_a_source_out(tmp_path: Path, offence: str) -> None:
    """Those that are left before a login, or held until the grace is used up, count too."""
    rules = f"authfail:0 noauth:0 {offence}:20s min:30s"
    if offence == "noauth":
        rules = "authfail:0 grace-exceeded:0 noauth:20s min:30s"

    async with house_with(tmp_path, penalties=rules, login_grace="300ms") as house:

        async def offend() -> None:
            reader, writer = await call(house, "127.0.0.2")
            if offence == "grace-exceeded":
                await reader.read()
            writer.close()
            await until(lambda: not waiting(house))

        await until_refused(house, "127.0.0.2", offend)
        assert await first_line(house, "127.0.0.3") == IDENTIFICATION


async def test_B2_who_logs_in_after_wrong_keys_is_not_penalised(tmp_path: Path) -> None:
    """An agent's other keys before the right one are held against nobody."""
    async with house_with(tmp_path, penalties="authfail:10s min:10s") as house:
        wrong = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
        for _ in range(3):
            connection = await asyncssh.connect(
                *house.address, username="web@mystack", known_hosts=None, config=None, client_keys=[*wrong, house.key],
                agent_path=None, local_addr=("127.0.0.2", 0),
            )  # fmt: skip
            connection.close()
            await connection.wait_closed()
        await log_in(house, "127.0.0.2")


async def test_B2_default_exempts_a_proxy_on_the_same_host(house: House) -> None:
    """From 127.0.0.1 any number of failures shut nobody out; from 127.0.0.2 a few do."""
    for _ in range(5):
        await fail_to_log_in(house, "127.0.0.1")
    await log_in(house, "127.0.0.1")
    await until_refused(house, "127.0.0.2", lambda: fail_to_log_in(house, "127.0.0.2"))


async def test_B5_handshakes_beyond_the_budget_are_refused_before_they_cost_anything(tmp_path: Path) -> None:
    """Of sixty connections at once of one address one begins; the others read why, and made no asyncssh connection."""
    options = {"max_handshakes_per_source": 0.05, "max_startups_per_source": 60, "penalties": "no"}
    async with house_with(tmp_path, **options) as house:
        callers = [await call(house, "127.0.0.2") for _ in range(60)]
        lines = [await reader.readline() for reader, _ in callers]
        assert 1 <= lines.count(IDENTIFICATION) <= 4  # one, and another for each 20 s that a slow machine takes
        assert lines.count(b"Exceeded handshake rate\r\n") == 60 - lines.count(IDENTIFICATION)
        assert len(house.server._connections) == lines.count(IDENTIFICATION)  # noqa: SLF001
        await log_in(house, "127.0.0.1")
        for _, writer in callers:
            writer.close()


async def test_E12_refused_client_reads_a_line_and_the_end(tmp_path: Path) -> None:
    """A client that has sent its identification meanwhile reads one line and a clean end, no reset (RFC 4253 §4.2)."""
    async with house_with(tmp_path, max_startups=1) as house:
        _, silent = await call(house, "127.0.0.2")
        await until(lambda: waiting(house))
        reader, writer = await call(house, "127.0.0.2")
        writer.write(b"SSH-2.0-OpenSSH_10.0\r\n" + bytes(1024))
        async with asyncio.timeout(10):
            assert await reader.read() == b"Exceeded MaxStartups\r\n"
        writer.close()
        silent.close()


async def test_refused_client_that_goes_on_sending_is_cut(tmp_path: Path) -> None:
    """What it may send before it is closed is bounded, and it holds its descriptor for a second at the longest."""
    async with house_with(tmp_path, max_startups=1) as house:
        _, silent = await call(house, "127.0.0.2")
        await until(lambda: waiting(house))
        reader, writer = await call(house, "127.0.0.2")
        assert await reader.readline() == b"Exceeded MaxStartups\r\n"

        async def send() -> None:
            while True:
                writer.write(bytes(FAREWELL_BYTES))
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send(), 10)
        writer.close()
        silent.close()


async def test_evicted_connection_is_told_why(tmp_path: Path) -> None:
    """Who has to go for another is disconnected with SSH_DISCONNECT_TOO_MANY_CONNECTIONS (RFC 4253 §11.1)."""
    async with house_with(tmp_path, max_startups=2) as house:
        callers = [await call(house, "127.0.0.2") for _ in range(2)]
        await until(lambda: waiting(house) == 2)
        await log_in(house, "127.0.0.1")
        async with asyncio.timeout(10):
            told = await callers[0][0].read()
        assert told.startswith(IDENTIFICATION)
        assert b"Exceeded MaxStartups" in told
        for _, writer in callers:
            writer.close()


async def test_place_is_given_back_however_a_connection_ends(tmp_path: Path) -> None:
    """Resets, half-closes, garbage and logins leave the table empty."""
    async with house_with(tmp_path, max_handshakes_per_source=0) as house:
        for data in (b"", b"SSH-1.5-old\r\n", b"SSH-2.0-x\r\n" + bytes(64), b"\xff" * 5000):
            _, writer = await call(house, "127.0.0.1")
            writer.write(data)
            writer.close()
        raw = socket.create_connection(house.address)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()
        await log_in(house, "127.0.0.1")
        await until(lambda: not waiting(house) and not house.server._connections)  # noqa: SLF001
