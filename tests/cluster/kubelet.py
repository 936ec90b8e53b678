"""Run one pod: its containers on the engine, their restarts, its status, and its end."""

import asyncio
import signal
import uuid
from collections.abc import Callable
from typing import Final

from tests.cluster.answers import Object
from tests.cluster.docker import Docker
from tests.cluster.pod_status import Container, status_of
from tests.cluster.runc import NotStarted
from tests.cluster.store import Key, Store, now
from tests.cluster.switches import Switches

_PULL_BACK_OFF_SECONDS: Final = 1.0
_RESTART_BACK_OFF_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 10


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
        await self._refuse_root(container)
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
        probe = container.spec.get("readinessProbe") or {}
        container.passed = "exec" not in probe
        if not container.passed:
            self._tasks[f"{container.spec['name']} probe"] = asyncio.create_task(self._probe(container, made, probe))
        self.report()

    async def _probe(self, container: Container, number: str, probe: Object) -> None:
        """Ask a container over and over whether it is ready, while it runs."""
        while container.id == number:
            try:
                asked = await self._docker.runc.start(number, probe["exec"]["command"], tty=False, streams=set())
                container.passed = await asked.wait() == 0
            except (NotStarted, FileNotFoundError):
                container.passed = False
            self.report()
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _refuse_root(self, container: Container) -> None:
        """Keep a container waiting that must not run as root and would; the images of the tests all would."""
        security = dict(self._made["spec"].get("securityContext") or {}) | (container.spec.get("securityContext") or {})
        namespace, name = self._key[1:]
        words = "container has runAsNonRoot and image will run as root "
        words += f'(pod: "{name}_{namespace}({self.uid})", container: {container.spec["name"]})'
        while security.get("runAsNonRoot") and not security.get("runAsUser"):
            container.state = {"waiting": {"reason": "CreateContainerConfigError", "message": words}}
            self.report()
            await asyncio.sleep(_PULL_BACK_OFF_SECONDS)

    def _pids(self, container: Container) -> str | None:
        if (target := container.spec.get("targetContainerName")) is not None:
            return self.container(target)
        return self.holder() if self._made["spec"].get("shareProcessNamespace") else None

    def report(self) -> None:
        """Write the pod's status as it is now."""
        made = self._store.get(self._key)
        if made is not None and made["metadata"]["uid"] == self.uid:
            made["status"] = status_of(
                made,
                list(self._containers.values()),
                unready=self._unready(made),
                evicted=self._evicted,
                lost=self._lost,
            )
            self._store.put(self._key, made)

    def _unready(self, made: Object) -> bool:
        annotated = (made["metadata"].get("annotations") or {}).get("bastion-standin/not-ready") == "true"
        return annotated or made["metadata"]["name"] in self._switches().not_ready

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
