"""Floods of a client that is logged in: what it makes us answer or remember is bounded."""

import asyncio
import socket

from asyncssh.packet import Boolean, String, UInt32

from tests.unit.ssh.house import CONFIRMED, DATA, House, Raw, until

GLOBAL_REQUEST = 80


async def test_answers_nobody_reads_end_the_connection(house: House) -> None:
    """A client that asks and does not read the answers is cut off before they fill our memory."""
    connection = await house.connect()
    transport = connection._transport  # noqa: SLF001 - asyncssh reads always; this client does not
    assert transport is not None
    transport.pause_reading()
    (server_side,) = house.server._connections  # noqa: SLF001 - the kernel's own buffers are kept small
    server_side._conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # noqa: SLF001
    for _ in range(400):
        for _ in range(1000):
            connection.send_packet(GLOBAL_REQUEST, String("keepalive@openssh.com"), Boolean(value=True))
        await asyncio.sleep(0)
        if not house.server._connections:  # noqa: SLF001
            break
    await until(lambda: not house.server._connections)  # noqa: SLF001
    connection.abort()


async def test_answers_held_back_by_a_key_exchange_end_the_connection(house: House) -> None:
    """A client that begins a key exchange, never ends it and goes on asking is cut off."""
    connection = await house.connect()
    Raw(connection)
    connection._kex_complete = True  # noqa: SLF001
    connection._send_kexinit()  # noqa: SLF001 - a key exchange that is begun
    connection._kex_complete = True  # noqa: SLF001 - and gone on as if it were not
    connection.data_received = lambda *_: None  # type: ignore[method-assign]
    for _ in range(40):
        for _ in range(1000):
            connection.send_packet(GLOBAL_REQUEST, String("keepalive@openssh.com"), Boolean(value=True))
        await asyncio.sleep(0.01)
    await until(lambda: not house.server._connections)  # noqa: SLF001
    connection.abort()


async def test_requests_that_wait_for_their_turn_are_bounded(house: House) -> None:
    """Requests for forwarding, answered one at a time, cannot pile up."""
    connection = await house.connect()
    raw = Raw(connection)
    for _ in range(30000):
        connection.send_packet(GLOBAL_REQUEST, String("tcpip-forward"), Boolean(value=False), String("x"), UInt32(1))
    await until(lambda: not house.server._connections)  # noqa: SLF001
    assert raw.count(CONFIRMED) == 0
    connection.abort()


async def test_signals_and_sizes_do_not_stop_input(house: House) -> None:
    """Input that arrives among thousands of signals and window changes is delivered whole."""
    async with await house.connect() as connection:
        process = await connection.create_process("trap '' USR1; echo ready; cat", encoding=None)
        assert await process.stdout.readline() == b"ready\n"
        for _ in range(3):
            for _ in range(1500):
                process.channel.send_signal("USR1")
                process.channel.change_terminal_size(80, 24)
            process.stdin.write(b"x")
        process.stdin.write_eof()
        assert await asyncio.wait_for(process.stdout.read(), 20) == b"xxx"


async def test_a_program_that_reads_slowly_has_its_client_held_back(house: House) -> None:
    """What a client sends ahead of its program is never more than the channel's window, however long that goes on."""
    async with await house.connect() as connection:
        process = await connection.create_process("while head -c 65536 | grep -q .; do sleep 0.01; done", encoding=None)
        (server_side,) = house.server._connections  # noqa: SLF001 - memory has no other face
        (channel,) = server_side._channels  # noqa: SLF001
        most = 0

        async def send() -> None:
            for _ in range(512):
                process.stdin.write(b"line of input\n" * 2340)
                await process.stdin.drain()

        sending = asyncio.create_task(send())
        while not sending.done():
            held = channel._held + sum(len(data) for data, _ in channel._chan._recv_buf)  # noqa: SLF001
            most = max(most, held)
            await asyncio.sleep(0.005)
        await sending
        assert 2**18 < most <= channel._chan._init_recv_window  # noqa: SLF001
        process.close()


async def test_input_in_the_smallest_pieces_is_put_together(house: House) -> None:
    """Bytes that are sent one by one while a program does not read are held as few, and delivered whole."""
    async with await house.connect() as connection:
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        raw.request(0, "exec", String("sleep 1; wc -c"))
        for _ in range(40_000):
            raw.send(DATA, 0, String(b"x"))
        (server_side,) = house.server._connections  # noqa: SLF001 - memory has no other face
        (channel,) = server_side._channels  # noqa: SLF001
        await until(lambda: channel._held == 40_000 or raw.received)  # noqa: SLF001
        assert len(channel._events) < 16  # noqa: SLF001
        connection.abort()
