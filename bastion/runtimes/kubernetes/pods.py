"""Read what a cluster says of pods and workloads into small values, whatever it says."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bastion.grammar import NAME_PART
from bastion.runtimes.host_paths import opens_engine

NAME: Final = re.compile(NAME_PART)
LABELS: Final = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app")
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_KINDS: Final = ("StatefulSet", "DaemonSet")
_LIST_LIMIT: Final = 1000  # containers, volumes, mounts, conditions
_WORDS_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod. `ended` says in words how it ended; "" while it runs or has not run yet.

    `ended_id` is the id of the container that those words are about.
    """

    name: str
    container_id: str
    is_regular: bool
    is_running: bool
    ended: str
    ended_id: str
    waits_for: str
    image: str
    image_digest: str
    hazards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `owner` is its workload's kind and name; `over` says in words why it is no more than a name, or ""."""

    name: str
    uid: str
    created: float
    owner: tuple[str, str] | None
    phase: str
    is_ready: bool
    over: str
    default_container: str
    containers: tuple[Container, ...]

    @property
    def state(self) -> str:
        """The pod's state in a few words, for somebody who wants to enter it."""
        if self.over:
            return self.over
        waiting = next((found.waits_for for found in self.containers if found.waits_for), "")
        return "ready" if self.is_ready else waiting or (self.phase if self.phase != "Running" else "not ready")

    def container(self, name: str) -> Container | None:
        """Return the container of that name."""
        return next((found for found in self.containers if found.name == name), None)


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or DaemonSet, and the values of its labels that may be its name."""

    kind: str
    name: str
    labels: tuple[str, ...]


def read_workload(kind: str, entry: Mapping[str, Any]) -> Workload | None:
    """Return a workload of that kind; None when its name is none."""
    metadata = _dict(entry.get("metadata"))
    name = metadata.get("name")
    labels = _dict(metadata.get("labels"))
    values = dict.fromkeys(str(labels[label]) for label in LABELS if _is_name(labels.get(label)))
    return Workload(kind, str(name), tuple(values)) if _is_name(name) else None


def owner(metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return kind and name of the workload that a pod with this metadata belongs to, or None.

    A ReplicaSet is a Deployment's when its name is that and the pod's template hash.
    """
    for reference in _dicts(metadata.get("ownerReferences")):
        if reference.get("controller") is True and str(reference.get("apiVersion")).startswith("apps/"):
            kind, name = reference.get("kind"), reference.get("name")
            mark = f"-{_dict(metadata.get('labels')).get('pod-template-hash')}"
            if kind == "ReplicaSet" and isinstance(name, str) and name.endswith(mark):
                kind, name = "Deployment", name.removesuffix(mark)
            elif kind not in _KINDS:
                return None
            return (str(kind), str(name)) if _is_name(name) else None
    return None


def read_pod(entry: Mapping[str, Any]) -> Pod | None:
    """Return a pod; None when its name is none."""
    metadata, spec, status = (_dict(entry.get(part)) for part in ("metadata", "spec", "status"))
    name = metadata.get("name")
    if not _is_name(name):
        return None
    conditions = {str(found.get("type")): found for found in _dicts(status.get("conditions"))}
    return Pod(
        name=str(name),
        uid=_text(metadata.get("uid")),
        created=_epoch(metadata.get("creationTimestamp")),
        owner=owner(metadata),
        phase=_text(status.get("phase")) or "Unknown",
        is_ready=_dict(conditions.get("Ready")).get("status") == "True" and status.get("phase") == "Running",
        over=_over(metadata, status, conditions),
        default_container=_text(_dict(metadata.get("annotations")).get(_DEFAULT_CONTAINER)),
        containers=tuple(_containers(spec, status)),
    )


def _over(metadata: Mapping[str, Any], status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> str:
    reason, message = _text(status.get("reason")), _text(status.get("message"))
    disruption = _dict(conditions.get("DisruptionTarget"))
    is_disrupted = disruption.get("status") == "True"
    if reason == "Evicted" or (is_disrupted and (metadata.get("deletionTimestamp") or status.get("phase") == "Failed")):
        why = (reason == "Evicted" and message) or _text(disruption.get("reason")) or reason
        return f"was evicted: {why.rstrip(' .')}"
    ready = _dict(conditions.get("Ready"))
    if status.get("phase") == "Unknown" or "NodeLost" in (reason, ready.get("reason")) or _is_unheard(conditions):
        return "lost its node"
    if metadata.get("deletionTimestamp"):
        return "is being deleted"
    if status.get("phase") == "Failed":
        return f"failed: {reason}" if reason else "failed"
    return "has completed" if status.get("phase") == "Succeeded" else ""


def _is_unheard(conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether nobody hears from the pod's node any more.

    The node lifecycle controller then makes Ready false and leaves all else as it was; a kubelet always gives a reason.
    """
    ready = _dict(conditions.get("Ready"))
    if ready.get("reason") == "NodeStatusUnknown":
        return True
    is_well = _dict(conditions.get("ContainersReady")).get("status") == "True"
    return ready.get("status") == "False" and not ready.get("reason") and is_well


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Container]:
    """Give the containers, then native sidecars, then ephemeral ones; init containers that end are none."""
    sources = _sources(spec)
    for part, statuses in (
        ("containers", "containerStatuses"),
        ("initContainers", "initContainerStatuses"),
        ("ephemeralContainers", "ephemeralContainerStatuses"),
    ):
        known = {str(found.get("name")): found for found in _dicts(status.get(statuses))}
        for container in _dicts(spec.get(part)):
            if part == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            if _is_name(container.get("name")):
                told = _dict(known.get(str(container["name"])))
                yield _container(container, told, hazards(spec, container, sources), is_regular=part == "containers")


def _container(
    container: Mapping[str, Any], told: Mapping[str, Any], found: tuple[str, ...], *, is_regular: bool
) -> Container:
    state, last = _dict(told.get("state")), _dict(_dict(told.get("lastState")).get("terminated"))
    present = _bare(told.get("containerID"))
    ending, ended_id = _dict(state.get("terminated")), present
    if not ending and last:
        ending, ended_id = last, _bare(last.get("containerID"))
    return Container(
        name=str(container["name"]),
        container_id=present,
        is_regular=is_regular,
        is_running="running" in state and bool(present),
        ended=_ended(ending) if ending else "",
        ended_id=ended_id,
        waits_for=_text(_dict(state.get("waiting")).get("reason")),
        image=_text(container.get("image")),
        image_digest=_bare(told.get("imageID")).rpartition("@")[2],
        hazards=found,
    )


def _ended(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason") == "OOMKilled":
        return "ran out of memory (OOMKilled)"
    status = terminated.get("exitCode")
    return f"ended (exit status {status if isinstance(status, int) else 'unknown'})"


def _sources(spec: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the host paths of a pod's volumes by name; None when there are too many to be looked at."""
    volumes = spec.get("volumes")
    if isinstance(volumes, list) and len(volumes) > _LIST_LIMIT:
        return None
    paths = {str(volume.get("name")): _dict(volume.get("hostPath")).get("path") for volume in _dicts(volumes)}
    return {name: source for name, source in paths.items() if isinstance(source, str)}


def hazards(
    spec: Mapping[str, Any], container: Mapping[str, Any], sources: Mapping[str, str] | None
) -> tuple[str, ...]:
    """Say why entering a container of the pod with this spec would be entering its node, or cannot be known not to."""
    found = []
    if _dict(container.get("securityContext")).get("privileged"):
        found.append("is privileged")
    if spec.get("hostPID"):
        found.append("shares the host's pid namespace")
    mounts = container.get("volumeMounts")
    if sources is None or (isinstance(mounts, list) and len(mounts) > _LIST_LIMIT):
        found.append(f"has more than {_LIST_LIMIT} mounts, too many to be looked at")
        return tuple(found)
    for mount in _dicts(mounts):
        source = sources.get(str(mount.get("name")))
        below = mount.get("subPath")
        if source is not None and opens_engine(source, below if isinstance(below, str) else ""):
            found.append("mounts a socket of its node's container engine")
            break
    return tuple(found)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value[:_LIST_LIMIT] if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    """Return a text as far as it may be shown: without control characters, and short."""
    if not isinstance(value, str):
        return ""
    return "".join(sign if sign.isprintable() else "?" for sign in value[:_WORDS_LIMIT])


def _bare(identifier: object) -> str:
    """Return `containerd://ID` less its scheme."""
    return _text(identifier).rpartition("://")[2]


def _epoch(timestamp: object) -> float:
    try:
        moment = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
