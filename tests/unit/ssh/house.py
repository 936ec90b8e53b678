"""What the tests of the SSH face share: a whole bastion in this process over containers in memory, and a raw client."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from bastion.config import GrantSettings, SessionsSettings, SshSettings
from bastion.gateway import Gateway, Rules
from bastion.keyring import Keyring
from bastion.metrics import Metrics
from bastion.model import Request, Target
from bastion.policy import Policy
from bastion.runtimes import Exec
from bastion.runtimes.process import ProcessRuntime
from bastion.sessions import Sessions
from bastion.ssh import SshServer
from bastion.targets import Targets
from bastion.transcripts import Transcripts, generate_identity
from tests.unit.memory_runtime import MemoryRuntime

OPEN, CONFIRMED, REFUSED, DATA, CLOSE, REQUEST = 90, 91, 92, 94, 97, 98
_CONNECTION_LAYER = 80
WEB = Target(runtime="memory", stack="mystack", service="web", container_id="0", container_name="web-1")


class Containers(MemoryRuntime):
    """One container, whose programs are local processes.

    `found` can be cleared to have every look-up wait, and `started` says what has run.
    """

    def __init__(self) -> None:
        super().__init__([WEB])
        self.found = asyncio.Event()
        self.found.set()
        self.asked = 0
        self._processes = ProcessRuntime(WEB.stack, WEB.service, user=None)
        self.started: list[str | None] = []

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        self.asked += 1
        await self.found.wait()
        return await super().find(stack, service, container)

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[Exec]:  # type: ignore[override]
        self.started.append(request.command)
        async with self._processes.exec(target, request) as program:
            yield program


class House:
    """A bastion that listens on loopback; `connect` logs alice in, who may do everything."""

    def __init__(self, folder: Path, settings: SshSettings) -> None:
        self.keyring = Keyring(folder / "keys")
        self.keyring.init()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.fingerprint = self.keyring.add("alice", self.key.export_public_key().decode().strip())
        self.keyring.load()
        self.containers = Containers()
        self.sessions = Sessions(SessionsSettings(), "node")
        self.transcripts = Transcripts(
            folder / "transcripts", [generate_identity()[1]], self.keyring.signing_key, node="node"
        )
        self.metrics = Metrics()
        self.gateway = Gateway(
            Rules(
                policy=Policy([GrantSettings(users=("alice",), stacks=("*",))]),
                targets=Targets({"memory": self.containers}, [], lambda _: "memory"),
                limits=SessionsSettings(),
                notice=False,
            ),
            sessions=self.sessions,
            transcripts=self.transcripts,
            runtimes={"memory": self.containers},
            metrics=self.metrics,
        )
        self.server = SshServer(settings, self.keyring, self.gateway, self.metrics)
        self.address = ("", 0)

    async def connect(self, **more: list[str]) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            *self.address, username="web@mystack", known_hosts=None, config=None, client_keys=[self.key],
            agent_path=None, **more,
        )  # fmt: skip


@asynccontextmanager
async def running(folder: Path, settings: SshSettings) -> AsyncIterator[House]:
    """Run a bastion; after it no unseen exception was left to the event loop."""
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    house = House(folder, settings)
    await house.transcripts.start()
    try:
        house.address = (await house.server.listen())[0]
        yield house
    finally:
        house.containers.found.set()
        await house.server.close()
        await house.transcripts.close()
    assert not unseen


class Raw:
    """A logged-in connection that sends messages of the connection layer (RFC 4254) as they are and notes the answers.

    It takes the place of asyncssh's own channels, which would never send what a hostile client does.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.received: list[tuple[int, bytes]] = []
        self._process = connection.process_packet
        connection.process_packet = self._take  # type: ignore[method-assign,assignment] # notes what asyncssh would act on
        connection._channels = _Channels(self)  # type: ignore[assignment] # noqa: SLF001 - asyncssh has no way in

    def open(self, number: int, *, window: int = 2**21, packet: int = 32768) -> None:
        self.connection.send_packet(OPEN, String("session"), UInt32(number), UInt32(window), UInt32(packet))

    def request(self, channel: int, kind: str, *arguments: bytes, reply: bool = False) -> None:
        self.connection.send_packet(REQUEST, UInt32(channel), String(kind), Boolean(reply), *arguments)

    def send(self, number: int, channel: int, *arguments: bytes) -> None:
        self.connection.send_packet(number, UInt32(channel), *arguments)

    def count(self, number: int) -> int:
        return sum(kind == number for kind, _ in self.received)

    def text(self) -> bytes:
        return b"".join(body for _, body in self.received)

    def log_received_packet(self, *_arguments: object) -> None:
        return

    def process_packet(self, number: int, _sequence: int, packet: SSHPacket) -> bool:
        self.received.append((number, packet.get_remaining_payload()))
        return True

    def _take(self, number: int, sequence: int, packet: SSHPacket) -> object:
        if number < _CONNECTION_LAYER:
            return self._process(number, sequence, packet)
        return self.process_packet(number, sequence, packet)


class _Channels(dict[int, Raw]):
    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self._raw = raw

    def __missing__(self, _number: int) -> Raw:
        return self._raw

    def __iter__(self) -> Iterator[int]:
        return iter(())


async def until(done: Callable[[], object], seconds: float = 10) -> None:
    """Wait until it is so.

    Raises:
        TimeoutError: it did not become so.
    """
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)
