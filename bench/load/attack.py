"""Attack a bastion in every way of threats.md §1b at once: `python -m bench.load.attack PORT KEY SECONDS WAYS`.

It runs as a process of its own at low priority, so that what others feel is the server's slowness and not its own.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncssh
from asyncssh.packet import Boolean, String, UInt32

from tests.fuzz.connections import HANDSHAKE
from tests.unit.ssh.house import CONFIRMED, DATA, Raw, until

NAME: Final = "web@mystack"
STRANGERS: Final = ("127.0.0.2", "127.0.0.3")
GLOBAL_REQUEST: Final = 80
WIDE_OPEN: Final = 2**32 - 1
A_SECOND: Final = 500


class Attacker:
    """Knows where the server is, and has a key that logs in."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = asyncssh.read_private_key(key)
        self.sent = 0

    async def _open(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.sent += 1
        source = STRANGERS[number % len(STRANGERS)]
        return await asyncio.open_connection("127.0.0.1", self._port, local_addr=(source, 0))

    async def _log_in(self) -> asyncssh.SSHClientConnection:
        self.sent += 1
        return await asyncssh.connect(
            "127.0.0.1", self._port, username=NAME, client_keys=[self._key], known_hosts=None, config=None,
            agent_path=None, local_addr=(STRANGERS[0], 0),
        )  # fmt: skip

    async def silent(self) -> None:
        """B1: say nothing."""
        _, writer = await self._open(self.sent)
        await asyncio.sleep(5)
        writer.close()

    async def trickled(self) -> None:
        """B3: a byte at a time."""
        _, writer = await self._open(self.sent)
        for byte in b"SSH-2.0-slow\r\n" + bytes(100):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        writer.close()

    async def flood(self) -> None:
        """B4: megabytes before login."""
        _, writer = await self._open(self.sent)
        writer.write(HANDSHAKE[0] + (UInt32(200_000) + bytes(200_000)) * 20)
        await writer.drain()
        writer.close()

    async def storm(self) -> None:
        """B5: have the server compute a key exchange, and go."""
        reader, writer = await self._open(self.sent)
        writer.write(b"".join(HANDSHAKE[:3]))
        async with asyncio.timeout(2):
            await reader.read(4096)
        writer.transport.abort()

    async def unread(self) -> None:
        """B6: open the window and read nothing."""
        connection = await self._log_in()
        await connection.create_process("exec cat /dev/zero", encoding=None, window=WIDE_OPEN)
        connection._transport.pause_reading()  # type: ignore[union-attr] # noqa: SLF001 - asyncssh reads always
        await asyncio.sleep(60)
        connection.abort()

    async def half_exchange(self) -> None:
        """B7: begin a key exchange under output, and never end it."""
        connection = await self._log_in()
        await connection.create_process("exec cat /dev/zero", encoding=None, window=WIDE_OPEN)
        connection._send_kexinit()  # noqa: SLF001 - asyncssh would end what it begins
        connection.data_received = lambda *_: None  # type: ignore[method-assign]
        await asyncio.sleep(60)
        connection.abort()

    async def channels(self) -> None:
        """B9, B10: more channels than there may be, and variables without end."""
        connection = await self._log_in()
        raw = Raw(connection)
        for number in range(100):
            raw.open(number)
        await until(lambda: raw.count(CONFIRMED))
        for number in range(500):
            raw.request(0, "env", String(f"LC_{number}"), String(bytes(10_000)))
        await asyncio.sleep(1)
        connection.abort()

    async def requests(self) -> None:
        """B11: global requests, as many as go."""
        connection = await self._log_in()
        Raw(connection)
        for _ in range(20):
            for _ in range(500):
                connection.send_packet(GLOBAL_REQUEST, String("keepalive@openssh.com"), Boolean(value=True))
            await asyncio.sleep(0.1)
        connection.abort()

    async def window(self) -> None:
        """B13: send more than the window to a program that reads nothing."""
        connection = await self._log_in()
        raw = Raw(connection)
        raw.open(0)
        await until(lambda: raw.count(CONFIRMED))
        raw.request(0, "exec", String("sleep 60"))
        for _ in range(128):
            raw.send(DATA, 0, String(bytes(32768)))
        await asyncio.sleep(1)
        connection.abort()


async def _for_ever(way: Callable[[], Awaitable[Any]], pause: float) -> None:
    while True:
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError, EOFError):
            await way()
        await asyncio.sleep(pause)


async def attack(port: int, key: str, seconds: float, ways: str) -> int:
    """Attack by `storm` alone, 500 connections a second, or by `all` at once; return how many connections were made."""
    attacker = Attacker(port, key)
    work: list[tuple[Callable[[], Awaitable[Any]], int, float]] = [(attacker.storm, 50, 50 / A_SECOND)]
    if ways == "all":
        work = [
            (attacker.silent, 20, 0.5), (attacker.trickled, 10, 0.5), (attacker.flood, 2, 0.5),
            (attacker.storm, 10, 0.2), (attacker.unread, 1, 1), (attacker.half_exchange, 1, 1),
            (attacker.channels, 1, 1), (attacker.requests, 1, 1), (attacker.window, 1, 1),
        ]  # fmt: skip
    elif ways == "unread":
        work = [(attacker.unread, 1, 1)]
    tasks = [asyncio.create_task(_for_ever(way, pause)) for way, count, pause in work for _ in range(count)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return attacker.sent


if __name__ == "__main__":
    os.nice(10)
    print(asyncio.run(attack(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4])))
