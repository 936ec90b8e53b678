"""A toolbox beside a container without a shell: who it is, what it may, what is left of it, and what it is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bastion.errors import ContainerEnded, NoShell, RuntimeFailed
from bastion.model import STDIN, Data, Eof, Signal, Terminal
from bastion.runtimes.docker import DockerRuntime
from tests.engine import Engine
from tests.runtimes.world import World, read_until, request

pytestmark = pytest.mark.docker

STACK = "bare"
LABEL = "label=bastion.toolbox"


@pytest.fixture
def bare(engine: Engine) -> Iterator[str]:
    """Give the name of a running container without a shell."""
    engine.start("bare", engine.image_scratch, stack=STACK, service="bare")
    yield "bare"
    engine.remove("bare")


@pytest.fixture
async def runtime(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """Give a runtime whose stack has a toolbox; at its end no toolbox is left."""
    made = DockerRuntime(engine.host, toolboxes={STACK: engine.image_busybox}, pause_timeout=1)
    yield made
    await made.close()
    assert toolboxes(engine) == []


def toolboxes(engine: Engine) -> list[str]:
    return engine.docker("ps", "-aq", "--no-trunc", "--filter", LABEL).split()


async def world_of(runtime: DockerRuntime, engine: Engine, name: str = "bare") -> World:
    (target,) = await runtime.find(STACK, name)

    def look(script: str) -> str:
        (toolbox,) = toolboxes(engine)
        return engine.docker("exec", "-u", "0", toolbox, "sh", "-c", script)

    return World(runtime, target, look)


@asynccontextmanager
async def started(
    engine: Engine, name: str, *, image: str, args: Sequence[str] = (), command: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Start a container of the stack, and remove it at the end."""
    container_id = engine.start(name, image, stack=STACK, service=name, args=args, command=command)
    try:
        yield container_id
    finally:
        await asyncio.to_thread(engine.remove, name)


async def test_a_command(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A container without a shell is entered by one toolbox beside it, in its files, and one line says so."""
    world = await world_of(runtime, engine)
    first = await world.command("pwd; ls; tr '\\0' ' ' </proc/1/cmdline; echo; exit 3")
    assert first.exit.status == 3
    assert first.out.startswith(b"/proc/1/root\n")
    assert b"sleep\n" in first.out
    assert first.out.endswith(b"/sleep 100000 \n")
    assert first.err == (
        b"bastion: note: bare has no shell: you are in a toolbox beside it, and its files are under /proc/1/root\n"
    )
    again = await asyncio.gather(*(world.command("echo $BASTION_SESSION $BASTION_ROOT; cat") for _ in range(4)))
    assert [done.out.decode() for done in again] == [f"{done.uid} /proc/1/root\n" for done in again]
    assert len(toolboxes(engine)) == 1


async def test_what_it_writes_is_the_containers(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """What a session writes in its folder is in the container; the toolbox's own files cannot be written."""
    world = await world_of(runtime, engine)
    done = await world.command("cat >here; cat here; echo no >/bin/there", b"some\n")
    assert done.out == b"some\n"
    assert done.exit.status != 0
    assert b"Read-only file system" in done.err
    engine.docker("cp", "bare:/here", "-")


async def test_a_shell_at_a_terminal(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A shell in a toolbox has its terminal in its size, and the line that says where it is comes first."""
    world = await world_of(runtime, engine)
    async with runtime.exec(world.target, request(terminal=Terminal("vt100", 91, 17))) as program:
        await program.send(Data(STDIN, b'echo "<$PWD|$TERM|$(stty size)>"; exit 6\n'))
        seen = await read_until(program, b"</proc/1/root|vt100|17 91>")
        assert seen.startswith(b"bastion: note: ")
        async for _ in program:
            continue
        assert (await program.wait()).status == 6


async def test_a_signal(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A signal reaches the program in the toolbox, and not what the container runs."""
    world = await world_of(runtime, engine)
    async with runtime.exec(world.target, request("trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done")) as it:
        await read_until(it, b"ready")
        await it.send(Signal("USR1"))
        async for _ in it:
            continue
        assert (await it.wait()).status == 9
    assert engine.docker("inspect", "-f", "{{.State.Running}}", bare) == "true"


async def test_dialling(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A connection is made by the toolbox's own helper, in the network of the container."""
    world = await world_of(runtime, engine)
    async with runtime.exec(world.target, request("nc -l -p 7070 -e cat & echo up; wait")) as listening:
        await read_until(listening, b"up")
        async with runtime.dial(world.target, "localhost", 7070) as connection:
            await connection.send(Data(STDIN, b"through"))
            await connection.send(Eof())
            assert [event async for event in connection] == [Data(1, b"through")]


async def test_nothing_is_left(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """What a session started in the toolbox ends with it, setsid included; what another one runs there does not."""
    world = await world_of(runtime, engine)
    async with runtime.exec(world.target, request("echo on; sleep 7611")) as other:
        await read_until(other, b"on")
        asked = request("sleep 7610 & (setsid sleep 7610 &); trap '' TERM; echo ready; sleep 7610")
        async with runtime.exec(world.target, asked) as program:
            await read_until(program, b"ready")
        assert await world.left("7610") == []
        assert len(await world.left("7611")) >= 1
    assert await world.left("7611") == []


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (("kill",), "stopped"),
        (("rm", "-f"), "removed|stopped"),
        (("restart", "-t", "0"), "stopped"),
        (("pause",), "is paused"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
async def test_the_container_ends(
    engine: Engine, runtime: DockerRuntime, bare: str, *, action: tuple[str, ...], words: str
) -> None:
    """When its container ends or is paused, the sessions in the toolbox end, with that reason."""
    world = await world_of(runtime, engine)

    async def session() -> None:
        async with runtime.exec(world.target, request("echo ready; sleep 7612")) as program:
            await read_until(program, b"ready")
            await asyncio.to_thread(engine.docker, *action, bare)
            async with asyncio.timeout(10):
                async for _ in program:
                    continue
                await program.wait()

    with pytest.raises(ContainerEnded) as ended:
        await session()
    assert bare in ended.value.public
    assert re.search(words, ended.value.public)
    if action[0] == "pause":
        with pytest.raises(ContainerEnded, match="paused"):
            await world.command("true")
    elif action[0] == "restart":
        assert (await world.command("echo again")).out == b"again\n"
    else:
        with pytest.raises(ContainerEnded):
            await world.command("true")
        assert toolboxes(engine) == []


async def test_the_toolbox_ends(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A toolbox that is removed under a session ends it with words, and the next session has another one."""
    world = await world_of(runtime, engine)

    async def session() -> None:
        async with runtime.exec(world.target, request("echo ready; sleep 7613")) as program:
            await read_until(program, b"ready")
            await asyncio.to_thread(engine.docker, "rm", "-f", *toolboxes(engine))
            async for _ in program:
                continue

    with pytest.raises(ContainerEnded, match="bare has lost its toolbox"):
        await session()
    assert (await world.command("echo again")).out == b"again\n"


@pytest.mark.parametrize(
    ("args", "command", "chosen", "expected"),
    [
        ((), (), None, "0:0"),
        (("--user", "1000:1000"), (), None, "1000:1000"),
        (("--user", "user"), (), None, "1000:1000"),
        ((), (), "user", "1000:1000"),
        ((), (), "user:0", "1000:0"),
        ((), (), "1000", "1000:1000"),
        ((), (), "4711", "4711:0"),
        ((), (), "4711:12", "4711:12"),
    ],
)
async def test_user(
    engine: Engine,
    runtime: DockerRuntime,
    *,
    args: tuple[str, ...],
    command: tuple[str, ...],
    chosen: str | None,
    expected: str,
) -> None:
    """Programs run as the user chosen for the target, by its own passwd, or else as its first process does."""
    async with started(engine, "who", image=engine.image_scratch, args=args, command=command):
        world = await world_of(runtime, engine, "who")
        done = await world.run(request("echo $(id -u):$(id -g)"), target=replace(world.target, user=chosen))
        assert done.out.decode().strip() == expected
        own = expected in ("0:0", "1000:1000") and chosen is None
        assert done.err.decode().endswith(
            "its files are under /proc/1/root\n"
            if own or chosen is None
            else "that takes its own user, or SYS_PTRACE\n"
        )


async def test_a_user_nobody_knows(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A chosen user who is not in the container's own passwd is refused, although the toolbox may know one."""
    world = await world_of(runtime, engine)
    with pytest.raises(RuntimeFailed, match="user chosen for bare is not in its image"):
        await world.run(request("id"), target=replace(world.target, user="nosuch"))


async def test_where_its_files_may_not_be_opened(engine: Engine, runtime: DockerRuntime) -> None:
    """A user who may not open the container's files is told so, and what trusts BASTION_ROOT finds nothing."""
    async with started(engine, "closed", image=engine.image_scratch):
        world = await world_of(runtime, engine, "closed")
        asked = request("echo $BASTION_ROOT; ls $BASTION_ROOT")
        done = await world.run(asked, target=replace(world.target, user="1000:1000"))
        assert done.out == b"/proc/0/root\n"
        assert b"may not open its files" in done.err
        assert done.exit.status != 0


@pytest.mark.parametrize(
    "args",
    [(), ("--cap-drop", "ALL"), ("--cap-add", "SYS_PTRACE", "--cap-drop", "CHOWN"), ("--user", "1000")],
    ids=["plain", "dropped", "mixed", "user"],
)
async def test_it_may_no_more_than_its_container(engine: Engine, runtime: DockerRuntime, args: tuple[str, ...]) -> None:
    """A program in a toolbox has the capabilities of the container's own, gains none, and opens its files."""
    async with started(engine, "caps", image=engine.image_scratch, args=args):
        world = await world_of(runtime, engine, "caps")
        done = await world.command(
            "grep -h -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/1/status /proc/self/status; ls sleep"
        )
        lines = done.out.decode().splitlines()
        assert lines[:3] == lines[4:7]
        assert lines[7] == "NoNewPrivs:\t1"
        assert lines[8:] == ["sleep"]
        (toolbox,) = toolboxes(engine)
        (details,) = json.loads(engine.docker("inspect", toolbox))
        host = details["HostConfig"]
        assert not host["Privileged"]
        assert host["ReadonlyRootfs"]
        assert host["AutoRemove"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert not host["Binds"]
        assert host["NetworkMode"] == host["PidMode"] == f"container:{world.target.container_id}"


async def test_it_is_no_service(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A toolbox is in no list and cannot be entered by its name, whatever labels its image has."""
    world = await world_of(runtime, engine)
    before = await runtime.services()
    async with runtime.exec(world.target, request("echo up; sleep 7614")) as program:
        await read_until(program, b"up")
        name = engine.docker("ps", "--filter", LABEL, "--format", "{{.Names}}")
        assert name.startswith("bastion-toolbox-")
        assert await runtime.services() == before
        for stack in ("docker", STACK):
            assert await runtime.find(stack, name) == []


async def test_refusals(engine: Engine, runtime: DockerRuntime, docker: DockerRuntime, bare: str) -> None:
    """Without a grant or without a toolbox nobody enters, and the words say what would help; nothing is made."""
    world = await world_of(runtime, engine)
    with pytest.raises(NoShell) as refused:
        await world.run(request("true"), target=replace(world.target, toolbox=False))
    assert refused.value.public == "bare has no shell, and no grant lets you enter by a toolbox beside it"
    assert "grant that allows toolbox" in refused.value.hint
    with pytest.raises(NoShell) as refused:
        await World(docker, world.target, str).command("true")
    assert "has no shell" in refused.value.public
    assert "toolbox" in refused.value.hint
    assert toolboxes(engine) == []


async def test_processes_that_are_not_its_own(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A container in the processes of another gets no toolbox: its first process would be the other's."""
    async with started(engine, "guest", image=engine.image_scratch, args=("--pid", "container:bare")):
        world = await world_of(runtime, engine, "guest")
        with pytest.raises(NoShell, match="shares others' processes"):
            await world.command("true")


async def test_an_image_that_is_not_there(engine: Engine, bare: str) -> None:
    """An image that the engine has not is never pulled: the hint is how to, and `faults` names it beforehand."""
    image = "bastion-test/no-such-image:none"
    runtime = DockerRuntime(engine.host, toolboxes={STACK: image, "other": engine.image_busybox})
    try:
        (fault,) = await runtime.faults()
        world = await world_of(runtime, engine)
        with pytest.raises(RuntimeFailed) as refused:
            await world.command("true")
    finally:
        await runtime.close()
    assert image in refused.value.public
    assert refused.value.public == fault.public
    assert refused.value.hint == f"docker pull {image}"


async def test_an_image_without_a_shell(engine: Engine, bare: str) -> None:
    """An image that has no shell itself is refused in words, and no container of it is left."""
    runtime = DockerRuntime(engine.host, toolboxes={STACK: engine.image_scratch})
    try:
        world = await world_of(runtime, engine)
        with pytest.raises(NoShell, match="the toolbox image of bare has no shell either"):
            await world.command("true")
        assert toolboxes(engine) == []
    finally:
        await runtime.close()


async def test_a_chosen_shell_that_is_not_there(engine: Engine, runtime: DockerRuntime) -> None:
    """Where the shell that the stack names is there it is used; where it is not, the toolbox is."""
    async with started(engine, "odd", image=engine.image_busybox):
        world = await world_of(runtime, engine, "odd")
        ash = replace(world.target, shell="/bin/ash")  # noqa: S604 - the target's shell
        assert (await world.run(request("echo $0 $BASTION_ROOT."), target=ash)).out == b"/bin/ash .\n"
        fish = replace(world.target, shell="/bin/fish")  # noqa: S604 - as above
        done = await world.run(request("echo $0 $BASTION_ROOT."), target=fish)
        assert done.out == b"sh /proc/1/root.\n"


async def test_it_goes_when_it_is_idle(engine: Engine, bare: str) -> None:
    """A toolbox is removed a while after its last session, and never under one."""
    runtime = DockerRuntime(engine.host, toolboxes={STACK: engine.image_busybox}, toolbox_idle=0.2)
    try:
        world = await world_of(runtime, engine)
        async with runtime.exec(world.target, request("echo up; sleep 1; cat")) as program:
            await read_until(program, b"up")
            await asyncio.sleep(1)
            assert len(toolboxes(engine)) == 1
            await program.send(Eof())
            async for _ in program:
                continue
            assert (await program.wait()).status == 0
        async with asyncio.timeout(10):
            while await asyncio.to_thread(toolboxes, engine):
                await asyncio.sleep(0.1)
        assert (await world.command("echo again")).out == b"again\n"
    finally:
        await runtime.close()


async def test_it_is_found_again(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A bastion that comes after another one uses and removes its toolboxes, but none in which something runs."""
    world = await world_of(runtime, engine)
    later = DockerRuntime(engine.host, toolboxes={STACK: engine.image_busybox}, toolbox_idle=0.2)
    try:
        async with runtime.exec(world.target, request("echo up; sleep 7615")) as program:
            await read_until(program, b"up")
            (toolbox,) = toolboxes(engine)
            await later.find(STACK, "bare")
            assert (await World(later, world.target, world.look).command("echo me too")).out == b"me too\n"
            await asyncio.sleep(1)
            assert toolboxes(engine) == [toolbox]
        async with asyncio.timeout(10):
            while await asyncio.to_thread(toolboxes, engine):
                await asyncio.sleep(0.1)
    finally:
        await later.close()


async def test_a_container_of_its_name(engine: Engine, runtime: DockerRuntime, bare: str) -> None:
    """A container that has a toolbox's name and is none is neither used nor removed."""
    world = await world_of(runtime, engine)
    await world.command("true")
    name = engine.docker("ps", "--filter", LABEL, "--format", "{{.Names}}")
    engine.docker("rm", "-f", name)
    engine.start(name, engine.image_busybox, stack=STACK, service="impostor")
    try:
        with pytest.raises(RuntimeFailed, match="no toolbox could be started beside bare"):
            await world.command("true")
        assert engine.docker("inspect", "-f", "{{.State.Running}}", name) == "true"
    finally:
        engine.remove(name)


async def test_no_root_but_in_a_toolbox(engine: Engine, runtime: DockerRuntime) -> None:
    """Outside of a toolbox neither an image nor a client can say where the files are."""
    async with started(engine, "forger", image=engine.image_busybox, args=("-e", "BASTION_ROOT=/forged")):
        world = await world_of(runtime, engine, "forger")
        done = await world.run(request('echo "<$BASTION_ROOT>"', environment={"BASTION_ROOT": "/sent"}))
        assert done.out == b"<>\n"
