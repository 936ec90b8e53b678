"""Which container of a Docker Engine a name means: numbers of Compose and Swarm, one-off containers, states, health."""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from bastion.errors import NoSuchTarget
from bastion.runtimes.docker import DockerRuntime
from bastion.targets import Targets, parse
from tests.engine import Engine

pytestmark = pytest.mark.docker
COMPOSE = "com.docker.compose"
SECONDS = 30  # bound of every wait
_stack_numbers = count(1)


class Stack:
    """One Compose project of the test's own; `close` removes what it started."""

    def __init__(self, engine: Engine, runtime: DockerRuntime) -> None:
        self.name = f"replicas{next(_stack_numbers)}"
        self.engine = engine
        self._targets = Targets({"docker": runtime}, [], lambda _: "docker")
        self._containers: list[str] = []

    def start(self, name: str, number: int | None = None, *args: str, command: tuple[str, ...] = ()) -> None:
        """Start a container of the service `web`, as Compose numbers it."""
        labels = {f"{COMPOSE}.project": self.name, f"{COMPOSE}.service": "web"}
        if number is not None:
            labels[f"{COMPOSE}.container-number"] = str(number)
        self.start_labelled(name, labels, *args, command=command)

    def start_labelled(self, name: str, labels: dict[str, str], *args: str, command: tuple[str, ...] = ()) -> None:
        container = self.container(name)
        self._containers.append(container)
        self.engine.start(container, self.engine.image_busybox, labels=labels, args=args, command=command)

    def container(self, name: str) -> str:
        return f"{self.name}-{name}"

    async def landing(self, name: str, stack: str = "") -> str:
        """Return the container that a name leads to, without the stack's part of its name."""
        target = await self._targets.resolve(parse(f"{name}@{stack or self.name}"), lambda _stack, _service: True)
        return target.container_name.removeprefix(f"{self.name}-")

    async def refusal(self, name: str) -> NoSuchTarget:
        """Return why a name leads nowhere."""
        with pytest.raises(NoSuchTarget) as caught:
            await self.landing(name)
        return caught.value

    def close(self) -> None:
        self.engine.remove(*self._containers)


@pytest.fixture
def stack(engine: Engine, docker: DockerRuntime) -> Iterator[Stack]:
    """Give a stack without containers."""
    made = Stack(engine, docker)
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.05)


async def test_replica_numbers_are_those_of_compose(stack: Stack) -> None:
    """`web.2` is the container that Compose numbers 2, whatever sorts before it, also when number 1 has gone."""
    for number in (1, 2, 10, 11):
        stack.start(f"web-{number}", number)
    assert [await stack.landing(f"web.{number}") for number in (1, 2, 10, 11)] == ["web-1", "web-2", "web-10", "web-11"]
    stack.engine.remove(stack.container("web-1"))
    assert await stack.landing("web.2") == "web-2"
    refusal = await stack.refusal("web.1")
    assert refusal.public == f"no replica 1 of web@{stack.name} runs"
    assert refusal.hint == "replicas that run: " + ", ".join(f"web.{number}@{stack.name}" for number in (2, 10, 11))


async def test_replica_numbers_are_the_slots_of_swarm(stack: Stack) -> None:
    """A task's slot is its replica's number; a service that was created without a stack is one of the stack docker."""
    for slot, task in ((2, "aa"), (10, "bb")):
        labels = {"com.docker.stack.namespace": stack.name, "com.docker.swarm.service.name": f"{stack.name}_api"}
        labels["com.docker.swarm.task.name"] = f"{stack.name}_api.{slot}.{task}"
        stack.start_labelled(f"api.{slot}.{task}", labels)
    stack.start_labelled("lone.1.cc", {"com.docker.swarm.service.name": f"{stack.name}lone"})
    assert await stack.landing("api.2") == "api.2.aa"
    assert await stack.landing("api.10") == "api.10.bb"
    assert await stack.landing(f"{stack.name}lone", "docker") == "lone.1.cc"


async def test_a_one_off_container_is_no_replica(stack: Stack) -> None:
    """A container of `docker compose run` is entered by its own name only, and does not speak for a stopped service."""
    stack.start("zz-web", 1)
    labels = {f"{COMPOSE}.project": stack.name, f"{COMPOSE}.service": "web", f"{COMPOSE}.oneoff": "True"}
    stack.start_labelled("web-run-1a2b", labels)
    assert await stack.landing("web") == "zz-web"
    assert await stack.landing(stack.container("web-run-1a2b")) == "web-run-1a2b"
    stack.engine.docker("kill", stack.container("zz-web"))
    assert f"web@{stack.name} is stopped (exited 137, " in (await stack.refusal("web")).public


async def test_a_name_without_a_number_means_the_fittest_replica(stack: Stack) -> None:
    """Healthy before starting before unhealthy before paused; of equals the newest."""

    def check(command: str) -> tuple[str, ...]:
        return (
            "--health-cmd",
            command,
            "--health-interval",
            "1s",
            "--health-retries",
            "1",
            "--health-start-period",
            "0s",
        )

    def health(name: str) -> str:
        return stack.engine.docker("inspect", "-f", "{{.State.Health.Status}}", stack.container(name))

    stack.start("paused", 1)
    stack.engine.docker("pause", stack.container("paused"))
    assert await stack.landing("web") == "paused"
    stack.start("unhealthy", 2, *check("false"))
    await until(lambda: health("unhealthy") == "unhealthy")
    assert await stack.landing("web") == "unhealthy"
    stack.start("starting", 3, "--health-cmd", "true", "--health-interval", "1h")
    assert await stack.landing("web") == "starting"
    stack.start("healthy", 4, *check("true"))
    await until(lambda: health("healthy") == "healthy")
    assert await stack.landing("web") == "healthy"
    newest_second = int(time.time())  # the engine's list has whole seconds
    await until(lambda: int(time.time()) > newest_second)
    stack.start("newest", 5)
    stack.start("starting-newer", 6, "--health-cmd", "true", "--health-interval", "1h")
    assert await stack.landing("web") == "newest"
    stack.engine.docker("unpause", stack.container("paused"))


async def test_a_service_that_does_not_run_is_described(stack: Stack) -> None:
    """Stopped, in a restart loop, or never started: the refusal says which, with the exit code and the time."""
    stack.start("web-1", 1, command=("sh", "-c", "exit 3"))
    await until(lambda: not stack.engine.docker("ps", "-q", "--filter", f"name={stack.container('web-1')}"))
    refusal = await stack.refusal("web")
    assert refusal.public.startswith(f"web@{stack.name} is stopped (exited 3, ")
    assert refusal.public.endswith(" ago)")
    assert stack.name in refusal.hint
    stack.engine.remove(stack.container("web-1"))

    stack.start("web-1", 1, "--restart", "always", command=("sh", "-c", "exit 4"))
    listed = ("ps", "-a", "--format", "{{.State}}", "--filter", f"name={stack.container('web-1')}")
    await until(lambda: stack.engine.docker(*listed) == "restarting")
    assert f"web@{stack.name} is in a restart loop (exited 4, " in (await stack.refusal("web")).public
    stack.engine.remove(stack.container("web-1"))

    labels = [f"--label={COMPOSE}.project={stack.name}", f"--label={COMPOSE}.service=web"]
    stack.engine.docker("create", "--name", stack.container("web-1"), *labels, stack.engine.image_busybox)
    assert (await stack.refusal("web")).public == f"web@{stack.name} was created and has never been started"
