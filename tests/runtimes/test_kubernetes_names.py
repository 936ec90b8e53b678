"""From names to pods on a cluster: levels of names, readiness, watches that are behind, rights that are missing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bastion.errors import NoSuchTarget, RuntimeFailed, RuntimeUnreachable
from bastion.model import Target
from bastion.runtimes.kubernetes import KubernetesRuntime
from tests.cluster import Cluster

pytestmark = pytest.mark.kubernetes
SECONDS = 20  # bound of every wait


@pytest.fixture(scope="module")
def workloads(cluster: Cluster) -> Cluster:
    """Give the cluster with a few workloads in it."""
    small = cluster.image_small or cluster.image
    cluster.deployment("names-api-deployment", image=small, labels={"app": "names-front"}, replicas=2)
    cluster.deployment("names-db", image=small, kind="StatefulSet", labels={"app.kubernetes.io/component": "names-sql"})
    cluster.deployment("names-agent", image=small, kind="DaemonSet", labels={"app": "names-db"})
    cluster.deployment("names-alone", image=small, kind="Pod")
    cluster.deployment(
        "names-pair",
        containers=[{"name": "log", "image": small}, {"name": "names-pair", "image": small}],
        pod={"initContainers": [{"name": "side", "image": small, "restartPolicy": "Always"}]},
    )
    return cluster


@pytest.fixture
async def runtime(workloads: Cluster) -> AsyncIterator[KubernetesRuntime]:
    """Give a runtime whose stack `shop` is the tests' namespace."""
    made = KubernetesRuntime(workloads.kubeconfig, None, namespaces={"shop": workloads.namespace})
    yield made
    await made.close()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not what():
            await asyncio.sleep(0.02)


async def gone(runtime: KubernetesRuntime, service: str) -> None:
    async with asyncio.timeout(SECONDS):
        while await runtime.find("shop", service):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", ["names-api-deployment", "names-api", "names-front"])
async def test_a_workload_is_found_by_each_of_its_names(
    runtime: KubernetesRuntime, workloads: Cluster, name: str
) -> None:
    """Its name, that less `-deployment`, and a label's value all mean the same pods and say one service."""
    found = await runtime.find("shop", name)
    assert [target.pod_name for target in found] == workloads.pods("names-api-deployment")
    assert {target.service for target in found} == {"names-api"}
    assert set(found[0].aliases) == {"names-api-deployment", "names-front"}
    assert found[0].deployment_name == "names-api-deployment"
    assert found[0].namespace == workloads.namespace
    assert found[0].created > 0


async def test_an_exact_name_wins_over_a_label(runtime: KubernetesRuntime) -> None:
    """The StatefulSet named so is meant, not the DaemonSet with that label, whose alias it is not."""
    (found,) = await runtime.find("shop", "names-db")
    assert (found.pod_name, found.deployment_name) == ("names-db-0", "names-db")
    (agent,) = await runtime.find("shop", "names-agent")
    assert agent.aliases == ()


async def test_a_pod_is_found_by_its_own_name(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """A bare pod is a service of its name; a workload's pod says the workload's service."""
    (alone,) = await runtime.find("shop", "names-alone")
    assert (alone.service, alone.deployment_name, alone.aliases) == ("names-alone", None, ())
    pod = workloads.pods("names-api-deployment")[1]
    (found,) = await runtime.find("shop", pod)
    assert (found.pod_name, found.service) == (pod, "names-api")


async def test_the_container_named_like_the_service_is_entered(runtime: KubernetesRuntime) -> None:
    """It wins over the first; the others can be named, native sidecars included."""
    (found,) = await runtime.find("shop", "names-pair")
    assert found.container_name == "names-pair"
    assert found.containers == ("log", "names-pair", "side")
    (side,) = await runtime.find("shop", "names-pair", "side")
    assert side.container_name == "side"
    assert side.container_id != found.container_id
    assert await runtime.find("shop", "names-pair", "nothing") == []


async def test_names_that_are_none_find_nothing(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """Unknown services, stacks that are no namespace, and a namespace that is another stack's."""
    assert await runtime.find("shop", "names-nothing") == []
    assert await runtime.find("Shop_2", "names-db") == []
    assert await runtime.find("names-no-such-namespace", "names-db") == []
    assert await runtime.find(workloads.namespace, "names-db") == []


async def test_a_namespace_is_a_stack_of_its_own_name(workloads: Cluster) -> None:
    """Without any configuration."""
    runtime = KubernetesRuntime(workloads.kubeconfig, None)
    assert [found.stack for found in await runtime.find(workloads.namespace, "names-db")] == [workloads.namespace]
    assert (workloads.namespace, "names-db") in await runtime.services()
    await runtime.close()


async def test_services_are_listed_by_their_canonical_names(runtime: KubernetesRuntime) -> None:
    """Each once, whatever its kind and its number of pods."""
    found = [service for stack, service in await runtime.services() if stack == "shop"]
    assert {"names-agent", "names-alone", "names-api", "names-db", "names-pair"} <= set(found)
    assert len(found) == len(set(found))


async def test_what_was_just_made_is_found(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """The watch brings it, or a list made anew does."""
    await runtime.find("shop", "names-db")
    await asyncio.to_thread(workloads.deployment, "names-late", image=workloads.image_small)
    assert len(await runtime.find("shop", "names-late")) == 1
    workloads.delete("Deployment", "names-late", grace=0)


async def test_a_service_without_a_ready_pod_says_which_pods_there_are(
    runtime: KubernetesRuntime, workloads: Cluster
) -> None:
    """A pod that is not ready is entered by its own name only."""
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    container = {"name": "web", "image": workloads.image_small, "readinessProbe": probe}
    workloads.deployment("names-unready", containers=[container], wait=False)
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                pods = await asyncio.to_thread(workloads.pods, "names-unready")
                statuses = workloads.get("Pod", pods[0])["status"].get("containerStatuses", []) if pods else []
                if any("running" in status.get("state", {}) for status in statuses):
                    break
                await asyncio.sleep(0.1)
        if workloads.standin is not None:
            workloads.switch(not_ready=pods)
        async with asyncio.timeout(SECONDS):
            while True:
                with pytest.raises(NoSuchTarget) as refused:
                    await runtime.find("shop", "names-unready")
                if "not ready" in refused.value.hint:
                    break
                await asyncio.sleep(0.1)
        assert refused.value.public == "no pod of names-unready@shop is ready"
        assert f"{pods[0]} (not ready)" in refused.value.hint
        assert [found.pod_name for found in await runtime.find("shop", pods[0])] == pods
    finally:
        if workloads.standin is not None:
            workloads.switch()
        workloads.delete("Deployment", "names-unready", grace=0)


async def answers(runtime: KubernetesRuntime) -> bool:
    try:
        await runtime.ping()
    except RuntimeUnreachable:
        return False
    return True


async def watched(runtime: KubernetesRuntime, target: Target, act: Callable[[], object]) -> list[str]:
    """Do something while a target is watched, and return what was told of it, once something was."""
    told: list[str] = []
    async with runtime._cache.on(target, told.append):  # noqa: SLF001 - exec is another file's
        await asyncio.sleep(0.2)
        assert told == []
        await asyncio.to_thread(act)
        await until(lambda: bool(told))
        await asyncio.sleep(0.3)
    return told


async def test_a_pod_that_is_deleted_is_told_of_once(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """By the first event that says so."""
    workloads.deployment("names-doomed", image=workloads.image_small, kind="Pod")
    (target,) = await runtime.find("shop", "names-doomed")
    (words,) = await watched(runtime, target, lambda: workloads.delete("Pod", "names-doomed"))
    assert words in ("is being deleted", "was deleted")
    told: list[str] = []
    async with runtime._cache.on(target, told.append):  # noqa: SLF001
        assert len(told) == 1


async def test_a_container_that_ends_is_told_of(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """With its exit status, or as a restart, whichever the kubelet says first."""
    container = {
        "name": "web",
        "image": workloads.image_small,
        "command": ["sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7"],
    }
    workloads.deployment("names-ending", containers=[container], kind="Pod")
    (target,) = await runtime.find("shop", "names-ending")
    (words,) = await watched(runtime, target, lambda: workloads.look("names-ending", "touch /tmp/end"))
    assert words == "ended (exit status 7)"
    workloads.delete("Pod", "names-ending", grace=0)


@pytest.mark.parametrize(
    ("switch", "words"), [("evict", "was evicted: "), ("node_lost", "lost its node")], ids=["evicted", "node-lost"]
)
async def test_a_pod_that_the_cluster_takes_is_told_of(
    runtime: KubernetesRuntime, workloads: Cluster, switch: str, words: str
) -> None:
    """Evictions with their reason, and nodes that nobody hears from."""
    name = f"names-{switch.replace('_', '-')}"
    workloads.deployment(name, image=workloads.image_small, kind="Pod")
    (target,) = await runtime.find("shop", name)
    told = await watched(runtime, target, lambda: workloads.switch(**{switch: name}))
    assert told[0].startswith(words)
    assert len(told) == 1
    workloads.delete("Pod", name, grace=0)


@pytest.mark.parametrize(
    "trouble", [{"restart": True}, {"drop_watches": True}, {"drop_watches": True, "compact": True}]
)
async def test_trouble_with_the_api_tells_nobody_anything(
    runtime: KubernetesRuntime, workloads: Cluster, trouble: dict[str, bool]
) -> None:
    """A watch that broke is taken up again, and what was missed is told then."""
    name = "names-steady-" + "-".join(sorted(trouble)).replace("_", "-")
    workloads.deployment(name, image=workloads.image_small, kind="Pod")
    (target,) = await runtime.find("shop", name)
    told: list[str] = []
    async with runtime._cache.on(target, told.append):  # noqa: SLF001
        workloads.switch(**trouble)
        await asyncio.sleep(2)
        async with asyncio.timeout(SECONDS):
            while not await answers(runtime):
                await asyncio.sleep(0.1)
        assert told == []
        await asyncio.to_thread(workloads.delete, "Pod", name, grace=0)
        await until(lambda: bool(told))
    assert len(told) == 1


async def test_an_expired_token_is_said(workloads: Cluster) -> None:
    """A find fails in words; the same runtime goes on once the token is known again."""
    runtime = KubernetesRuntime(workloads.kubeconfig, "token" if workloads.standin else None)
    try:
        await runtime.ping()
        workloads.switch(token_expired=True)
        with pytest.raises(RuntimeUnreachable, match="does not know the bastion's credentials any more") as refused:
            await runtime.find(workloads.namespace, "names-db")
        assert "token" in refused.value.hint
        workloads.switch()
        assert await runtime.find(workloads.namespace, "names-db")
    finally:
        await runtime.close()
        if not workloads.real:
            workloads.switch()


async def test_rights_that_are_missing_are_named(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """Exactly those, and none where all are there."""
    assert await runtime.faults() == []
    workloads.switch(forbid=[["create", "pods/exec"]])
    try:
        (fault,) = await runtime.faults()
    finally:
        workloads.switch()
    assert fault.public == f"in the namespace {workloads.namespace} the bastion may not create pods/exec"
    assert "examples/kubernetes" in fault.hint


async def test_a_toolbox_needs_one_more_right(workloads: Cluster) -> None:
    """To patch pods/ephemeralcontainers, asked of the stacks with a toolbox only."""
    runtime = KubernetesRuntime(
        workloads.kubeconfig, None, namespaces={"shop": workloads.namespace}, toolboxes={"shop": "image"}
    )
    workloads.switch(forbid=[["patch", "pods/ephemeralcontainers"]])
    try:
        (fault,) = await runtime.faults()
    finally:
        workloads.switch()
        await runtime.close()
    assert fault.public.endswith("may not patch pods/ephemeralcontainers")


async def test_without_the_right_to_list_pods_nothing_is_found(workloads: Cluster) -> None:
    """And the refusal says which right it is."""
    runtime = KubernetesRuntime(workloads.kubeconfig, None)
    workloads.switch(forbid=[["list", "pods"]])
    try:
        with pytest.raises(RuntimeFailed, match=f"may not list pods in the namespace {workloads.namespace}"):
            await runtime.find(workloads.namespace, "names-db")
    finally:
        workloads.switch()
        await runtime.close()


async def test_without_the_right_to_list_workloads_their_pods_name_them(workloads: Cluster) -> None:
    """By name and suffix; their labels are not known then, and faults says what is missing."""
    runtime = KubernetesRuntime(workloads.kubeconfig, None, namespaces={"shop": workloads.namespace})
    workloads.switch(forbid=[["list", "deployments"], ["list", "deployments.apps"]])
    try:
        assert len(await runtime.find("shop", "names-api")) == 2
        assert await runtime.find("shop", "names-front") == []
        (fault,) = await runtime.faults()
    finally:
        workloads.switch()
        await runtime.close()
    assert fault.public.endswith("may not list deployments.apps")


async def test_a_cluster_names_itself(runtime: KubernetesRuntime, workloads: Cluster) -> None:
    """By its version and address; an old one says what it cannot do."""
    words = await runtime.ping()
    assert words.startswith("Kubernetes v1.")
    assert "https://" in words
    workloads.switch(version="1.29")
    try:
        assert "does not pass on the end of standard input" in await runtime.ping()
    finally:
        workloads.switch()


async def test_finds_at_once_share_one_list(workloads: Cluster) -> None:
    """Many who ask while the first list runs get its answer, and none of them keeps anything of its own."""
    runtime = KubernetesRuntime(workloads.kubeconfig, None)
    found = await asyncio.gather(*(runtime.find(workloads.namespace, "names-db") for _ in range(50)))
    assert all(len(targets) == 1 for targets in found)
    await asyncio.gather(*(runtime.find(f"names-none-{number}", "web") for number in range(100)))
    assert list(runtime._cache._kept) == [workloads.namespace]  # noqa: SLF001 - growth is the point
    await runtime.close()


async def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """In one line, with its address."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "current-context: it\ncontexts: [{name: it, context: {cluster: it, user: it}}]\n"
        "clusters: [{name: it, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: it, user: {token: secret}}]\n"
    )
    runtime = KubernetesRuntime(kubeconfig, None)
    with pytest.raises(RuntimeUnreachable, match=r"the cluster https://127\.0\.0\.1:1 does not answer"):
        await runtime.find("shop", "web")
    await runtime.close()
