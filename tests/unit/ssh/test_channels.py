"""Channels of one connection: counted when asked for, let go when closed, bounded in what they hold."""

import asyncio
import ipaddress

import asyncssh
from asyncssh.packet import String, UInt32

from bastion.admission import source_of
from bastion.errors import SessionEnded
from tests.unit.ssh.house import CLOSE, CONFIRMED, DATA, REFUSED, House, Raw, until


async def test_channels_opened_at_one_go_are_counted(house: House) -> None:
    """Of fifty channels that are opened before any answer is read, ten open and forty are refused."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        for number in range(50):
            raw.open(number)
        await until(lambda: len(raw.received) >= 50)
        assert (raw.count(CONFIRMED), raw.count(REFUSED)) == (10, 40)


async def test_a_channel_closed_with_input_unread_is_closed(house: House) -> None:
    """Closing a channel that has sent more than its program reads ends the session, and gives its place back."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        raw.request(0, "exec", String("sleep 1000"))
        for _ in range(40):
            raw.send(DATA, 0, String(bytes(32768)))
        await until(lambda: [s.state for s in house.sessions.list()] == ["active"])
        await asyncio.sleep(0.2)
        raw.send(CLOSE, 0)
        await until(lambda: not house.sessions.list())


async def test_channels_that_ask_for_nothing_give_their_places_back(house: House) -> None:
    """A channel that sends input, asks for no program and is closed leaves room for another, however often."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        for number in range(30):
            raw.open(number)
            await until(lambda: raw.count(CONFIRMED) == number + 1)  # noqa: B023 - it is awaited at once
            raw.send(DATA, number, String(b"x"))
            raw.send(CLOSE, number)
            await until(lambda: raw.count(CLOSE) == number + 1)  # noqa: B023


async def test_variables_are_bounded(house: House) -> None:
    """Of forty megabytes of variables none is kept but the allowed one behind them."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        for number in range(400):
            raw.request(0, "env", String(f"LC_X{number}"), String(bytes(100_000)))
        raw.request(0, "env", String("LANG"), String("C.UTF-8"), reply=True)
        await until(lambda: len(raw.received) > 1)
        (server_side,) = house.server._connections  # noqa: SLF001 - memory has no other face
        (channel,) = server_side._channels  # noqa: SLF001
        assert dict(channel._environment) == {"LANG": "C.UTF-8"}  # noqa: SLF001
        assert not channel._chan.get_environment_bytes()  # noqa: SLF001


async def test_a_terminal_asked_for_too_late_is_refused(house: House) -> None:
    """A pty-req behind the program's start changes nothing, and a second program on one channel is refused."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        raw.request(0, "exec", String("cat"), reply=True)
        size = b"".join(UInt32(n) for n in (80, 24, 0, 0))
        raw.request(0, "pty-req", String("xterm"), size, String(""), reply=True)
        raw.request(0, "exec", String("echo second"), reply=True)
        await until(lambda: raw.count(99) + raw.count(100) == 3)
        assert [number for number, _ in raw.received if number in (99, 100)] == [99, 100, 100]
        await until(lambda: house.containers.started == ["cat"])


async def test_packets_too_small_end_the_connection(house: House) -> None:
    """A client that takes one byte a packet, which would cost a packet of 36 bytes each, is sent away."""
    connection = await house.connect()
    raw = Raw(connection)
    raw.open(0, packet=1)
    await asyncio.wait_for(connection.wait_closed(), 10)


async def test_a_client_that_never_reads_can_be_ended(house: House) -> None:
    """A session whose client has shut its window ends when it is told to, and so does the server."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0, window=1)
        await until(lambda: raw.count(CONFIRMED))
        raw.request(0, "exec", String("cat /dev/zero"))
        await until(lambda: [s.state for s in house.sessions.list()] == ["active"])
        await asyncio.sleep(0.2)
        assert house.sessions.end(house.sessions.list()[0].uid, "enough")
        await until(lambda: not house.sessions.list())
        await asyncio.wait_for(house.server.close(), 10)


async def test_what_is_ended_while_its_container_is_looked_for_does_not_start(house: House) -> None:
    """A reason given before there is a session is told when there is one, and no program starts."""
    connection = await house.connect()
    house.containers.found.clear()
    process = await connection.create_process("echo started")
    await until(lambda: house.containers.asked)
    (server_side,) = house.server._connections  # noqa: SLF001 - what watch_keys ends
    server_side.end(SessionEnded("the key was revoked"))
    house.containers.found.set()
    done = await asyncio.wait_for(process.wait(), 10)
    assert (done.exit_status, done.stdout) == (253, "")
    assert "revoked" in str(done.stderr)
    assert house.containers.started == []


async def test_a_key_that_expired_starts_nothing_on_an_open_connection(house: House) -> None:
    """The key is judged again at each channel: what is no longer good runs nothing, even before the next look round."""
    connection = await house.connect()
    house.keyring.revoke("alice")
    house.keyring.refresh()
    process = await connection.create_process("echo started")
    done = await asyncio.wait_for(process.wait(), 10)
    assert (done.exit_status, house.containers.started) == (253, [])


async def test_nothing_starts_while_the_bastion_stops(house: House) -> None:
    """After `end_all` no session is opened, by whatever connection."""
    connection = await house.connect()
    await house.sessions.end_all(SessionEnded("the bastion is shutting down"), grace=1)
    done = await asyncio.wait_for(connection.run("echo started"), 10)
    assert (done.exit_status, house.containers.started) == (253, [])
    connection.close()


async def test_requests_left_behind_are_bounded(house: House) -> None:
    """A client cannot have more look-ups under way than its connection bears by closing each channel at once."""
    house.containers.found.clear()
    async with await house.connect() as connection:
        raw = Raw(connection)
        for number in range(150):
            raw.open(number)
            await until(lambda: raw.count(CONFIRMED) + raw.count(REFUSED) == number + 1)  # noqa: B023 - awaited at once
            if raw.received[-1][0] == REFUSED or raw.count(REFUSED):
                break
            raw.request(number, "exec", String("true"))
            raw.send(CLOSE, number)
        assert raw.count(REFUSED) == 1
        assert house.containers.asked < 100


async def test_the_bastions_words_to_a_closing_channel_are_no_error(house: House) -> None:
    """A refusal that comes between a client's close and our taking note of it is dropped quietly."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        (server_side,) = house.server._connections  # noqa: SLF001 - the moment cannot be met from outside
        (channel,) = server_side._channels  # noqa: SLF001
        channel._chan._close_send()  # noqa: SLF001 - what asyncssh does first when the client closes
        channel.say("bastion: error: too late")


def test_sources_are_networks() -> None:
    """IPv4 counts by address, IPv6 by /64, and IPv4 within IPv6 as what it is."""
    assert source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert source_of("2001:db8:0:1::5") == source_of("2001:db8:0:1:ffff::6") != source_of("2001:db8:0:2::5")
    assert source_of("fe80::1%eth0") == str(ipaddress.ip_network("fe80::/64"))
    assert source_of("") == ""


def test_asyncssh_still_has_what_is_hooked() -> None:
    """The methods of asyncssh's channel that are replaced are there, under the names they are called by."""
    for name in ("_process_env_request", "process_packet", "_close_send"):
        assert callable(getattr(asyncssh.SSHServerChannel, name))
    for name in ("_send", "_send_kexinit", "send_channel_open_failure"):
        assert callable(getattr(asyncssh.SSHServerConnection, name))
    assert 80 in asyncssh.SSHServerConnection._packet_handlers  # noqa: SLF001 - SSH_MSG_GLOBAL_REQUEST
