"""The measurements: each takes one contender and gives one figure of one run."""

import asyncio
import os
import pty
import statistics
import subprocess
import time

import asyncssh

from bench.contenders import Contender, cpu_seconds, proportional_kib

MIB = 2**20
SIZE = 256 * MIB
LOGINS = 40
IDLE_SESSIONS = 50
ECHOES = 300


def throughput(contender: Contender) -> float:
    """Return MiB/s of 256 MiB of random bytes out of the container."""
    began = time.perf_counter()
    with subprocess.Popen(
        contender.command("cat /tmp/random"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        size = 0
        while piece := client.stdout.read1(MIB):  # type: ignore[attr-defined]
            size += len(piece)
    if size != SIZE or client.returncode != 0:
        raise RuntimeError(f"{contender.name}: {size} bytes, exit {client.returncode}")
    return SIZE / MIB / (time.perf_counter() - began)


def first_byte(contender: Contender) -> float:
    """Return the milliseconds from starting the client to the first byte of `echo`."""
    began = time.perf_counter()
    with subprocess.Popen(contender.command("echo x"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        if not client.stdout.read(1):
            raise RuntimeError(f"{contender.name}: no output")
        took = time.perf_counter() - began
        client.stdout.read()
    return took * 1000


def echo(contender: Contender) -> float:
    """Return the median milliseconds from a key typed at a terminal to its echo by a program in the container."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        contender.command("stty raw -echo; echo ready; exec cat", tty=True), stdin=slave, stdout=slave, stderr=slave
    ) as client:
        os.close(slave)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 4096)
        time.sleep(0.3)
        while not seen.endswith(b"\n"):
            seen += os.read(master, 4096)
        rounds = []
        for _ in range(ECHOES):
            began = time.perf_counter()
            os.write(master, b"a")
            while b"a" not in os.read(master, 4096):
                continue
            rounds.append((time.perf_counter() - began) * 1000)
        client.kill()
    os.close(master)
    return statistics.median(rounds)


def memory(contender: Contender) -> float:
    """Return the KiB that one more idle session costs, over fifty on five connections, of a server just started."""
    return asyncio.run(_memory(contender))


def login(contender: Contender) -> float:
    """Return the milliseconds of the server's processor time that one login costs."""
    return asyncio.run(_login(contender))


async def _connect(contender: Contender) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1",
        contender.port or 0,
        username=contender.user,
        client_keys=[str(contender.key)],
        known_hosts=str(contender.known_hosts),
        agent_path=None,
        config=None,
    )


async def _memory(contender: Contender) -> float:
    async def opened(count: int) -> tuple[list[asyncssh.SSHClientConnection], int]:
        connections = [await _connect(contender) for _ in range(max(count // 10, 1))]
        for connection in connections:
            for _ in range(min(count, 10)):
                process = await connection.create_process("echo ready; exec cat")
                await process.stdout.readline()
        await asyncio.sleep(1)
        return connections, proportional_kib(contender.pids())

    warm, _ = await opened(10)
    for connection in warm:
        connection.close()
    await asyncio.sleep(3)
    few, before = await opened(1)
    many, after = await opened(IDLE_SESSIONS)
    for connection in [*few, *many]:
        connection.close()
    await asyncio.sleep(2)
    return (after - before) / IDLE_SESSIONS


async def _login(contender: Contender) -> float:
    async def once() -> None:
        connection = await _connect(contender)
        connection.close()
        await connection.wait_closed()

    for _ in range(5):
        await once()
    await asyncio.sleep(0.5)
    before = cpu_seconds(contender.pids()[:1])
    for _ in range(LOGINS):
        await once()
    await asyncio.sleep(0.5)
    return (cpu_seconds(contender.pids()[:1]) - before) * 1000 / LOGINS
