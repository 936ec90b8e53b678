"""Conversations of the stock sftp with OpenSSH's own server, through a relay that reads them along."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bastion.config import SessionsSettings
from bastion.files.observed import Observed
from bastion.files.observer import Observer
from bastion.model import STDIN, Channel, Data, FileOperation, Identity, Name, Recorded, Request, Target
from bastion.relay import relay
from bastion.sessions import Sessions
from tests.conftest import unavailable
from tests.unit.memory_runtime import MemoryExec
from tests.unit.ssh_bridge import Bridge, bridged

PLACES = "/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh:/usr/libexec"
IDENTITY = Identity("alice", "SHA256:x", "10.0.0.1")
TARGET = Target("memory", "mystack", "web", "0", "web-1")
REQUEST = Request("0123456789abcdef", Name("web"), "subsystem", "sftp")


class Watched(Observed):
    """An Observed that keeps what passed, as `passed`: (whether the client sent it, bytes)."""

    passed: list[tuple[bool, bytes]]

    async def record(self, event: Recorded) -> None:
        if isinstance(event, Data):
            self.passed.append((event.stream == STDIN, event.payload))
        await super().record(event)


class House:
    """What was put on record, and what passed, in every conversation so far."""

    def __init__(self, bridge: Bridge, recorded: list[Recorded], passed: list[tuple[bool, bytes]]) -> None:
        self._bridge = bridge
        self.port = bridge.port
        self.recorded = recorded
        self.passed = passed

    async def sftp(self, *commands: str, cwd: Path) -> tuple[int, str]:
        """Have sftp do this; return its exit status and what it said on standard error."""
        lines = "".join(f"{command}\n" for command in (f"lcd {cwd}", f"cd {cwd}", *commands))
        status, _, err = await self._bridge.run("sftp", "-s", "/sftp-server", "-b", "-", "x", stdin=lines.encode())
        return status, err.decode()


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    server = shutil.which("sftp-server", path=PLACES)
    if server is None:
        unavailable("sftp-server is not installed (tests/prepare.sh)")
    recorded: list[Recorded] = []
    passed: list[tuple[bool, bytes]] = []

    async def record(event: Recorded) -> None:
        await asyncio.sleep(0)
        recorded.append(event)

    async def serve(channel: Channel, command: str | None, subsystem: str | None) -> int:
        assert command == "/sftp-server"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(server, stdin=pipe, stdout=pipe)
        try:
            async with sessions.open(IDENTITY, REQUEST, TARGET) as session, Watched(session, record) as observed:
                observed.passed = passed
                status = await relay(channel, MemoryExec(process), session, observed.record, observed.publish)
                return status.status
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    sessions = Sessions(SessionsSettings(), "node")
    async with bridged(serve) as bridge:
        yield House(bridge, recorded, passed)


def observed(passed: list[tuple[bool, bytes]]) -> list[Recorded]:
    """Return what an observer notes of a conversation."""
    observer, noted = Observer(), list[Recorded]()
    for is_clients, payload in passed:
        noted += observer.client(payload) if is_clients else observer.server(payload)
    return [*noted, *observer.finish()]


def streams(recorded: list[Recorded]) -> dict[int, bytes]:
    """Return what each stream holds."""
    found: dict[int, bytearray] = {}
    for event in recorded:
        if isinstance(event, Data):
            found.setdefault(event.stream, bytearray()).extend(event.payload)
    return {number: bytes(content) for number, content in found.items()}


def operations(recorded: list[Recorded]) -> list[FileOperation]:
    """Return the operations alone."""
    return [event for event in recorded if isinstance(event, FileOperation)]
