"""Say a pod's status in the API's words, from what its node knows of it."""

from dataclasses import dataclass, field
from typing import Any, Final

from tests.cluster.answers import Object

_EVICTED: Final = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 12Mi. "


@dataclass
class Container:
    """A container of a pod: its spec, the engine's id while it runs, and its state in the API's words."""

    spec: Object
    kind: str  # containers, initContainers or ephemeralContainers
    id: str | None = None
    shown: str = ""  # the id in the status, of a container that ended too
    image_id: str = ""
    restarts: int = 0
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    passed: bool = True  # its readiness probe
    last: Object = field(default_factory=dict)

    @property
    def sidecar(self) -> bool:
        """Whether it is a native sidecar: an init container that keeps running."""
        return self.kind == "initContainers" and self.spec.get("restartPolicy") == "Always"

    def status(self) -> Object:
        """Return it as an entry of containerStatuses."""
        running = "running" in self.state
        ended_well = self.kind == "initContainers" and self.state.get("terminated", {}).get("exitCode") == 0
        made: Object = {"name": self.spec["name"], "state": self.state, "lastState": self.last}
        made["ready"] = (running and self.passed) or ended_well
        made |= {"restartCount": self.restarts, "image": self.spec["image"], "imageID": self.image_id}
        if self.shown:
            made["containerID"] = f"containerd://{self.shown}"
        return made if self.kind == "ephemeralContainers" else made | {"started": running}


def status_of(made: Object, containers: list[Container], *, unready: bool, evicted: bool, lost: bool) -> Object:
    """Return the status of a pod with these containers; `unready`, `evicted` and `lost` are what happened to it."""
    by_kind: dict[str, list[Container]] = {"containers": [], "initContainers": [], "ephemeralContainers": []}
    for container in containers:
        by_kind[container.kind].append(container)
    own = by_kind["containers"]
    started = len(own) == len(made["spec"]["containers"])
    phase = "Running" if started and any(item.shown for item in own) else "Pending"
    if started and made["spec"].get("restartPolicy", "Always") != "Always":
        codes = [item.state["terminated"]["exitCode"] for item in own if "terminated" in item.state]
        if len(codes) == len(own):
            phase = "Failed" if any(codes) else "Succeeded"
    ready = (
        started
        and all("running" in item.state for item in own)
        and not unready
        and not evicted
        and all(item.passed for item in own)
    )
    status: Object = {"phase": "Failed" if evicted else phase}
    status |= {"conditions": _conditions(made, ready=ready, lost=lost), "hostIP": "192.0.2.1", "podIP": "192.0.2.10"}
    if evicted:
        status |= {"reason": "Evicted", "message": _EVICTED}
    elif lost:
        status |= {"reason": "NodeLost", "message": "Node node-1 which was running the pod is unresponsive"}
    status["startTime"] = made["metadata"]["creationTimestamp"]
    for kind, field_name in (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")):
        if by_kind[kind]:
            status[field_name] = [item.status() for item in by_kind[kind]]
    if by_kind["ephemeralContainers"]:
        status["ephemeralContainerStatuses"] = [item.status() for item in by_kind["ephemeralContainers"]]
    return status


def _conditions(made: Object, *, ready: bool, lost: bool) -> list[Object]:
    words: Object = {} if ready else {"reason": "ContainersNotReady", "message": "containers with unready status"}
    is_ready: dict[str, Any] = {"status": "True" if ready else "False"} | words
    on_pod = is_ready
    if lost:
        on_pod = {
            "status": "False",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
        }
    since = {"lastProbeTime": None, "lastTransitionTime": made["metadata"]["creationTimestamp"]}
    conditions: list[Object] = [
        {"type": "PodReadyToStartContainers", "status": "True"},
        {"type": "Initialized", "status": "True"},
        {"type": "Ready"} | on_pod,
        {"type": "ContainersReady"} | is_ready,
        {"type": "PodScheduled", "status": "True"},
    ]
    return [condition | since for condition in conditions]
