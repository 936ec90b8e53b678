"""What ends a program in a pod, and what is told: the pod's own end, refusals, a toolbox, and nothing that is left."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bastion.errors import ContainerEnded, NoShell, RuntimeFailed, RuntimeUnreachable
from bastion.model import STDIN, Data, Request, Signal, Terminal
from bastion.runtimes.kubernetes import KubernetesRuntime
from tests.cluster import Cluster
from tests.runtimes.world import World, read_until, request

pytestmark = pytest.mark.kubernetes

STACK = "endings"


@pytest.fixture
async def runtime(cluster: Cluster) -> AsyncIterator[KubernetesRuntime]:
    """Give a runtime whose stack `endings` is the tests' namespace, and has a toolbox."""
    image = cluster.image_small or cluster.image
    made = KubernetesRuntime(cluster.kubeconfig, None, namespaces={STACK: cluster.namespace}, toolboxes={STACK: image})
    yield made
    await made.close()


@pytest.fixture
async def plain(cluster: Cluster) -> AsyncIterator[KubernetesRuntime]:
    """Give a runtime without toolboxes."""
    made = KubernetesRuntime(cluster.kubeconfig, None, namespaces={STACK: cluster.namespace})
    yield made
    await made.close()


@pytest.fixture
async def pod(cluster: Cluster, runtime: KubernetesRuntime) -> AsyncIterator[World]:
    """Give a pod of this test's own."""
    async for found in _own(cluster, runtime, "ending", cluster.image):
        yield found


@pytest.fixture
async def bare(cluster: Cluster, runtime: KubernetesRuntime) -> AsyncIterator[World]:
    """Give a pod whose only container has no shell."""
    if cluster.image_bare is None:
        pytest.skip("no image without a shell: set BASTION_TEST_IMAGE_BARE")
    async for found in _own(cluster, runtime, "bare", cluster.image_bare):
        yield found


@pytest.fixture
async def mortal(cluster: Cluster, runtime: KubernetesRuntime) -> AsyncIterator[World]:
    """Give a pod whose container ends with 3 once there is /tmp/end."""
    script = "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3"
    async for found in _own(cluster, runtime, "mortal", cluster.image, ("sh", "-c", script)):
        yield found


async def _own(
    cluster: Cluster, runtime: KubernetesRuntime, name: str, image: str, command: Sequence[str] = ()
) -> AsyncIterator[World]:
    containers = [{"name": "web", "image": image, **({"command": list(command)} if command else {})}]
    await asyncio.to_thread(cluster.deployment, name, containers=containers, kind="Pod")
    (target,) = await runtime.find(STACK, name)
    try:
        yield World(runtime, target, lambda script: cluster.look(name, script))
    finally:
        if not cluster.real:
            cluster.switch()
        await asyncio.to_thread(_gone, cluster, name)


def _gone(cluster: Cluster, name: str) -> None:
    try:
        cluster.delete("Pod", name, grace=0)
    except LookupError:
        return


async def started(world: World, asked: Request) -> asyncio.Task[None]:
    """Start a program that says `ready`; give the task that reads it to its end."""
    runs = asyncio.Event()

    async def session() -> None:
        async with world.runtime.exec(world.target, asked) as program:
            seen = b""
            async for event in program:
                assert isinstance(event, Data)
                seen += event.payload
                if b"ready" in seen:
                    runs.set()
            await program.wait()

    task = asyncio.create_task(session())
    async with asyncio.timeout(60):
        await runs.wait()
    return task


@pytest.mark.parametrize("frozen", [False, True], ids=["ends", "freezes"])
@pytest.mark.parametrize("terminal", [None, Terminal("xterm", 80, 24)], ids=["pipes", "terminal"])
async def test_a_pod_that_is_deleted(pod: World, cluster: Cluster, terminal: Terminal | None, *, frozen: bool) -> None:
    """Deleting the pod ends the session with its reason, within bounds, also where the stream freezes."""
    if frozen:
        cluster.switch(freeze_on_delete=True)
    task = await started(pod, request("echo ready; sleep 7601", terminal=terminal))
    await asyncio.to_thread(cluster.delete, "Pod", str(pod.target.pod_name), grace=1)
    async with asyncio.timeout(30):
        with pytest.raises(ContainerEnded) as told:
            await task
    assert str(pod.target.pod_name) in told.value.public
    assert "deleted" in told.value.public


async def test_a_container_that_ends(mortal: World) -> None:
    """A container that ends under a program is said, and 137 is not taken for the program's own status."""
    task = await started(mortal, request("echo ready; sleep 7602"))
    await asyncio.to_thread(mortal.look, "touch /tmp/end")
    async with asyncio.timeout(30):
        with pytest.raises(ContainerEnded) as told:
            await task
    assert "ended (exit status 3)" in told.value.public or "restarted" in told.value.public


async def test_a_killed_program_is_no_ended_container(pod: World) -> None:
    """A program that is killed while its container lives has its status."""
    assert (await pod.command("kill -KILL $$")).exit.status == 137


async def test_an_api_server_that_restarts(pod: World, cluster: Cluster) -> None:
    """An open session goes on while the API server takes no new requests."""
    async with pod.runtime.exec(pod.target, request("echo ready; read line; echo got $line")) as program:
        await read_until(program, b"ready")
        cluster.switch(restart=True)
        await asyncio.sleep(0.2)
        await program.send(Data(STDIN, b"it\n"))
        assert await read_until(program, b"got it")
    assert await pod.left("got") == []


async def test_a_token_that_expires(pod: World, cluster: Cluster) -> None:
    """Credentials that are refused end no open session, and new ones say so."""
    async with pod.runtime.exec(pod.target, request("echo ready; read line; echo got $line")) as program:
        await read_until(program, b"ready")
        cluster.switch(token_expired=True)
        with pytest.raises(RuntimeUnreachable):
            await pod.command(":")
        await program.send(Data(STDIN, b"it\n"))
        assert await read_until(program, b"got it")
        cluster.switch()


async def test_a_child_that_holds_a_terminal(pod: World) -> None:
    """A shell at a terminal whose child in the background holds it ends when it says exit, and so does the child."""
    asked = request(terminal=Terminal("xterm", 80, 24))
    async with asyncio.timeout(60), pod.runtime.exec(pod.target, asked) as program:
        await program.send(Data(STDIN, b"(trap '' HUP; exec sleep 7603) &\nexit 6\n"))
        async for _ in program:
            continue
        assert (await program.wait()).status == 6
    assert await pod.left("7603") == []


async def test_a_program_that_cleared_its_environment(pod: World) -> None:
    """A quiet program that dropped the marker is not taken for one that is over."""
    done = await pod.run(request("echo ready; exec env -i sh -c 'sleep 5; exit 5'"))
    assert (done.out, done.exit.status) == (b"ready\n", 5)


async def test_signal_to_a_program_that_is_gone(pod: World) -> None:
    """A signal that finds nobody is no error."""
    async with pod.runtime.exec(pod.target, request("echo hi")) as program:
        async for _ in program:
            continue
        await program.send(Signal("TERM"))
        assert (await program.wait()).status == 0


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"container_name": "nope"}, ContainerEnded, "has no container nope"),
        ({"pod_name": "nope"}, ContainerEnded, "the pod nope is gone"),
        ({"shell": "/no/such/shell"}, NoShell, "shell"),
    ],
    ids=["container", "pod", "shell"],
)
async def test_what_is_not_there(
    plain: KubernetesRuntime, pod: World, change: dict[str, str], kind: type[RuntimeFailed], words: str
) -> None:
    """A container, pod or shell that is not there is said in words."""
    target = replace(pod.target, **change, container_id="other/other")  # type: ignore[arg-type]
    with pytest.raises(kind) as told:
        await World(plain, target, pod.look).command(":")
    assert words in told.value.public
    assert told.value.hint


@pytest.mark.parametrize("verb", ["create", "get"])
async def test_a_right_that_is_missing(pod: World, cluster: Cluster, verb: str) -> None:
    """A right that is missing is named, with its namespace."""
    cluster.switch(forbid=[(verb, "pods/exec")])
    with pytest.raises(RuntimeFailed) as refused:
        await pod.command(":")
    assert refused.value.public == f"the bastion may not {verb} pods/exec in the namespace {cluster.namespace}"
    assert "examples/kubernetes" in refused.value.hint
    cluster.switch(forbid=[(verb, "pods/portforward")])
    with pytest.raises(RuntimeFailed, match=rf"the bastion may not {verb} pods/portforward in the namespace"):
        async with pod.runtime.dial(pod.target, "localhost", 80):
            pytest.fail("it was dialled")


async def test_no_shell_and_no_toolbox(plain: KubernetesRuntime, bare: World) -> None:
    """A container without a shell is refused, and the hint names what would help."""
    with pytest.raises(NoShell) as refused:
        await World(plain, bare.target, bare.look).command("true")
    assert "has no shell" in refused.value.public
    assert "toolbox" in refused.value.hint


async def test_a_toolbox(bare: World, cluster: Cluster) -> None:
    """A container without a shell is entered by a toolbox beside it, which sees its processes and is used again."""
    first = await bare.command("ls -d /proc/1/root; tr '\\0' ' ' </proc/1/cmdline; echo; exit 3")
    assert first.exit.status == 3
    assert b"sleep" in first.out
    assert first.err.startswith(b"bastion: note: ")
    assert first.err.count(b"\n") == 1
    again = await bare.command("echo $BASTION_SESSION")
    assert again.out.decode().strip() == again.uid
    spec = cluster.get("Pod", str(bare.target.pod_name))["spec"]
    (made,) = spec["ephemeralContainers"]
    assert made["name"].startswith("bastion-toolbox-")
    assert made["targetContainerName"] == bare.target.container_name
    assert not made["securityContext"].get("privileged")


@pytest.mark.parametrize(
    ("pod", "container", "words"),
    [
        ({}, {}, "and its files are under /proc/1/root"),
        ({"shareProcessNamespace": True}, {}, "and its files are under /proc/"),
        ({}, {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "but may not open its files"),
        ({"shareProcessNamespace": True, "securityContext": {"runAsUser": 1000}}, {}, "and its files are under /proc/"),
    ],
    ids=["alone", "shared", "more capable", "shared by a user"],
)
async def test_what_a_toolbox_says_of_files(
    runtime: KubernetesRuntime, cluster: Cluster, pod: dict[str, Any], container: dict[str, Any], words: str
) -> None:
    """A toolbox starts in its target's files where it can open them, whatever the first process is; else it says no."""
    if cluster.image_bare is None:
        pytest.skip("no image without a shell: set BASTION_TEST_IMAGE_BARE")
    made = [{"name": "web", "image": cluster.image_bare} | container]
    if "shareProcessNamespace" in pod:
        made.insert(0, {"name": "first", "image": cluster.image})
    await asyncio.to_thread(cluster.deployment, "filed", containers=made, pod=pod, kind="Pod")
    try:
        (target,) = await runtime.find(STACK, "filed", "web")
        world = World(runtime, replace(target, toolbox=True), lambda script: cluster.look("filed", script))
        done = await world.command("pwd; ls; echo $BASTION_ROOT; cd $BASTION_ROOT && pwd")
        assert words in done.err.decode()
        root = done.out.decode().splitlines()[0]
        expected = [root, root] if words.startswith("and") else ["/proc/0/root"]
        assert [line for line in done.out.decode().splitlines()[1:] if line.startswith("/")] == expected
        assert done.err.decode().endswith(f"{root}\n") == words.startswith("and")
        assert ("sleep" in done.out.decode().split()) == words.startswith("and")
        if "shareProcessNamespace" in pod:
            assert root != "/proc/1/root"
    finally:
        await asyncio.to_thread(_gone, cluster, "filed")


async def test_nothing_is_left_in_a_toolbox(bare: World, cluster: Cluster) -> None:
    """What a session starts in a toolbox ends with it."""
    asked = request("sleep 7604 & (setsid sleep 7604 &); echo ready; sleep 7604")
    async with bare.runtime.exec(bare.target, asked) as program:
        await read_until(program, b"ready")
    (made,) = cluster.get("Pod", str(bare.target.pod_name))["spec"]["ephemeralContainers"]
    beside = World(
        bare.runtime, bare.target, lambda script: cluster.look(str(bare.target.pod_name), script, made["name"])
    )
    assert await beside.left("7604") == []


async def test_a_toolbox_whose_image_is_not_there(cluster: Cluster, bare: World) -> None:
    """A toolbox image that cannot be pulled is said in words, with its name."""
    image = "bastion-test/no-such-image:none"
    runtime = KubernetesRuntime(
        cluster.kubeconfig, None, namespaces={STACK: cluster.namespace}, toolboxes={STACK: image}
    )
    try:
        with pytest.raises(RuntimeFailed) as refused:
            await World(runtime, bare.target, bare.look).command(":")
    finally:
        await runtime.close()
    assert image in refused.value.public
