"""Run one pod: its containers on the engine, their restarts, its status, and its end."""

import asyncio
import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.cluster.answers import Object
from tests.cluster.docker import Docker
from tests.cluster.store import Key, Store, now
from tests.cluster.switches import Switches

_PULL_BACK_OFF_SECONDS: Final = 1.0
_RESTART_BACK_OFF_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 10
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
    last: Object = field(default_factory=dict)

    @property
    def sidecar(self) -> bool:
        """Whether it is a native sidecar: an init container that keeps running."""
        return self.kind == "initContainers" and self.spec.get("restartPolicy") == "Always"

    def status(self) -> Object:
        """Return it as an entry of containerStatuses."""
        running = "running" in self.state
        made: Object = {"name": self.spec["name"], "state": self.state, "lastState": self.last, "ready": running}
        made |= {"restartCount": self.restarts, "image": self.spec["image"], "imageID": self.image_id}
        if self.shown:
            made["containerID"] = f"containerd://{self.shown}"
        return made if self.kind == "ephemeralContainers" else made | {"started": running}


class Pod:
    """One pod as the kubelet of its node sees it."""

    def __init__(self, key: Key, store: Store, docker: Docker, switches: Callable[[], Switches]) -> None:
        self._key = key
        self._store = store
        self._docker = docker
        self._switches = switches
        self._made = store.get(key) or {}
        self.sandbox = uuid.uuid4().hex * 2
        self.frozen = False
        self._lost = False
        self._evicted = False
        self._containers: dict[str, Container] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._life = asyncio.create_task(self._live())

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return str(self._made["metadata"]["uid"])

    def container(self, name: str) -> str | None:
        """Return the engine's id of a container of this pod; None when it does not run."""
        found = self._containers.get(name)
        return None if found is None else found.id

    def holder(self) -> str | None:
        """Return the engine's id of a container whose network is the pod's."""
        return next((item.id for item in self._containers.values() if item.id is not None), None)

    def lose_node(self, *, lost: bool = True) -> None:
        """Let the pod's node vanish: it is not ready, nothing is heard of it; or let it come back."""
        self._lost = self.frozen = lost
        self.report()

    async def evict(self) -> None:
        """End the pod as a node under pressure does: it stays as Failed."""
        self._evicted = True
        await self._end_containers(0)
        self.report()

    def add_ephemeral(self) -> None:
        """Start the ephemeral containers that the spec has and that do not run yet."""
        made = self._store.get(self._key) or self._made
        for spec in made["spec"].get("ephemeralContainers", ()):
            if spec["name"] not in self._containers:
                self._made = made
                self._begin(Container(spec, "ephemeralContainers"))
        self.report()

    async def close(self) -> None:
        """Stop looking after the pod; its containers are left."""
        self._life.cancel()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(self._life, *self._tasks.values(), return_exceptions=True)

    async def _live(self) -> None:
        spec = self._made["spec"]
        for made in spec.get("initContainers", ()):
            container = Container(made, "initContainers")
            self._begin(container)
            while container.id is None if container.sidecar else "terminated" not in container.state:
                await asyncio.sleep(0.02)
        for made in spec["containers"]:
            container = Container(made, "containers")
            self._begin(container)
            while container.id is None and container.state["waiting"]["reason"] == "ContainerCreating":
                await asyncio.sleep(0.01)  # the first one has the network that the others share

    def _begin(self, container: Container) -> None:
        name = container.spec["name"]
        self._containers[name] = container
        self._tasks[name] = asyncio.create_task(self._keep(container))

    async def _keep(self, container: Container) -> None:
        """Start a container, and start it again when it ended, as the restart policy says."""
        policy = self._made["spec"].get("restartPolicy", "Always")
        while not self._evicted:
            await self._start(container)
            begun = now()
            assert container.id is not None
            code = await self._docker.ended(container.id)
            ended: Object = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
            ended |= {"startedAt": begun, "finishedAt": now(), "containerID": f"containerd://{container.id}"}
            ended_id, container.id, container.state = container.id, None, {"terminated": ended}
            self.report()
            await self._docker.remove(ended_id)
            if container.kind == "ephemeralContainers" or (
                container.kind == "initContainers" and not container.sidecar
            ):
                return
            if not container.sidecar and (policy == "Never" or (policy == "OnFailure" and code == 0)):
                return
            container.last = {"terminated": ended}
            if container.restarts:
                container.state = {
                    "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed"}
                }
                self.report()
                await asyncio.sleep(_RESTART_BACK_OFF_SECONDS)
            container.restarts += 1

    async def _start(self, container: Container) -> None:
        image = container.spec["image"]
        while (digest := await self._docker.image(image)) is None:
            words = f'failed to pull and unpack image "{image}": not found'
            container.state = {"waiting": {"reason": "ErrImagePull", "message": words}}
            self.report()
            await asyncio.sleep(_PULL_BACK_OFF_SECONDS)
            words = f'Back-off pulling image "{image}": ErrImagePull: {words}'
            container.state = {"waiting": {"reason": "ImagePullBackOff", "message": words}}
            self.report()
            await asyncio.sleep(_PULL_BACK_OFF_SECONDS)
        while True:
            try:
                made = await self._docker.run(
                    self._made, container.spec, self._full_name(container), self.holder(), self._pids(container)
                )
                break
            except OSError as error:
                container.state = {"waiting": {"reason": "CreateContainerError", "message": str(error)}}
                self.report()
                await asyncio.sleep(1)
        container.image_id = f"docker.io/{image.split(':')[0]}@{digest}"
        container.id = container.shown = made
        container.state = {"running": {"startedAt": now()}}
        self.report()

    def _pids(self, container: Container) -> str | None:
        if (target := container.spec.get("targetContainerName")) is not None:
            return self.container(target)
        return self.holder() if self._made["spec"].get("shareProcessNamespace") else None

    def report(self) -> None:
        """Write the pod's status as it is now."""
        made = self._store.get(self._key)
        if made is not None and made["metadata"]["uid"] == self.uid:
            made["status"] = self._status(made)
            self._store.put(self._key, made)

    def _status(self, made: Object) -> Object:
        by_kind: dict[str, list[Container]] = {"containers": [], "initContainers": [], "ephemeralContainers": []}
        for container in self._containers.values():
            by_kind[container.kind].append(container)
        own = by_kind["containers"]
        started = len(own) == len(made["spec"]["containers"])
        phase = "Running" if started and any(item.shown for item in own) else "Pending"
        if started and made["spec"].get("restartPolicy", "Always") != "Always":
            codes = [item.state["terminated"]["exitCode"] for item in own if "terminated" in item.state]
            if len(codes) == len(own):
                phase = "Failed" if any(codes) else "Succeeded"
        ready = started and all("running" in item.state for item in own) and not self._unready(made)
        status: Object = {"phase": "Failed" if self._evicted else phase}
        status |= {"conditions": self._conditions(made, ready=ready), "hostIP": "192.0.2.1", "podIP": "192.0.2.10"}
        if self._evicted:
            status |= {"reason": "Evicted", "message": _EVICTED}
        elif self._lost:
            status |= {"reason": "NodeLost", "message": "Node node-1 which was running the pod is unresponsive"}
        status["startTime"] = made["metadata"]["creationTimestamp"]
        for kind, field_name in (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")):
            if by_kind[kind]:
                status[field_name] = [item.status() for item in by_kind[kind]]
        if by_kind["ephemeralContainers"]:
            status["ephemeralContainerStatuses"] = [item.status() for item in by_kind["ephemeralContainers"]]
        return status

    def _unready(self, made: Object) -> bool:
        annotated = (made["metadata"].get("annotations") or {}).get("bastion-standin/not-ready") == "true"
        return annotated or self._evicted or made["metadata"]["name"] in self._switches().not_ready

    def _conditions(self, made: Object, *, ready: bool) -> list[Object]:
        words: Object = {} if ready else {"reason": "ContainersNotReady", "message": "containers with unready status"}
        is_ready: dict[str, Any] = {"status": "True" if ready else "False"} | words
        on_pod = is_ready
        if self._lost:
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

    async def end(self, grace: int) -> None:
        """End the pod that was deleted: ask its containers to end, kill them after `grace` seconds, remove it."""
        self.frozen = self.frozen or self._switches().freeze_on_delete
        await self._end_containers(grace)
        made = self._store.get(self._key)
        if made is not None and made["metadata"]["uid"] == self.uid:
            self._store.remove(self._key)
        self._docker.forget(self._made)

    async def _end_containers(self, grace: int) -> None:
        """Ask the running containers to end, and kill them after `grace` seconds; none is started again."""
        self._life.cancel()
        running = {name: item.id for name, item in self._containers.items() if item.id is not None}
        for name, task in self._tasks.items():
            if name not in running or not self._evicted:
                task.cancel()
        if grace and running:
            for container in running.values():
                self._docker.signal(container, signal.SIGTERM)
            ends = [asyncio.ensure_future(self._docker.ended(container)) for container in running.values()]
            await asyncio.wait(ends, timeout=grace)
            for end in ends:
                end.cancel()
        for container in running.values():
            self._docker.signal(container, signal.SIGKILL)
        if self._evicted and running:
            await asyncio.wait([self._tasks[name] for name in running], timeout=_KILL_SECONDS)
        else:
            await self._docker.remove(*running.values(), *(self._full_name(one) for one in self._containers.values()))

    def _full_name(self, container: Container) -> str:
        namespace, name = self._key[1:]
        return f"{namespace}_{name}_{container.spec['name']}_{self.uid[:8]}_{container.restarts}"
