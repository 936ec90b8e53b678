"""Pods and workloads as a cluster tells of them: which names mean them, what may be entered, and how they end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import NoSuchTarget
from bastion.model import Target
from bastion.runtimes.kubernetes.pods import Pod, Workload, owner, read_pod, read_workload
from bastion.runtimes.kubernetes.targets import Names, View, difference, find, services

UID = "6a0d"
HASH = "5d8c9"


def raw(name: str = "web-5d8c9-abcde", deployment: str | None = "web", **changes: Any) -> dict[str, Any]:
    """Return a ready pod as the API gives it; `spec`, `status` and `metadata` replace keys of those parts."""
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{deployment}-{HASH}", "controller": True}
    metadata = {
        "name": name,
        "uid": UID,
        "creationTimestamp": "2026-11-23T20:00:00Z",
        "labels": {"pod-template-hash": HASH},
        "ownerReferences": [reference] if deployment else [],
    }
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        "containerStatuses": [running("web")],
    }
    return {
        "metadata": metadata | changes.get("metadata", {}),
        "spec": {"containers": [{"name": "web", "image": "nginx"}]} | changes.get("spec", {}),
        "status": status | changes.get("status", {}),
    }


def running(name: str, identifier: str = "c1", **changes: Any) -> dict[str, Any]:
    told = {"name": name, "containerID": f"containerd://{identifier}", "state": {"running": {}}}
    return told | {"imageID": "docker.io/library/nginx@sha256:ab"} | changes


def pod(*args: Any, **changes: Any) -> Pod:
    found = read_pod(raw(*args, **changes))
    assert found is not None
    return found


def view(*pods: Pod, workloads: tuple[Workload, ...] = (Workload("Deployment", "web", ()),)) -> View:
    return View({pod.name: pod for pod in pods}, workloads)


def found(within: View, service: str, container: str | None = None) -> list[Target]:
    return find(within, service, container, runtime="kubernetes:", stack="shop", namespace="shop-ns")


def deployment(name: str, *labels: str) -> Workload:
    return Workload("Deployment", name, labels)


def test_a_target_says_all_about_its_pod() -> None:
    """Its ids bind it: the pod's uid and the container's id without a scheme."""
    (target,) = found(view(pod()), "web")
    assert target.container_id == f"{UID}/c1"
    assert (target.runtime, target.stack, target.service, target.namespace) == ("kubernetes:", "shop", "web", "shop-ns")
    assert (target.deployment_name, target.pod_name, target.container_name) == ("web", "web-5d8c9-abcde", "web")
    assert (target.image, target.image_digest) == ("nginx", "sha256:ab")
    assert target.created == 1795464000
    assert target.containers == ("web",)


@pytest.mark.parametrize(
    ("workloads", "name", "meant"),
    [
        ((deployment("web"), deployment("other", "web")), "web", ["web"]),
        ((deployment("web-deployment"), deployment("other", "web")), "web", ["web-deployment"]),
        ((deployment("web-deployment"), deployment("web-statefulset")), "web", ["web-deployment", "web-statefulset"]),
        ((deployment("web-deployment"), deployment("web")), "web", ["web"]),
        ((deployment("one", "web"), deployment("two", "web")), "web", ["one", "two"]),
        ((deployment("-deployment"),), "", []),
        ((deployment("web"),), "we", []),
    ],
)
def test_the_first_level_that_matches_wins(workloads: tuple[Workload, ...], name: str, meant: list[str]) -> None:
    """A name, then a name less its suffix, then labels."""
    assert [workload.name for workload in Names(workloads).meant(name)] == meant


def test_an_alias_is_a_name_that_means_the_workload() -> None:
    """A label that means another workload first gives no right to this one."""
    shadowed = deployment("db-deployment", "web", "sql")
    names = Names((deployment("web"), shadowed))
    assert names.service(shadowed) == "db"
    assert names.aliases(shadowed) == ("db-deployment", "sql")
    both = Names((deployment("web"), deployment("web-deployment")))
    assert both.service(deployment("web-deployment")) == "web-deployment"
    assert both.aliases(deployment("web-deployment")) == ()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"kind": "ReplicaSet", "name": f"web-{HASH}"}, ("Deployment", "web")),
        ({"kind": "ReplicaSet", "name": "web-other"}, None),
        ({"kind": "StatefulSet", "name": "db"}, ("StatefulSet", "db")),
        ({"kind": "DaemonSet", "name": "agent"}, ("DaemonSet", "agent")),
        ({"kind": "Deployment", "name": "web"}, None),
        ({"kind": "StatefulSet", "name": "db", "apiVersion": "apps.kruise.io/v1"}, None),
        ({"kind": "StatefulSet", "name": "db", "controller": False}, None),
        ({"kind": "Job", "name": "once", "apiVersion": "batch/v1"}, None),
        ({"kind": "StatefulSet", "name": "../x"}, None),
    ],
)
def test_a_pods_workload_is_its_controller(reference: dict[str, Any], expected: tuple[str, str] | None) -> None:
    """Of apps/v1, and a ReplicaSet's Deployment by the template's hash."""
    entry = {"apiVersion": "apps/v1", "controller": True} | reference
    metadata = {"ownerReferences": [entry], "labels": {"pod-template-hash": HASH}}
    assert owner(metadata) == expected


def test_a_statefulsets_pods_have_its_ordinals() -> None:
    """`db-2` is replica 2 whatever else runs; a Deployment's pods have no numbers."""
    reference = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": True}
    pods = [pod(f"db-{ordinal}", None, metadata={"ownerReferences": [reference]}) for ordinal in (0, 2, 10)]
    within = view(*pods, workloads=(Workload("StatefulSet", "db", ()), deployment("web")))
    assert {target.pod_name: target.number for target in found(within, "db")} == {"db-0": 0, "db-2": 2, "db-10": 10}
    assert [target.number for target in found(view(pod()), "web")] == [None]


def test_a_bare_pod_is_a_service() -> None:
    """Of its own name, also when its controller is of a kind that is no service."""
    alone = pod("alone", None)
    (target,) = found(view(alone), "alone")
    assert (target.service, target.deployment_name) == ("alone", None)
    assert services(view(alone, pod())) == {"alone", "web"}


def test_only_ready_pods_are_found_by_their_workload() -> None:
    """One that is not, is being deleted or has failed is left out, and entered by its own name while it runs."""
    unready = pod("web-5d8c9-slow", status={"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]})
    leaving = pod("web-5d8c9-gone", metadata={"deletionTimestamp": "2026-11-23T20:00:00Z"})
    within = view(pod(), unready, leaving)
    assert [target.pod_name for target in found(within, "web")] == ["web-5d8c9-abcde"]
    assert [target.service for target in found(within, unready.name)] == ["web"]
    with pytest.raises(NoSuchTarget, match="it is being deleted"):
        found(within, leaving.name)
    with pytest.raises(NoSuchTarget) as refused:
        found(view(unready, leaving), "web")
    assert refused.value.public == "no pod of web@shop is ready"
    assert "such as web-5d8c9-slow@shop" in refused.value.hint
    assert "web-5d8c9-gone (is being deleted)" in refused.value.hint


def test_a_hint_lists_at_most_twenty_pods() -> None:
    """And says how many more there are."""
    pods = [pod(f"web-{number}", status={"conditions": []}) for number in range(30)]
    with pytest.raises(NoSuchTarget) as refused:
        found(view(*pods), "web")
    assert refused.value.hint.count("(not ready)") == 20
    assert refused.value.hint.endswith(" and 10 more")


def test_a_workload_without_pods_says_so() -> None:
    """It is there, so it is no unknown service."""
    with pytest.raises(NoSuchTarget, match="no pod of web@shop is ready"):
        found(view(), "web")
    assert found(view(), "nothing") == []


def two(**changes: Any) -> Pod:
    spec = {"containers": [{"name": "log"}, {"name": "app"}], "initContainers": [{"name": "once"}]}
    spec |= {"ephemeralContainers": [{"name": "debug"}]}
    status = {
        "containerStatuses": [running("log", "l"), running("app", "a")],
        "initContainerStatuses": [running("once", "o")],
        "ephemeralContainerStatuses": [running("debug", "d")],
    }
    return pod(spec=spec, status=status, **changes)


@pytest.mark.parametrize(
    ("workload", "annotation", "asked", "expected"),
    [
        ("web", None, "web", "log"),
        ("web", "app", "web", "app"),
        ("web", "nothing", "web", "log"),
        ("app", "log", "app", "app"),
        ("app-deployment", "log", "app", "app"),
        ("web", "log", "app", "app"),
    ],
)
def test_a_container_is_chosen(workload: str, annotation: str | None, asked: str, expected: str) -> None:
    """Named like the service or like what was asked, else by the annotation, else the first."""
    metadata: dict[str, Any] = {"annotations": {"kubectl.kubernetes.io/default-container": annotation}}
    made = replace(two(metadata=metadata), owner=("Deployment", workload))
    (target,) = found(view(made, workloads=(deployment(workload, "app"),)), asked)
    assert target.container_name == expected


def test_every_container_that_runs_can_be_named() -> None:
    """Ephemeral ones too; init containers that end are none."""
    (target,) = found(view(two()), "web")
    assert target.containers == ("log", "app", "debug")
    assert [target.container_id for target in found(view(two()), "web", "debug")] == [f"{UID}/d"]
    assert found(view(two()), "web", "once") == []


@pytest.mark.parametrize(
    ("spec", "container", "expected"),
    [
        ({}, {}, ()),
        ({}, {"securityContext": {"privileged": True}}, ("is privileged",)),
        ({"hostPID": True}, {}, ("shares the host's pid namespace",)),
        ({"path": "/var/run/docker.sock"}, {"volumeMounts": [{"name": "v"}]}, ("mounts",)),
        ({"path": "/run/containerd/containerd.sock"}, {"volumeMounts": [{"name": "v"}]}, ("mounts",)),
        ({"path": "/var/run/containerd/"}, {"volumeMounts": [{"name": "v"}]}, ("mounts",)),
        ({"path": "/"}, {"volumeMounts": [{"name": "v"}]}, ("mounts",)),
        ({"path": "/var"}, {"volumeMounts": [{"name": "v", "subPath": "run"}]}, ("mounts",)),
        ({"path": "/run/k3s/../docker.sock"}, {"volumeMounts": [{"name": "v"}]}, ("mounts",)),
        ({"path": "/var"}, {"volumeMounts": [{"name": "v", "subPath": "log"}]}, ()),
        ({"path": "/var/run/docker.sock"}, {"volumeMounts": [{"name": "other"}]}, ()),
        ({"path": "/data"}, {"volumeMounts": [{"name": "v"}]}, ()),
    ],
)
def test_hazards_are_those_of_the_container(
    spec: dict[str, Any], container: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """A volume that another container mounts is none."""
    volumes = [{"name": "v", "hostPath": {"path": spec.pop("path")}}] if "path" in spec else []
    made = pod(spec={"containers": [{"name": "web"} | container], "volumes": volumes} | spec)
    hazards = made.containers[0].hazards
    assert len(hazards) == len(expected)
    assert all(hazard.startswith(words) for hazard, words in zip(hazards, expected, strict=True))


TERMINATED = {"terminated": {"exitCode": 3, "reason": "Error", "containerID": "containerd://c1"}}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "containerID": "containerd://c1"}}
DELETED = {"deletionTimestamp": "2026-11-23T20:00:00Z"}
UNREADY = {"type": "Ready", "status": "False"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}


def statuses(**told: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": [running("web", **told)]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"metadata": {"uid": "other"}}, "was deleted, and another pod has its name"),
        ({"metadata": DELETED}, "is being deleted"),
        ({"metadata": DELETED, "status": {"conditions": [DISRUPTED]}}, "was evicted: EvictionByEvictionAPI"),
        (
            {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on\nmemory. "}},
            "was evicted: low on?memory",
        ),
        ({"status": {"phase": "Failed", "reason": "DeadlineExceeded"}}, "failed: DeadlineExceeded"),
        ({"status": {"phase": "Failed"}}, "failed"),
        ({"status": {"phase": "Succeeded"}}, "has completed"),
        ({"status": {"phase": "Unknown"}}, "lost its node"),
        ({"status": {"reason": "NodeLost"}, "metadata": DELETED}, "lost its node"),
        ({"status": {"conditions": [{"type": "Ready", "reason": "NodeStatusUnknown"}]}}, "lost its node"),
        (
            {
                "status": {
                    "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
                }
            },
            "lost its node",
        ),
        ({"status": {"conditions": [UNREADY | {"reason": "ContainersNotReady"}]}}, ""),
        (statuses(state=TERMINATED), "ended (exit status 3)"),
        (statuses(state=OOM), "ran out of memory (OOMKilled)"),
        (statuses(identifier="c2", lastState=OOM), "ran out of memory (OOMKilled)"),
        (statuses(identifier="c2"), "restarted"),
        (statuses(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=TERMINATED), "ended (exit status 3)"),
        (statuses(lastState={"terminated": {"exitCode": 1, "containerID": "containerd://c0"}}), ""),
        ({"status": {"containerStatuses": []}}, ""),
    ],
)
def test_a_target_that_has_ended_says_how(changes: Mapping[str, Any], words: str) -> None:
    """By what is known of the pod of its name now."""
    (target,) = found(view(pod()), "web")
    assert difference(target, pod(**changes)) == words


def test_a_pod_that_is_gone_was_deleted() -> None:
    """Whatever else happened before."""
    (target,) = found(view(pod()), "web")
    assert difference(target, None) == "was deleted"


def test_workloads_that_may_not_be_listed_are_known_by_their_pods() -> None:
    """By name and suffix."""
    within = View({"web-1": pod("web-1", "web-deployment")}, (), frozenset({"Deployment"}))
    (target,) = found(within, "web")
    assert (target.service, target.deployment_name) == ("web", "web-deployment")


def test_names_outside_the_grammar_are_left_out() -> None:
    """Labels may hold anything."""
    labels = {"app.kubernetes.io/name": "a b", "app.kubernetes.io/component": ["x"], "app": "good"}
    workload = read_workload("Deployment", {"metadata": {"name": "web", "labels": labels}})
    assert workload == Workload("Deployment", "web", ("good",))
    assert read_workload("Deployment", {"metadata": {"name": "\x1b[2J"}}) is None
    assert read_pod({"metadata": {"name": "../x"}}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_a_pod_may_be_anything(data: st.DataObject) -> None:
    """A part of any other type is read as if it were not there, and nothing is raised."""
    entry = raw()
    here: Any = entry
    while isinstance(here, dict | list) and here:
        keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key] or data.draw(st.booleans()):
            here[key] = data.draw(JSON)
            break
        here = here[key]
    made = read_pod(entry)
    read_workload("Deployment", entry)
    hints: list[str] = []
    if made is not None:
        assert made.state.isprintable()
        for workloads in ((), (Workload("Deployment", "web", ()),)):
            try:
                targets = found(view(made, workloads=workloads), "web")
            except NoSuchTarget as refused:
                hints.append(refused.hint)
            else:
                assert all(difference(target, made) == "" for target in targets)
        assert all(hint.isprintable() for hint in hints)
