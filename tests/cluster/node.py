"""The one node of the stand-in cluster: it follows the store, runs the pods, and lets the controllers act."""

import asyncio
import contextlib

from tests.cluster.controllers import reconcile
from tests.cluster.docker import Docker
from tests.cluster.kubelet import Pod
from tests.cluster.store import Key, Store
from tests.cluster.switches import Switches


class Node:
    """All pods that run; `switches` are what is switched on at present."""

    def __init__(self, store: Store, docker: Docker) -> None:
        self.store = store
        self.docker = docker
        self.switches = Switches()
        self._pods: dict[Key, Pod] = {}
        self._ends: dict[Pod, asyncio.Task[None]] = {}
        self._graces: dict[Pod, int] = {}
        self._task = asyncio.create_task(self._follow())

    def pod(self, namespace: str, name: str) -> Pod | None:
        """Return the running pod of that name."""
        return self._pods.get(("pods", namespace, name))

    def pods(self) -> list[Pod]:
        """Return all running pods."""
        return list(self._pods.values())

    def named(self, name: str) -> list[Pod]:
        """Return the running pods of that name in any namespace."""
        return [pod for key, pod in self._pods.items() if key[2] == name]

    def switch(self, switches: Switches) -> None:
        """Take these switches, and report what they change on every pod."""
        self.switches = switches
        for pod in self._pods.values():
            pod.report()

    async def close(self) -> None:
        """Stop following, and remove every container."""
        self._task.cancel()
        for task in self._ends.values():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await asyncio.gather(*(pod.close() for pod in self._pods.values()), return_exceptions=True)
        await self.docker.remove_all()

    async def _follow(self) -> None:
        while True:
            version = self.store.version
            reconcile(self.store)
            self._sync()
            if self.store.version == version:
                await self.store.changed()

    def _sync(self) -> None:
        present = {
            ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]): pod for pod in self.store.all("pods")
        }
        for key, pod in list(self._pods.items()):
            made = present.get(key)
            if made is None or made["metadata"]["uid"] != pod.uid:
                del self._pods[key]
                self._end(pod, 0)
            elif made["metadata"].get("deletionTimestamp"):
                self._end(pod, made["metadata"]["deletionGracePeriodSeconds"])
        for key in present.keys() - self._pods.keys():
            self._pods[key] = Pod(key, self.store, self.docker, lambda: self.switches)

    def _end(self, pod: Pod, grace: int) -> None:
        """Begin to end a pod, once for each shorter grace that is asked for."""
        if grace >= self._graces.get(pod, grace + 1):
            return
        if (before := self._ends.pop(pod, None)) is not None:
            before.cancel()
        self._graces[pod] = grace
        task = asyncio.create_task(pod.end(grace))
        self._ends[pod] = task
        task.add_done_callback(lambda done: self._forget(pod, done))

    def _forget(self, pod: Pod, task: asyncio.Task[None]) -> None:
        if self._ends.get(pod) is task:
            del self._ends[pod], self._graces[pod]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
