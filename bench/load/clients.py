"""Clients in this process: logins, and sessions at a terminal that echo a counter."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncssh

from bench.load.place import NAME
from tests.e2e.server import Bastion

LOST_SECONDS: Final = 30.0
PARALLEL: Final = 8  # fewer than max_startups_per_source
ECHO: Final = "stty raw -echo; echo ready; exec cat"


async def connect(server: Bastion, *, source: str = "", **options: Any) -> asyncssh.SSHClientConnection:
    """Log alice in."""
    return await asyncssh.connect(
        "127.0.0.1", server.port, username=NAME, client_keys=[asyncssh.read_private_key(server.folder / "alice.key")],
        known_hosts=None, config=None, agent_path=None, local_addr=(source, 0) if source else None,
        login_timeout=LOST_SECONDS, **options,
    )  # fmt: skip


@dataclass
class Echoes:
    """Sessions that echo a counter: how long each echo took, in seconds, and what went wrong."""

    server: Bastion
    delays: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sessions: list[tuple[asyncssh.SSHClientConnection, asyncssh.SSHClientProcess[bytes]]] = field(default_factory=list)
    count: int = 0

    async def open(self, count: int) -> None:
        """Open sessions at terminals, one on each connection, eight at a time."""
        limit = asyncio.Semaphore(PARALLEL)

        async def one() -> None:
            async with limit:
                connection = await connect(self.server)
                process = await connection.create_process(ECHO, term_type="xterm", encoding=None)
                async with asyncio.timeout(LOST_SECONDS):
                    await process.stdout.readuntil(b"ready\n")
                self.sessions.append((connection, process))

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())

    async def run(self, seconds: float, interval: float) -> None:
        """Have each session echo its counter, about every `interval` seconds."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._echo(process, until, interval) for _, process in self.sessions))

    async def _echo(self, process: "asyncssh.SSHClientProcess[bytes]", until: float, interval: float) -> None:
        try:
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, random.uniform(0, 2 * interval)))  # noqa: S311 - to spread the keys
                self.count += 1
                line = b"%010d\n" % self.count
                began = time.perf_counter()
                process.stdin.write(line)
                async with asyncio.timeout(LOST_SECONDS):
                    answer = await process.stdout.readexactly(len(line))
                self.delays.append(time.perf_counter() - began)
                if answer != line:
                    self.faults.append(f"{answer!r} for {line!r}")
        except (OSError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError) as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Close every connection."""
        for connection, _ in self.sessions:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection, _ in self.sessions), return_exceptions=True)


@asynccontextmanager
async def echoing(server: Bastion, count: int, interval: float = 0.2) -> AsyncIterator[Echoes]:
    """Have sessions echo for as long as the context lasts."""
    echoes = Echoes(server)
    await echoes.open(count)
    task = asyncio.create_task(echoes.run(3600, interval))
    try:
        yield echoes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await echoes.close()


async def logins(server: Bastion, seconds: float, *, parallel: int = 8, apart: bool = False) -> tuple[list[float], int]:
    """Log in and out as fast as it goes, from one address or `apart`; return the delays and how many failed."""
    delays: list[float] = []
    failures = 0
    until = time.monotonic() + seconds

    async def work(source: str) -> None:
        nonlocal failures
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                connection = await connect(server, source=source)
            except (OSError, asyncssh.Error, TimeoutError):
                failures += 1
                await asyncio.sleep(0.05)
                continue
            delays.append(time.perf_counter() - began)
            connection.close()
            await connection.wait_closed()

    await asyncio.gather(*(work(f"127.0.1.{number}" if apart else "") for number in range(1, parallel + 1)))
    return delays, failures
