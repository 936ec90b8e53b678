"""When a connection to a cluster is lost though nobody says so, when it is not, and how it is let go."""

import asyncio
import contextlib
import ctypes
import gc
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from bastion.errors import ConnectionLost
from bastion.model import Eof
from bastion.runtimes import Exec
from bastion.runtimes.kubernetes import KubernetesRuntime, stream, wire
from tests.cluster import Cluster
from tests.runtimes.conftest import in_cluster
from tests.runtimes.world import World, pieces, read_until, request

pytestmark = pytest.mark.kubernetes

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27


@pytest.fixture
async def world(cluster: Cluster) -> AsyncIterator[World]:
    """Give a pod by v5."""
    async with in_cluster(cluster, "kubernetes-v5") as found:
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a connection for lost after 5 s."""
    monkeypatch.setattr(wire, "_PING", 0.3)
    monkeypatch.setattr(wire, "_SILENCE", 5.0)
    monkeypatch.setattr(wire, "_LOOK", 0.3)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[aiohttp.ClientWebSocketResponse]:
    """Give the WebSockets of programs, in the order in which they are opened."""
    found = []

    class Noted(wire.Wire):
        def __init__(self, opened: aiohttp.ClientWebSocketResponse, name: str) -> None:
            super().__init__(opened, name)
            found.append(opened)

    monkeypatch.setattr(stream, "Wire", Noted)
    return found


@contextlib.contextmanager
def deaf(opened: aiohttp.ClientWebSocketResponse) -> Iterator[None]:
    """Have the kernel drop every packet that comes for a connection, as a cut network does."""
    ends = opened.get_extra_info("socket")
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0 bytes
    ends.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(drop_all)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            ends.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


async def to_the_end(program: Exec) -> None:
    async for _ in program:
        continue


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by Linux's socket filters")
@pytest.mark.parametrize("sent", [0, 20_000, 4_000_000], ids=["nothing sent", "taken", "not taken"])
async def test_a_network_that_is_cut(
    world: World, impatient: None, opened: list[aiohttp.ClientWebSocketResponse], sent: int
) -> None:
    """A session whose network is gone ends with an error in bounded time, whatever it had sent."""
    text = "echo ready; exec sleep 7701" if sent > 100_000 else "echo ready; cat >/dev/null; :"  # sh holds stdout open
    async with world.runtime.exec(world.target, request(text)) as program:
        connection = opened[-1]
        await read_until(program, b"ready")
        sending = asyncio.create_task(_send(program, b"x" * sent))
        reading = asyncio.create_task(to_the_end(program))
        await asyncio.sleep(1)
        with deaf(connection):
            async with asyncio.timeout(60):
                with pytest.raises(ConnectionLost) as lost:
                    await reading
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert "was lost" in lost.value.public
    assert ("acknowledged nothing" if sent > 100_000 else "nothing came") in lost.value.detail
    assert await world.left("7701") == []


async def test_a_program_that_does_not_read(world: World, impatient: None) -> None:
    """A session waits as long as its program takes no input; nothing of it is lost."""
    size = 4_000_000
    async with world.runtime.exec(world.target, request("sleep 12; wc -c; exit 3")) as program:
        sending = asyncio.create_task(_send(program, b"x" * size, end=True))
        assert str(size).encode() in await read_until(program, b"\n")
        await to_the_end(program)
        assert (await program.wait()).status == 3
        await sending


async def test_a_quiet_program_is_no_lost_one(world: World, impatient: None) -> None:
    """Pongs are a sign of life."""
    assert (await world.command("sleep 11; exit 3", b"x" * 20_000)).exit.status == 3


async def _send(program: Exec, payload: bytes, *, end: bool = False) -> None:
    for piece in pieces(payload):
        await program.send(piece)
    if end:
        await program.send(Eof())


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.005, 0.01, 0.02, 0.1])
async def test_a_runtime_that_is_closed_at_once(cluster: Cluster, pause: float) -> None:
    """Nothing of its connections is left, wherever its watches are when it is closed."""
    runtime = KubernetesRuntime(cluster.kubeconfig, None, namespaces={"closed": cluster.namespace})
    await runtime.find("closed", "nothing")
    await asyncio.sleep(pause)
    await runtime.close()
    gc.collect()  # a transport that is not closed warns here, and a warning is an error


async def test_a_find_that_is_cancelled(cluster: Cluster) -> None:
    """Wherever a log-in or a list is when it is cancelled, the runtime closes clean."""
    for pause in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
        runtime = KubernetesRuntime(cluster.kubeconfig, None, namespaces={"closed": cluster.namespace})
        finding = asyncio.create_task(runtime.find("closed", "nothing"))
        await asyncio.sleep(pause)
        finding.cancel()
        await asyncio.gather(finding, return_exceptions=True)
        await runtime.close()
        gc.collect()
