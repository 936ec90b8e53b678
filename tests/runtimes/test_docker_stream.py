"""What travels on the connection of an exec: nothing too early, no half of it lost, and no end that was not told."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bastion.errors import ConnectionLost
from bastion.model import STDIN, Data, Resize, Target, Terminal
from bastion.runtimes.docker import DockerRuntime
from tests.engine import Engine
from tests.runtimes.forward import Forward
from tests.runtimes.world import World, read_until, request

pytestmark = pytest.mark.docker


@pytest.fixture
async def forward(engine: Engine) -> AsyncIterator[Forward]:
    """Give a TCP address in front of the tests' engine."""
    async with Forward(engine.host.removeprefix("unix://")).serving() as serving:
        yield serving


@pytest.fixture
async def world(engine: Engine, forward: Forward) -> AsyncIterator[World]:
    """Give a busybox container of an engine that is reached by TCP."""
    container_id = engine.start("stream", engine.image_busybox, stack="stream", service="stream")
    runtime = DockerRuntime(forward.host)
    try:
        target = Target("docker", "stream", "stream", container_id, "stream")
        yield World(runtime, target, lambda script: engine.docker("exec", "stream", "sh", "-c", script))
    finally:
        await runtime.close()
        engine.remove("stream")


async def test_tcp(world: World) -> None:
    """An engine behind TCP works the same, half-close included."""
    assert [target.container_name for target in await world.runtime.find("stream", "stream")] == ["stream"]
    assert (await world.command("sort", b"b\na\n")).out == b"a\nb\n"


@pytest.mark.parametrize("terminal", [None, Terminal("xterm", 80, 24)], ids=["pipes", "terminal"])
async def test_nothing_is_sent_before_the_answer(world: World, forward: Forward, terminal: Terminal | None) -> None:
    """Input, sizes and the end of input wait for an engine that is slow to start the program, and none is lost."""
    forward.hold = 0.5
    asked = request("read line; echo got $line", terminal=terminal)
    done = await world.run(asked, [Resize(90, 30), Data(STDIN, b"it\n")])
    assert b"got it" in done.out
    assert forward.early == b""


async def test_an_output_that_ends_before_the_program(world: World, forward: Forward) -> None:
    """A stream that ends cleanly under a running program is an error and no exit status; the program is ended."""

    async def session() -> None:
        async with world.runtime.exec(world.target, request("echo ready; sleep 7507")) as program:
            await read_until(program, b"ready")
            forward.cut()
            async for _ in program:
                continue
            await program.wait()

    with pytest.raises(ConnectionLost):
        await session()
    assert await world.left("7507") == []


@pytest.mark.parametrize("command", ["echo ready; exit 4", "echo ready; sleep 0.3; exit 4"])
async def test_sizes_around_the_end(world: World, command: str) -> None:
    """New sizes for a terminal whose program has just ended, which the engine refuses, are no error."""
    async with world.runtime.exec(world.target, request(command, terminal=Terminal("xterm", 80, 24))) as program:
        await read_until(program, b"ready")
        ending = asyncio.create_task(program.wait())
        columns = 80
        while not ending.done():
            columns += 1
            await program.send(Resize(columns, 24))
            await asyncio.sleep(0)  # after the end `send` does not wait
        assert (await ending).status == 4


async def test_a_busy_default_executor(world: World) -> None:
    """Threads of the event loop that are all taken, as many logins do, hold no session back."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    over = threading.Event()
    taken = loop.run_in_executor(None, over.wait)
    try:
        async with asyncio.timeout(20):
            assert (await world.command("echo on")).out == b"on\n"
    finally:
        over.set()
        await taken
