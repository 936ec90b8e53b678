"""What only a Docker Engine has: labels, containers that end, images without a shell, an engine that goes away."""

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bastion.errors import (
    ConfigurationError,
    ConnectionLost,
    ContainerEnded,
    ContainerPaused,
    NoShell,
    NoSuchTarget,
    OtherEngine,
    ProcessesLeft,
    RuntimeFailed,
    RuntimeUnreachable,
)
from bastion.model import STDIN, Data, Signal, Target, Terminal
from bastion.runtimes.docker import DockerRuntime
from bastion.runtimes.docker.engine import Engine as AskedEngine
from bastion.runtimes.docker.hazards import Hazards
from bastion.runtimes.duties import Duty
from tests.conftest import CACHE
from tests.engine import Engine
from tests.runtimes.world import World, read_until, request

pytestmark = pytest.mark.docker


def duty_in(engine: Engine, target: Target) -> Duty:
    """Return a duty to end what a session of a new uid left in a container."""
    identity = engine.docker("info", "--format", "{{.ID}}")
    return Duty(request().uid, target.runtime, identity, target.container_id, target.container_name, "sh")


@pytest.fixture
def container(engine: Engine) -> Iterator[str]:
    """Give the name of a running busybox container that the test may do anything to."""
    engine.start("victim", engine.image_busybox, stack="mystack", service="victim")
    yield "victim"
    engine.remove("victim")


async def only(docker: DockerRuntime, stack: str, service: str) -> Target:
    (target,) = await docker.find(stack, service)
    return target


async def test_services_by_labels(engine: Engine, docker: DockerRuntime) -> None:
    """Our labels win over Compose's, these over Swarm's; a container without any is of the stack docker."""
    compose = {"com.docker.compose.project": "c", "com.docker.compose.service": "web"}
    swarm = {"com.docker.stack.namespace": "s", "com.docker.swarm.service.name": "s_api"}
    own = {"bastion.stack": "own", "bastion.service": "db"}
    hostile = {"bastion.stack": "../etc", "bastion.service": "web"}
    names = {"l-own": {**own, **compose, **swarm}, "l-compose": {**compose, **swarm}, "l-swarm": swarm}
    names |= {"l-none": {}, "l-hostile": hostile, "l-half": {"bastion.stack": "half"}}
    for name, labels in names.items():
        engine.start(name, engine.image_scratch, labels=labels)
    try:
        found = await docker.services()
        assert {("own", "db"), ("c", "web"), ("s", "api"), ("docker", "l-none"), ("docker", "l-half")} <= set(found)
        assert found == sorted(set(found))
        assert not [place for place in found if "etc" in place[0] or "hostile" in place[1]]
        assert [target.container_name for target in await docker.find("own", "l-own")] == ["l-own"]
        assert await docker.find("c", "l-own") == []
    finally:
        engine.remove(*names)


async def test_replicas_and_details(engine: Engine, docker: DockerRuntime) -> None:
    """A service's containers are sorted by name, each with its id and image; stopped ones are left out."""
    ids = {name: engine.start(name, engine.image_busybox, stack="rep", service="web") for name in ("r-2", "r-1", "r-3")}
    try:
        engine.docker("kill", "r-3")
        found = await docker.find("rep", "web")
        assert [target.container_name for target in found] == ["r-1", "r-2"]
        assert [target.container_id for target in found] == [ids["r-1"], ids["r-2"]]
        assert {target.image for target in found} == {engine.image_busybox}
        assert {target.image_digest for target in found} == {engine.docker("inspect", "-f", "{{.Image}}", "r-1")}
        assert {target.hazards for target in found} == {()}
    finally:
        engine.remove(*ids)


@pytest.mark.parametrize(
    ("arguments", "hazard"),
    [
        (("--privileged",), "is privileged"),
        (("--pid", "host"), "shares the host's pid namespace"),
        (("-v", "/run/docker.sock:/x"), "mounts the Docker socket"),
        (("-v", "/run:/host:ro"), "mounts the Docker socket"),
        (("-v", "{run}:/x"), "mounts the Docker socket"),
        (("-v", "{above}:/x"), "mounts the Docker socket"),
        (("-v", "{link}:/x"), "mounts the Docker socket"),
        (("-v", "{run}/docker.sock:/x"), "mounts the Docker socket"),
        (("-v", "{other}:/x"), "mounts the Docker socket"),
        (("--mount", "type=bind,src={run},dst=/x"), "mounts the Docker socket"),
        (("-v", "hazard-bound:/x"), "mounts the Docker socket"),
        (("-v", "hazard-linked:/x"), "mounts the Docker socket"),
        (("-v", "/x", "-v", "hazard-plain:/y", "-v", "{run}/exec:/z", "--tmpfs", "/t"), None),
    ],
    ids=str,
)
async def test_E11_hazards(engine: Engine, tmp_path: Path, arguments: tuple[str, ...], hazard: str | None) -> None:
    """A container that would be a way into its host says so, as the engine describes it and its volumes."""
    run = Path(engine.host.removeprefix("unix://")).parent
    link = tmp_path / "link"
    link.symlink_to(run)
    other = tmp_path / "other"
    for name, device in {"hazard-bound": run, "hazard-linked": link}.items():
        options = ("type=none", "o=bind", f"device={device}")
        engine.docker("volume", "create", *(word for option in options for word in ("--opt", option)), name)
    words = [argument.format(run=run, above=run.parent, link=link, other=other) for argument in arguments]
    engine.docker("create", "--name", "hazard", "--network", "none", *words, engine.image_scratch)
    asked = AskedEngine(engine.host)
    try:
        details = await asked.ask("inspect_container", "hazard")
        assert await Hazards(asked, [engine.host, f"unix://{other}/own.sock"]).of(details) == (
            (hazard,) if hazard else ()
        )
    finally:
        asked.close()
        engine.remove("hazard")
        engine.docker("volume", "rm", "-f", "hazard-bound", "hazard-linked", "hazard-plain")


@pytest.mark.parametrize("terminal", [None, Terminal("xterm", 80, 24)], ids=["pipes", "terminal"])
@pytest.mark.parametrize(
    ("action", "words"),
    [
        (("stop", "-t", "0"), "stopped"),
        (("kill",), "stopped"),
        (("rm", "-f"), "removed|stopped"),  # a slow engine stops it well before it is gone
        (("restart", "-t", "0"), "stopped"),
        (("pause",), "is paused"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
async def test_container_ends(
    engine: Engine,
    docker: DockerRuntime,
    *,
    container: str,
    action: tuple[str, ...],
    words: str,
    terminal: Terminal | None,
) -> None:
    """A container that ends or is paused ends its sessions, which say so and which container it was."""
    target = await only(docker, "mystack", container)

    async def session() -> None:
        async with docker.exec(target, request("echo ready; sleep 7500", terminal=terminal)) as program:
            await read_until(program, b"ready")
            await asyncio.to_thread(engine.docker, *action, container)
            async with asyncio.timeout(10):
                async for _ in program:
                    continue
                await program.wait()

    with pytest.raises(ContainerEnded) as ended:
        await session()
    assert container in ended.value.public
    assert re.search(words, ended.value.public)
    assert ended.value.hint


async def test_a_pause_that_ends_in_time_ends_no_session(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """`docker commit`, and a pause after which the user is told that it is waited for, end no session."""
    patient = DockerRuntime(engine.host, pause_timeout=60)
    try:
        target = await only(patient, "mystack", container)
        async with patient.exec(target, request("echo ready; while read line; do echo got $line; done")) as program:
            await read_until(program, b"ready")  # a pause while runc starts a program is never over: containerd 1.6
            await asyncio.to_thread(engine.docker, "commit", container, "bastion-test/committed")
            await program.send(Data(STDIN, b"one\n"))
            await read_until(program, b"got one")
            engine.docker("pause", container)
            await read_until(program, b"bastion: hint: the container victim is paused; waiting up to 60 s\n")
            engine.docker("unpause", container)
            await program.send(Data(STDIN, b"two\n"))
            await read_until(program, b"got two")
    finally:
        await patient.close()
        engine.docker("rmi", "-f", "bastion-test/committed")


async def test_reap_says_what_became_of_the_container(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """A paused container is none that is gone, nor is one of another engine; one that ended or was removed is."""
    target = await only(docker, "mystack", container)
    duty = duty_in(engine, target)
    engine.docker("pause", container)
    with pytest.raises(ContainerPaused):
        await docker.reap(duty)
    engine.docker("unpause", container)
    assert await docker.reap(duty) == "ended"
    engine.docker("kill", container)
    assert await docker.reap(duty) == "gone"
    engine.remove(container)
    with pytest.raises(OtherEngine):
        await docker.reap(dataclasses.replace(duty, engine="another"))
    assert await docker.reap(duty) == "gone"


async def test_reap_is_not_fooled(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """A script of ours that is itself killed, or whose shell is gone, has not ended anything."""
    target = await only(docker, "mystack", container)
    duty = duty_in(engine, target)
    leave = f"(BASTION_SESSION={duty.uid} setsid sleep 7503 >/dev/null 2>&1 </dev/null &); sleep 0.2"
    world = World(docker, target, lambda script: engine.docker("exec", container, "sh", "-c", script))
    await world.command(leave)
    with pytest.raises(ProcessesLeft):
        await docker.reap(dataclasses.replace(duty, shell="/no/such/shell"))  # noqa: S604 - no subprocess's
    engine.docker("exec", container, "sh", "-c", "printf '#!/bin/true\\n' >/dead; chmod +x /dead")
    with pytest.raises(ProcessesLeft):
        await docker.reap(dataclasses.replace(duty, shell="/dead"))  # noqa: S604 - as above
    assert await world.left("7503")
    assert await docker.reap(duty) == "ended"
    assert await world.left("7503") == []


async def test_gone_and_paused_before(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """Nothing runs in a container that is paused, stopped or gone; the same name made anew is another container."""
    target = await only(docker, "mystack", container)
    engine.docker("pause", container)
    with pytest.raises(ContainerEnded, match="paused"):
        await World(docker, target, str).command("true")
    engine.docker("unpause", container)
    engine.docker("kill", container)
    with pytest.raises(ContainerEnded, match="not running"):
        await World(docker, target, str).command("true")
    engine.remove(container)
    engine.start(container, engine.image_busybox, stack="mystack", service=container)
    with pytest.raises(ContainerEnded, match="gone"):
        await World(docker, target, str).command("true")


async def test_restarting(engine: Engine, docker: DockerRuntime) -> None:
    """Between two starts of a container the name says so, and nothing runs in it."""
    container_id = engine.start(
        "again", engine.image_busybox, stack="again", service="again", args=("--restart", "always"), command=("false",)
    )
    look = ("inspect", "-f", "{{.RestartCount}} {{.State.Restarting}}", "again")
    try:
        while (await asyncio.to_thread(engine.docker, *look)) not in ("5 true", "6 true"):  # waits of 3.2 s and 6.4 s
            await asyncio.sleep(0.05)
        with pytest.raises(ContainerEnded, match="restarting"):
            await World(docker, Target("docker", "again", "again", container_id, "again"), str).command("true")
        with pytest.raises(NoSuchTarget, match="again@again is in a restart loop"):
            await docker.find("again", "again")
    finally:
        engine.remove("again")


async def test_no_shell(engine: Engine, docker: DockerRuntime) -> None:
    """An image without a shell refuses with words that say so, and what to do."""
    engine.start("bare", engine.image_scratch, stack="bare", service="bare")
    try:
        world = World(docker, await only(docker, "bare", "bare"), str)
        for asked in (request("true"), request(), request(terminal=Terminal("xterm", 80, 24))):
            with pytest.raises(NoShell) as refused:
                await world.run(asked)
            assert "bare" in refused.value.public
            assert refused.value.hint
    finally:
        engine.remove("bare")


async def test_chosen_shell(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """The stack's shell is the one that runs; one that is not there is an error, and its words are not output."""
    target = await only(docker, "mystack", container)
    world = World(docker, target, str)
    assert (await world.run(request("echo $0"))).out == b"sh\n"
    chosen = dataclasses.replace(target, shell="/bin/ash")  # noqa: S604 - the target's shell
    assert (await world.run(request("echo $0"), target=chosen)).out == b"/bin/ash\n"
    missing = dataclasses.replace(target, shell="/bin/fish")  # noqa: S604 - as above
    with pytest.raises(NoShell):
        await world.run(request("echo $0"), target=missing)


async def test_shell_is_found_once(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """Sessions that begin at the same time look for the container's shell once between them."""
    target = await only(docker, "mystack", container)
    world = World(docker, target, str)
    await asyncio.gather(*(world.command("true") for _ in range(5)))
    begun = engine.docker("inspect", "-f", "{{.State.StartedAt}}", container)
    now = engine.docker("info", "-f", "{{.SystemTime}}")
    shown = ("events", "--since", begun, "--until", now, "--filter", f"container={container}")
    lines = engine.docker(*shown, "--format", "{{.Action}}").splitlines()
    assert len([line for line in lines if line.startswith("exec_create") and "command -v bash" in line]) == 1
    assert len([line for line in lines if line.startswith("exec_create: sh -c true")]) == 5


async def test_user(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """A program runs as the user chosen for the target, never with privileges; an unknown user is an error."""
    target = await only(docker, "mystack", container)
    world = World(docker, target, str)
    as_user = Target("docker", "mystack", "victim", target.container_id, container, user="user")
    assert (await world.run(request("id -un; pwd"), target=as_user)).out == b"user\n/\n"
    unknown = Target("docker", "mystack", "victim", target.container_id, container, user="nosuch")
    with pytest.raises(RuntimeFailed, match=f"the user chosen for {container} is not in its image"):
        await world.run(request("id -un"), target=unknown)


async def test_missing_user_or_working_directory_is_no_missing_shell(engine: Engine, docker: DockerRuntime) -> None:
    """The first session of a container, which looks for the shell, is told what is missing; later ones are let in."""
    engine.start("gone", engine.image_busybox, stack="g", service="g", args=("-w", "/srv/app"))
    try:
        target = await only(docker, "g", "g")
        world = World(docker, target, str)
        with pytest.raises(RuntimeFailed, match="the user chosen for gone is not in its image"):
            await world.run(request("id"), target=dataclasses.replace(target, user="nosuch"))
        engine.docker("exec", "-w", "/", "gone", "rm", "-r", "/srv/app")
        with pytest.raises(RuntimeFailed, match="the working directory of gone is gone") as refused:
            await world.run(request("id"), target=target)
        assert refused.value.hint.endswith(": docker exec -w / -u 0 gone mkdir -p /srv/app")
        engine.docker("exec", "-w", "/", "gone", "mkdir", "/srv/app")
        assert (await world.run(request("pwd"), target=target)).out == b"/srv/app\n"
        engine.docker("exec", "-w", "/", "gone", "rm", "-r", "/srv/app")
        with pytest.raises(RuntimeFailed, match="the working directory of gone is gone"):
            await world.run(request("id"), target=target)
    finally:
        engine.remove("gone")


@pytest.mark.parametrize("image", ["image_busybox", "image_debian"])
async def test_interactive_shell(engine: Engine, docker: DockerRuntime, image: str) -> None:
    """A shell at a terminal is what `docker exec -it` gives: bash where there is one, the image's PATH, job control."""
    engine.start("inter", getattr(engine, image), stack="i", service="i", args=("-e", "PATH=/usr/bin:/bin:/special"))
    try:
        async with docker.exec(await only(docker, "i", "i"), request(terminal=Terminal("vt100", 80, 24))) as program:
            await program.send(Data(STDIN, b'echo "<$PATH|$TERM|$0>"; exit 6\n'))
            shell = b"bash" if image == "image_debian" else b"sh"
            await read_until(program, b"</usr/bin:/bin:/special|vt100|" + shell + b">")
            async for _ in program:
                continue
            assert (await program.wait()).status == 6
    finally:
        engine.remove("inter")


@pytest.mark.parametrize("without", ["grep", "sleep", "grep sleep"])
async def test_ending_without_tools(engine: Engine, docker: DockerRuntime, without: str) -> None:
    """Everything is ended where the image has no grep or no sleep; a neighbour with another marker is not."""
    engine.start("poor", engine.image_busybox, stack="p", service="p")
    engine.docker("exec", "poor", "sh", "-c", "cd /bin; rm " + without)
    try:
        target = await only(docker, "p", "p")
        look = World(docker, target, lambda script: engine.docker("exec", "poor", "sh", "-c", script))
        text = "(trap '' HUP TERM; tail -f /dev/null) & setsid tail -f /dev/null & echo ready; tail -f /dev/null"
        async with docker.exec(target, request("tail -F /neighbour & echo on; wait")) as other:
            await read_until(other, b"on")
            async with docker.exec(target, request(text)) as program:
                await read_until(program, b"ready")
            assert await look.left("/dev/null") == []
            assert len(await look.left("/neighbour")) >= 1
        assert await look.left("/neighbour") == []
    finally:
        engine.remove("poor")


async def test_ending_with_the_chosen_shell(engine: Engine, docker: DockerRuntime) -> None:
    """Everything is ended and signals arrive where the only shell is one that the stack names by its path."""
    engine.start("odd", engine.image_busybox, stack="odd", service="odd")
    engine.docker("exec", "odd", "sh", "-c", "mkdir /tools; cp /bin/sh /tools/ash; rm /bin/sh /bin/ash")
    try:
        target = dataclasses.replace(await only(docker, "odd", "odd"), shell="/tools/ash")  # noqa: S604 - as above
        look = World(docker, target, lambda script: engine.docker("exec", "odd", "/tools/ash", "-c", script))
        async with docker.exec(target, request("trap 'echo got' USR1; echo ready; sleep 7506; sleep 7506")) as program:
            await read_until(program, b"ready")
            await program.send(Signal("USR1"))
            await read_until(program, b"got")
            assert await look.left("7506")
        assert await look.left("7506") == []
    finally:
        engine.remove("odd")


async def test_ending_what_became_root(engine: Engine, docker: DockerRuntime) -> None:
    """What a user's session started as root, by a setuid program, is ended too."""
    engine.start("setuid", engine.image_debian, stack="su", service="su", args=("--user", "1000:1000"))
    engine.docker("exec", "-u", "0", "setuid", "sh", "-c", "passwd -d root >/dev/null; chmod u+s /bin/su")
    try:
        target = await only(docker, "su", "su")
        look = World(docker, target, lambda script: engine.docker("exec", "-u", "0", "setuid", "sh", "-c", script))
        asked = request("su root -c 'id -u; sleep 7501 & sleep 7501'", terminal=Terminal("xterm", 80, 24))
        async with docker.exec(target, asked) as program:
            await read_until(program, b"0\r\n")
            await asyncio.sleep(0.3)
            assert await look.left("7501")
        assert await look.left("7501") == []
    finally:
        engine.remove("setuid")


async def test_ending_what_became_another_user_and_left(engine: Engine, docker: DockerRuntime) -> None:
    """A daemon of another user, whose environment root may not read, is ended; one from before the session is not."""
    engine.start("daemon", engine.image_debian, stack="daemon", service="daemon")
    leave = "su -s /bin/sh nobody -c '(setsid sleep {} >/dev/null 2>&1 </dev/null &)'"
    try:
        target = await only(docker, "daemon", "daemon")
        look = World(docker, target, lambda script: engine.docker("exec", "-u", "0", "daemon", "sh", "-c", script))
        engine.docker("exec", "daemon", "sh", "-c", leave.format(7504))
        assert (await look.command(leave.format(7505))).exit.status == 0
        assert await look.left("7505") == []
        assert len(await look.left("7504")) == 1
    finally:
        engine.remove("daemon")


async def sleep_until_lost(own: Engine, runtime: DockerRuntime) -> None:
    """Kill the engine under a session and read on."""
    async with runtime.exec(await only(runtime, "lost", "lost"), request("echo ready; sleep 7502")) as program:
        await read_until(program, b"ready")
        own.kill()
        async with asyncio.timeout(20):
            async for _ in program:
                continue
            await program.wait()


async def test_engine_goes_away() -> None:
    """An engine that dies under a session is an error and never exit 0; one that is back serves the same runtime."""
    own = Engine(CACHE)
    runtime = DockerRuntime(own.host)
    try:
        own.start_engine()
        own.prepare()
        own.start("lost", own.image_busybox, stack="lost", service="lost")
        assert "Docker Engine" in await runtime.ping()
        with pytest.raises((ConnectionLost, ContainerEnded)):
            await sleep_until_lost(own, runtime)
        with pytest.raises(RuntimeUnreachable):
            await runtime.services()
        own.start_engine()
        own.start("back", own.image_busybox, stack="back", service="back")
        world = World(runtime, await only(runtime, "back", "back"), str)
        assert (await world.command("echo back")).out == b"back\n"
    finally:
        await runtime.close()
        own.close()


async def test_no_engine(tmp_path: Path) -> None:
    """No engine, or one that is none, is one clear error."""
    for host in (f"unix://{tmp_path}/nothing.sock", "tcp://127.0.0.1:1"):
        runtime = DockerRuntime(host)
        with pytest.raises(RuntimeUnreachable) as refused:
            await runtime.ping()
        assert refused.value.hint
        await runtime.close()


@pytest.mark.parametrize(
    "host", ["https://h:2376", "ssh://root@h", "npipe://x", "/var/run/docker.sock", "tcp://", "tcp://h:x", ""]
)
async def test_addresses_that_cannot_be(host: str) -> None:
    """An address where one direction cannot be closed alone, or that is none, is refused with a hint."""
    with pytest.raises(ConfigurationError) as refused:
        DockerRuntime(host)
    assert "unix:///PATH" in refused.value.hint or "tcp://HOST:PORT" in refused.value.hint


async def test_fifty_at_once(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """Fifty sessions at once all get their answer, and the engine can still be asked meanwhile."""
    target = await only(docker, "mystack", container)
    world = World(docker, target, str)
    running = [asyncio.create_task(world.command(f"sleep 1; echo {number}")) for number in range(50)]
    await asyncio.sleep(0.2)
    assert "Docker Engine" in await docker.ping()
    assert [(await each).out for each in running] == [f"{number}\n".encode() for number in range(50)]
