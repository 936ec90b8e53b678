"""A runtime whose containers are a list in memory: the port in full, its programs are processes of this machine."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bastion.errors import ContainerPaused, RuntimeFailed, RuntimeUnreachable
from bastion.model import STDIN, STDOUT, Data, Eof, Event, Exit, Request, Target
from bastion.runtimes import Archive
from bastion.runtimes.dialling import SocketConnection, by_socket
from bastion.runtimes.duties import Duty, Reaped


class MemoryExec:
    """One process, of which only standard output is given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __aiter__(self) -> AsyncIterator[Event]:
        assert self._process.stdout is not None
        while payload := await self._process.stdout.read(65536):
            yield Data(STDOUT, payload)

    async def send(self, event: Event) -> None:
        assert self._process.stdin is not None
        if isinstance(event, Data) and event.stream == STDIN:
            self._process.stdin.write(event.payload)
            await self._process.stdin.drain()
        elif isinstance(event, Eof):
            self._process.stdin.close()

    async def wait(self) -> Exit:
        return Exit(await self._process.wait())


class MemoryRuntime:
    """Holds containers, and keeps a note of every look-up it was asked for."""

    def __init__(self, containers: Sequence[Target], name: str = "memory") -> None:
        self.name = name
        self.containers = list(containers)
        self.lookups: list[tuple[str, str]] = []
        self.answers = True
        self.faulty: list[RuntimeFailed] = []
        self.reaped: list[Duty] = []
        self.paused = False

    async def services(self) -> list[tuple[str, str]]:
        await self.ping()
        return sorted({(target.stack, target.service) for target in self.containers})

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        await self.ping()
        self.lookups.append((stack, service))
        here = (t for t in self.containers if t.stack == stack and container in (None, t.container_name))
        there = sorted(here, key=lambda target: target.container_name)
        named = [target for target in there if target.container_name == service]
        return [target for target in there if target.service == service] or named

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[MemoryExec]:
        command = request.command or "cat"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec("sh", "-c", command, stdin=pipe, stdout=pipe)
        try:
            yield MemoryExec(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def reap(self, duty: Duty) -> Reaped:
        self.reaped.append(duty)
        await self.ping()
        if self.paused:
            raise ContainerPaused("the container is paused")
        return "ended" if duty.container_id in {target.container_id for target in self.containers} else "gone"

    @asynccontextmanager
    async def dial(self, target: Target, host: str, port: int) -> AsyncIterator[SocketConnection]:
        async with by_socket(host, port, target.container_name) as connection:
            yield connection

    def archive(self, target: Target) -> Archive | None:
        return None

    async def faults(self) -> list[RuntimeFailed]:
        await self.ping()
        return self.faulty

    async def ping(self) -> str:
        if not self.answers:
            raise RuntimeUnreachable("the engine does not answer", "try again")
        return "memory 1"

    async def close(self) -> None:
        self.containers.clear()
