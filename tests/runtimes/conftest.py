"""The worlds that the conformance suite runs in: local processes, Docker, and a cluster by v5 and by v4."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bastion.runtimes.docker import DockerRuntime
from bastion.runtimes.kubernetes import KubernetesRuntime
from bastion.runtimes.process import ProcessRuntime
from tests.cluster import Cluster
from tests.engine import Engine
from tests.runtimes.world import RememberedDuties, World, look_here

WORLDS = [
    "process",
    pytest.param("busybox", marks=pytest.mark.docker),
    pytest.param("debian", marks=pytest.mark.docker),
    pytest.param("debian-user", marks=pytest.mark.docker),
    pytest.param("toolbox", marks=pytest.mark.docker),
    pytest.param("kubernetes-v5", marks=pytest.mark.kubernetes),
    pytest.param("kubernetes-v4", marks=pytest.mark.kubernetes),
    pytest.param("kubernetes-small", marks=pytest.mark.kubernetes),
]


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Give each runtime in turn."""
    if request.param == "kubernetes-v4" and request.node.get_closest_marker("half_close"):
        pytest.skip("v4.channel.k8s.io does not pass on the end of standard input")
    async with world_of(request, request.param) as found:
        yield found


@asynccontextmanager
async def world_of(request: pytest.FixtureRequest, name: str) -> AsyncIterator[World]:
    """Give one of WORLDS."""
    if name.startswith("kubernetes"):
        async with in_cluster(request.getfixturevalue("cluster"), name) as found:
            yield found
        return
    if name == "process":
        duties = RememberedDuties()
        local = ProcessRuntime("mystack", "web", user=None, duties=duties)
        yield World(local, (await local.find("mystack", "web"))[0], look_here, duties=duties)
        await local.close()
        return
    engine: Engine = request.getfixturevalue("engine")
    container = f"conformance-{name}"
    if name == "toolbox":
        async with by_toolbox(engine, container) as found:
            yield found
        return
    if container not in engine.docker("ps", "--format", "{{.Names}}").split():
        image = engine.image_busybox if name == "busybox" else engine.image_debian
        arguments = ("--user", "1000:1000") if name == "debian-user" else ()
        engine.start(container, image, stack="conformance", service=name, args=arguments)
    duties = RememberedDuties()
    runtime = DockerRuntime(engine.host, duties=duties)
    (target,) = await runtime.find("conformance", name)

    def look(script: str) -> str:
        return engine.docker("exec", "-u", "0", container, "sh", "-c", script)

    yield World(runtime, target, look, duties=duties)
    await runtime.close()


@asynccontextmanager
async def by_toolbox(engine: Engine, name: str) -> AsyncIterator[World]:
    """Give a container without a shell, entered by a busybox beside it."""
    if name not in engine.docker("ps", "--format", "{{.Names}}").split():
        engine.start(name, engine.image_scratch, stack="conformance", service="toolbox", args=("--tmpfs", "/tmp"))
    duties = RememberedDuties()
    runtime = DockerRuntime(engine.host, toolboxes={"conformance": engine.image_busybox}, duties=duties)
    (target,) = await runtime.find("conformance", "toolbox")

    def look(script: str) -> str:
        label = f"label=bastion.toolbox={target.container_id}"
        found = engine.docker("ps", "-q", "--filter", label).split()
        return "".join(engine.docker("exec", "-u", "0", toolbox, "sh", "-c", script) for toolbox in found)

    yield World(runtime, target, look, root="/proc/1/root", notes=1, duties=duties)
    await runtime.close()


@asynccontextmanager
async def in_cluster(cluster: Cluster, name: str) -> AsyncIterator[World]:
    """Give a pod of the cluster: `kubernetes-v5`, `kubernetes-v4` (no v5 is spoken), `kubernetes-small` (busybox)."""
    if name == "kubernetes-v4":
        cluster.switch(protocol="v4")
    service = "small" if name == "kubernetes-small" else "web"
    workload = f"conformance-{service}"
    duties = RememberedDuties()
    runtime = KubernetesRuntime(cluster.kubeconfig, None, namespaces={"conformance": cluster.namespace}, duties=duties)
    try:
        if not await asyncio.to_thread(cluster.pods, workload):
            image = cluster.image_small if service == "small" else cluster.image
            await asyncio.to_thread(cluster.deployment, workload, image=image)
        (target,) = await runtime.find("conformance", workload)
        pod = str(target.pod_name)
        half_close = name != "kubernetes-v4"
        yield World(runtime, target, lambda script: cluster.look(pod, script), half_close, duties=duties)
    finally:
        await runtime.close()
        if name == "kubernetes-v4":
            cluster.switch()


@pytest.fixture
async def docker(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """Give a Docker runtime on the tests' own engine, whose sessions wait for a second in a pause."""
    runtime = DockerRuntime(engine.host, pause_timeout=1)
    yield runtime
    await runtime.close()
