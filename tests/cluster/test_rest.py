"""The cluster of the tests lists, watches, refuses and restarts as a real one does; most of it is asked of both."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster
from tests.cluster.wire import V4, V5, executed, opened

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker]

Object = dict[str, Any]


@pytest.fixture
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    """Give the user's own way to the API server; it starts and ends without trouble."""
    if not cluster.real:
        cluster.switch()
    with httpx.Client(base_url=cluster.server, headers=cluster.headers, verify=cluster.context, timeout=20) as client:
        yield client
    if not cluster.real:
        cluster.switch()


@pytest.fixture
def made(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Give a function that makes a workload of its own name and returns its first pod."""
    names: list[tuple[str, str]] = []

    def make(name: str, kind: str = "Deployment", **options: Any) -> str:
        names.append((kind, name))
        cluster.deployment(name, kind=kind, **options)
        return name if kind == "Pod" else cluster.pods(name)[0]

    yield make
    for kind, name in names:
        cluster.delete(kind, name, grace=0)


def soon(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; a minute at most."""
    waited = threading.Event()
    for _ in range(600):
        if condition():
            return
        waited.wait(0.1)
    raise AssertionError("it never came to that")


def pods(cluster: Cluster) -> str:
    return f"/api/v1/namespaces/{cluster.namespace}/pods"


def test_workloads_name_their_pods(cluster: Cluster, made: Callable[..., str]) -> None:
    """A Deployment's pod belongs to a ReplicaSet with a hash; a StatefulSet's has a number."""
    pod = cluster.get("Pod", made("named"))["metadata"]
    digest = pod["labels"]["pod-template-hash"]
    (owner,) = pod["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("ReplicaSet", f"named-{digest}", True)
    assert pod["name"].startswith(f"named-{digest}-")
    assert cluster.get("ReplicaSet", owner["name"])["metadata"]["ownerReferences"][0]["name"] == "named"
    made("numbered", "StatefulSet", replicas=2)
    assert cluster.pods("numbered") == ["numbered-0", "numbered-1"]
    assert made("everywhere", "DaemonSet").startswith("everywhere-")


def test_a_pod_tells_its_status(cluster: Cluster, made: Callable[..., str]) -> None:
    """Its containers have ids, images and the moment they started."""
    pod = cluster.get("Pod", made("told"))
    (container,) = pod["status"]["containerStatuses"]
    assert container["containerID"].startswith("containerd://")
    assert "sha256:" in container["imageID"]
    assert container["ready"]
    assert container["state"]["running"]["startedAt"]
    assert pod["status"]["phase"] == "Running"


def test_containers_of_a_pod_share_its_network(cluster: Cluster, made: Callable[..., str]) -> None:
    """A native sidecar runs beside the container, and what one listens on the other reaches."""
    listen = ["nc", "-ll", "-p", "7000", "-e", "echo", "hello"]
    sidecar = {"name": "log", "image": cluster.image_small, "restartPolicy": "Always", "command": listen}
    web = {"name": "web", "image": cluster.image_small}
    pod = made("paired", containers=[web], pod={"initContainers": [sidecar]})
    assert cluster.look(pod, "nc -w 2 127.0.0.1 7000 </dev/null") == "hello\n"
    assert cluster.get("Pod", pod)["status"]["initContainerStatuses"][0]["state"]["running"]


def test_lists_are_selected_and_cut(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Labels and the name select; `limit` gives a part, and `continue` the rest."""
    made("listed", replicas=3, labels={"app": "listed"})
    both = {"labelSelector": "app in (listed,other),pod-template-hash,bastion-test!=x,!nothing"}
    whole = api.get(pods(cluster), params=both).json()
    names = [one["metadata"]["name"] for one in whole["items"]]
    assert (whole["kind"], len(names)) == ("PodList", 3)
    first = api.get(pods(cluster), params=both | {"limit": "2"}).json()
    assert first["metadata"]["remainingItemCount"] == 1
    rest = api.get(pods(cluster), params=both | {"limit": "2", "continue": first["metadata"]["continue"]}).json()
    assert [one["metadata"]["name"] for one in first["items"] + rest["items"]] == names
    one = api.get(pods(cluster), params={"fieldSelector": f"metadata.name={names[1]}"}).json()["items"]
    assert [pod["metadata"]["name"] for pod in one] == [names[1]]
    accept = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    partial = api.get(pods(cluster), params=both, headers=accept).json()
    assert (partial["kind"], "spec" in partial["items"][0]) == ("PartialObjectMetadataList", False)


def test_a_watch_sees_a_pod_being_replaced(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """First it has a deletionTimestamp, then it is gone; its workload makes another."""
    pod = made("watched", labels={"app": "watched"})
    selected = {"labelSelector": "app=watched"}
    version = api.get(pods(cluster), params=selected).json()["metadata"]["resourceVersion"]
    watched = selected | {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
    seen: list[tuple[str, str, bool]] = []
    with api.stream("GET", pods(cluster), params=watched | {"timeoutSeconds": "60"}) as answer:
        cluster.delete("Pod", pod)
        for line in answer.iter_lines():
            event = json.loads(line)
            metadata = event["object"]["metadata"]
            seen.append((event["type"], metadata.get("name", ""), "deletionTimestamp" in metadata))
            if seen[-1][:2] == ("DELETED", pod):
                break
    assert next(one for one in seen if one[1] == pod) == ("MODIFIED", pod, True)
    assert any(kind == "ADDED" and name != pod for kind, name, _ in seen)
    cluster.ready("watched")


def test_a_watch_ends_in_time(cluster: Cluster, api: httpx.Client) -> None:
    """`timeoutSeconds` is when the server ends it."""
    params = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "1"}
    assert api.get(f"{pods(cluster)}", params=params).status_code == 200


def test_a_version_too_old_is_410(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """A watch from a version that was forgotten gets one event, the error."""
    version = api.get(pods(cluster)).json()["metadata"]["resourceVersion"]
    made("newer")
    cluster.switch(compact=True)
    lines = api.get(pods(cluster), params={"watch": "1", "resourceVersion": version}).text.splitlines()
    event = json.loads(lines[0])
    assert (len(lines), event["type"], event["object"]["code"], event["object"]["reason"]) == (
        1,
        "ERROR",
        410,
        "Expired",
    )


def test_a_container_that_ends_is_started_again(cluster: Cluster, made: Callable[..., str]) -> None:
    """It has another id then, and its restart is counted."""
    ends: Object = {"name": "ends", "image": cluster.image_small}
    ends["command"] = ["sh", "-c", "trap 'exit 3' TERM; sleep 100000 & wait"]
    pod = made("restarted", containers=[{"name": "web", "image": cluster.image_small}, ends])

    def status() -> Object:
        found: Object = next(
            one for one in cluster.get("Pod", pod)["status"]["containerStatuses"] if one["name"] == "ends"
        )
        return found

    before = status()
    cluster.look(pod, "kill -TERM 1", "ends")
    soon(lambda: status()["restartCount"] == 1 and status()["ready"])
    after = status()
    assert after["containerID"] != before["containerID"]
    assert after["lastState"]["terminated"]["exitCode"] == 3


def test_an_image_that_is_not_there_is_told(cluster: Cluster, made: Callable[..., str]) -> None:
    """The container waits, by the kubelet's words."""
    cluster.deployment("imageless", image="bastion-test.invalid/no-such-image:1", wait=False)
    try:
        soon(lambda: cluster.pods("imageless"))
        pod = cluster.pods("imageless")[0]

        def reason() -> str:
            (status,) = cluster.get("Pod", pod)["status"].get("containerStatuses") or [{}]
            return str(status.get("state", {}).get("waiting", {}).get("reason"))

        soon(lambda: reason() in ("ErrImagePull", "ImagePullBackOff"))
    finally:
        cluster.delete("Deployment", "imageless", grace=0)


def test_an_ephemeral_container_joins_a_pod(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """A patch adds it; it sees the processes of its target."""
    pod = made("joined")
    tool = {"name": "tool", "image": cluster.image_small, "command": ["sleep", "12345"], "targetContainerName": "web"}
    answer = api.patch(
        f"{pods(cluster)}/{pod}/ephemeralcontainers",
        content=json.dumps({"spec": {"ephemeralContainers": [tool]}}),
        headers={"Content-Type": "application/strategic-merge-patch+json"},
    )
    assert answer.status_code == 200, answer.text

    def running() -> bool:
        statuses = cluster.get("Pod", pod)["status"].get("ephemeralContainerStatuses") or [{}]
        return "running" in statuses[0].get("state", {})

    soon(running)
    assert "sleep 100000" in cluster.look(pod, "ps", "tool")


def test_whoever_may_not_is_told_what(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """A right that is missing is named, and a review says so too."""
    pod = made("guarded")
    cluster.switch(forbid=[("create", "pods/exec"), ("list", "pods")])
    query = {"container": "web", "command": "true", "stdout": "true"}
    refused = api.get(f"{pods(cluster)}/{pod}/exec", params=query)
    words = f'pods "{pod}" is forbidden: User "admin" cannot create resource "pods/exec" in API group "" in the '
    assert refused.status_code == 403
    assert refused.json()["message"] == f'{words}namespace "{cluster.namespace}"'
    assert api.get(pods(cluster)).json()["message"].startswith('pods is forbidden: User "admin" cannot list resource')
    attributes = {"namespace": cluster.namespace, "verb": "create", "resource": "pods", "subresource": "exec"}
    review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answers = [
        api.post(path, json=review | {"spec": {"resourceAttributes": attributes | {"verb": verb}}}).json()["status"]
        for verb in ("create", "get")
    ]
    assert [answer["allowed"] for answer in answers] == [False, True]


async def test_an_expired_token_hits_only_what_is_new(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str]
) -> None:
    """New requests get 401; an exec that is open goes on."""
    pod = await asyncio.to_thread(made, "expiring")
    async with executed(cluster, pod, ["cat"], stdin=True) as wire:
        await wire.frame()
        cluster.switch(token_expired=True)
        answer = await asyncio.to_thread(api.get, pods(cluster))
        assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")
        await wire.send(0, b"on\n")
        assert await wire.frame() == (2, b"\x01on\n")


def test_a_service_account_is_let_in_by_its_token(cluster: Cluster, api: httpx.Client) -> None:
    """A token that was replaced is worth nothing; its user's rights are a switch."""
    token = cluster.serviceaccount / "token"
    assert cluster.standin is not None
    trusted = ssl.create_default_context(cafile=cluster.serviceaccount / "ca.crt")
    with httpx.Client(base_url=cluster.server, verify=trusted) as bearer:
        old = {"Authorization": f"Bearer {token.read_text()}"}
        assert bearer.get(pods(cluster), headers=old).status_code == 200
        assert bearer.get(pods(cluster)).status_code == 401
        cluster.standin.rotate_token()
        assert bearer.get(pods(cluster), headers=old).status_code == 401
        cluster.switch(rights=[("get", "pods")])
        new = {"Authorization": f"Bearer {token.read_text()}"}
        assert bearer.get(pods(cluster), headers=new).status_code == 403


def restart(cluster: Cluster, api: httpx.Client) -> None:
    """Restart the server under a watch."""
    with api.stream("GET", pods(cluster), params={"watch": "1"}) as watching:
        lines = watching.iter_lines()
        next(lines)
        cluster.switch(restart=True)
        with pytest.raises(httpx.TransportError):
            list(lines)
    with pytest.raises(httpx.TransportError):
        api.get("/version")


async def test_streams_outlive_a_restart(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Watches end and nobody listens for a while; an exec that is open goes on."""
    pod = await asyncio.to_thread(made, "outliving")
    async with executed(cluster, pod, ["cat"], stdin=True) as wire:
        await wire.frame()
        await asyncio.to_thread(restart, cluster, api)
        await wire.send(0, b"on\n")
        assert await wire.frame() == (2, b"\x01on\n")
    await asyncio.sleep(2.5)
    assert (await asyncio.to_thread(api.get, "/version")).json()["gitVersion"] == "v1.36.0"


def test_watches_are_dropped(cluster: Cluster, api: httpx.Client) -> None:
    """A switch ends every watch in good order."""
    timer = threading.Timer(0.5, cluster.switch, kwargs={"drop_watches": True})
    timer.start()
    assert api.get(pods(cluster), params={"watch": "1", "resourceVersion": "0"}).status_code == 200
    timer.join()


async def test_a_cut_stream_has_no_end(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """After so many bytes the connection is reset: no status, no close frame."""
    pod = await asyncio.to_thread(made, "cut")
    cluster.switch(cut_after=5)
    async with executed(cluster, pod, ["echo", "0123456789"]) as wire:
        assert [await wire.frame(), await wire.frame()] == [(2, b"\x01"), (2, b"\x0101234")]
        with pytest.raises((ConnectionError, AssertionError)):
            assert (await wire.frame())[0] == 2


async def test_a_status_can_be_missing(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """The connection closes in good order without one."""
    pod = await asyncio.to_thread(made, "silent")
    cluster.switch(no_status=True)
    async with executed(cluster, pod, ["echo", "hi"]) as wire:
        assert await wire.rest() == [(2, b"\x01"), (2, b"\x01hi\n"), (8, b"\x03\xe8")]


@pytest.mark.parametrize("switched", [{"version": "1.29"}, {"protocol": "v4"}])
async def test_an_old_server_chooses_v4(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str], switched: dict[str, str]
) -> None:
    """Where v5 is not known it is passed over."""
    pod = await asyncio.to_thread(made, f"old-{'-'.join(switched)}")
    cluster.switch(**switched)
    async with executed(cluster, pod, ["true"], [V5, V4]) as wire:
        assert wire.protocol == V4


@pytest.mark.parametrize("freezes", [False, True])
async def test_what_becomes_of_an_exec_when_its_pod_is_deleted(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str], *, freezes: bool
) -> None:
    """Its program is killed and that is told; or the stream freezes, where that is switched on."""
    pod = await asyncio.to_thread(made, f"deleted-{freezes}".lower())
    if freezes:
        cluster.switch(freeze_on_delete=True)
    async with executed(cluster, pod, ["sh", "-c", "echo up; sleep 100"]) as wire:
        await wire.until(b"up\n")
        await asyncio.to_thread(cluster.delete, "Pod", pod, grace=0)
        if freezes:
            assert await wire.silent(3)
        else:
            frames = await wire.rest()
            assert b'"message":"137"' in frames[-2][1]


def test_an_evicted_pod_stays_as_failed(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Its workload makes another."""
    pod = made("evicted")
    cluster.switch(evict=pod)
    status = cluster.get("Pod", pod)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    cluster.ready("evicted")


def test_a_pod_without_its_node_is_not_ready(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Nothing is heard of it, and it comes back; `not_ready` looks another way."""
    pod = made("nodeless")

    def ready() -> Object:
        conditions = cluster.get("Pod", pod)["status"]["conditions"]
        return next(one for one in conditions if one["type"] == "Ready")

    cluster.switch(node_lost=pod)
    assert ready()["reason"] == "NodeStatusUnknown"
    cluster.switch()
    assert ready()["status"] == "True"
    cluster.switch(not_ready=[pod])
    assert (ready()["status"], ready()["reason"]) == ("False", "ContainersNotReady")


def test_a_probe_decides_whether_a_pod_is_ready(cluster: Cluster, made: Callable[..., str]) -> None:
    """A pod that runs is not ready before its probe has passed."""
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    web = {"name": "web", "image": cluster.image_small, "readinessProbe": probe}
    made("probed", "Pod", containers=[web], wait=False)
    soon(lambda: cluster.get("Pod", "probed")["status"]["phase"] == "Running")
    (status,) = cluster.get("Pod", "probed")["status"]["containerStatuses"]
    assert not status["ready"]
    cluster.look("probed", "touch /tmp/ready")
    cluster.ready("probed")


def test_a_container_that_must_not_be_root_is_not_started(cluster: Cluster, made: Callable[..., str]) -> None:
    """It waits, and says that its image would run as root; with a user of its own it runs."""
    image = {"image": cluster.image_small, "name": "web"}
    made("rootless", "Pod", containers=[image], pod={"securityContext": {"runAsNonRoot": True}}, wait=False)

    def waits() -> bool:
        statuses = cluster.get("Pod", "rootless")["status"].get("containerStatuses") or [{"state": {}}]
        return bool(statuses[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError")

    soon(waits)
    made("other", "Pod", containers=[image], pod={"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}})
    assert cluster.look("other", "id -u") == "1000\n"


async def test_a_forwarded_port_ends_with_its_program(cluster: Cluster, made: Callable[..., str]) -> None:
    """What it wrote before it ended arrives, and then the close frame."""
    listen = ["nc", "-ll", "-p", "7000", "-e", "echo", "hello"]
    web = {"name": "web", "image": cluster.image_small, "command": listen}
    pod = await asyncio.to_thread(made, "ending", containers=[web])
    async with opened(cluster, f"{pod}/portforward", [("ports", "7000")], [V4]) as wire:
        assert (await wire.rest())[2:] == [(2, b"\x00hello\n"), (8, b"\x03\xe8")]
