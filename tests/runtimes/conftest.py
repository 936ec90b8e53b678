"""The worlds that the conformance suite runs in: local processes, and Docker over busybox and over Debian."""

from collections.abc import AsyncIterator

import pytest

from bastion.runtimes.docker import DockerRuntime
from bastion.runtimes.process import ProcessRuntime
from tests.engine import Engine
from tests.runtimes.world import World, look_here


@pytest.fixture(
    params=[
        "process",
        pytest.param("busybox", marks=pytest.mark.docker),
        pytest.param("debian", marks=pytest.mark.docker),
        pytest.param("debian-user", marks=pytest.mark.docker),
    ]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Give each runtime in turn."""
    if request.param == "process":
        local = ProcessRuntime("mystack", "web", user=None)
        yield World(local, (await local.find("mystack", "web"))[0], look_here)
        await local.close()
        return
    engine: Engine = request.getfixturevalue("engine")
    name = f"conformance-{request.param}"
    if name not in engine.docker("ps", "--format", "{{.Names}}").split():
        image = engine.image_busybox if request.param == "busybox" else engine.image_debian
        arguments = ("--user", "1000:1000") if request.param == "debian-user" else ()
        engine.start(name, image, stack="conformance", service=request.param, args=arguments)
    runtime = DockerRuntime(engine.host)
    (target,) = await runtime.find("conformance", request.param)
    yield World(runtime, target, lambda script: engine.docker("exec", "-u", "0", name, "sh", "-c", script))
    await runtime.close()


@pytest.fixture
async def docker(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """Give a Docker runtime on the tests' own engine."""
    runtime = DockerRuntime(engine.host)
    yield runtime
    await runtime.close()
