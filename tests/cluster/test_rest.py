"""The cluster of the tests lists, watches, restarts and forwards as a real one does; most of it is asked of both."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster
from tests.cluster.wire import V4, opened

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker]

Object = dict[str, Any]


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
