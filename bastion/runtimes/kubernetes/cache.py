"""What runs in the namespaces in use, kept by watches, and who is to be told when a pod of theirs ends."""

import asyncio
import contextlib
import functools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bastion.errors import RuntimeFailed
from bastion.model import Target
from bastion.runtimes.kubernetes import watch
from bastion.runtimes.kubernetes.cluster import Cluster, path
from bastion.runtimes.kubernetes.pods import Pod, Workload, read_pod, read_workload
from bastion.runtimes.kubernetes.targets import View, difference
from bastion.tasks import background

WORKLOADS: Final = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
NAMESPACES: Final = 64
_IDLE_SECONDS: Final = 600.0
_SWEEP_SECONDS: Final = 60.0
_EMPTY_SECONDS: Final = 1.0
_EMPTY_LIMIT: Final = 1024  # namespaces remembered for a second to hold nothing

Told = Callable[[str], None]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watcher:
    target: Target
    told: Told
    is_told: bool = False


class _Namespace:
    """The pods and workloads of one namespace, and those who watch its pods."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.used = time.monotonic()
        self.users = 0  # calls that are looking at it
        self.watchers: dict[str, list[_Watcher]] = {}
        self.pods: watch.Collection[Pod] = watch.Collection(
            cluster,
            path("namespaces", name, "pods"),
            read_pod,
            asked=f"list pods in the namespace {name}",
            changed=self.tell,
        )
        self.workloads: dict[str, watch.Collection[Workload]] = {
            kind: watch.Collection(
                cluster,
                path("namespaces", name, plural, api="apis/apps/v1"),
                functools.partial(read_workload, kind),
                asked=f"list {plural}.apps in the namespace {name}",
                metadata_only=True,
            )
            for kind, plural in WORKLOADS.items()
        }

    def _collections(self) -> list[watch.Collection[Any]]:
        return [self.pods, *self.workloads.values()]

    @property
    def is_current(self) -> bool:
        return all(kept.is_current for kept in self._collections())

    @property
    def is_empty(self) -> bool:
        return not self.pods.items and not any(kept.items for kept in self.workloads.values())

    def view(self) -> View:
        return View(
            self.pods.items,
            [workload for kept in self.workloads.values() for workload in kept.items.values()],
            frozenset(kind for kind, kept in self.workloads.items() if kept.refused is not None),
        )

    async def refresh(self) -> None:
        """List all anew; raise RuntimeFailed if that failed, or pods may not be listed."""
        results = await asyncio.gather(*(kept.refresh() for kept in self._collections()), return_exceptions=True)
        for result in (self.pods.refused, *results):
            if isinstance(result, BaseException):
                raise result

    def follow(self) -> None:
        for kept in self._collections():
            kept.follow()

    def tell(self, pod_name: str) -> None:
        """Tell those who watch a pod how it ended, if it has."""
        for watcher in list(self.watchers.get(pod_name, ())):
            words = "" if watcher.is_told else difference(watcher.target, self.pods.items.get(pod_name))
            if words:
                watcher.is_told = True
                watcher.told(words)

    async def close(self) -> None:
        await asyncio.gather(*(kept.close() for kept in self._collections()))


class Cache:
    """Views of the namespaces asked about, at most 64 of them kept.

    One that is not in `lasting`, that no session watches and nobody asked about for 10 minutes is let go, and one that
    holds nothing is not kept at all.
    """

    def __init__(self, cluster: Cluster, lasting: Collection[str]) -> None:
        self._cluster = cluster
        self._lasting = frozenset(lasting)
        self._kept: OrderedDict[str, _Namespace] = OrderedDict()
        self._empty: OrderedDict[str, float] = OrderedDict()
        self._opening: dict[str, _Namespace] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def view(self, name: str, *, anew: bool = False) -> View:
        """Return what a namespace holds: as it is watched, or listed if the watch is broken or `anew` is asked for.

        Lists are at least a second apart, and shared by all who wait for one.

        Raises:
            RuntimeFailed: pods may not be listed there.
            RuntimeUnreachable: the cluster does not answer.
        """
        if time.monotonic() - self._empty.get(name, -_EMPTY_SECONDS) < _EMPTY_SECONDS:
            return View({}, ())
        namespace = self._kept.get(name) or self._opening.setdefault(name, _Namespace(self._cluster, name))
        namespace.used = time.monotonic()
        namespace.users += 1
        try:
            if anew or not namespace.is_current:
                await namespace.refresh()
            elif namespace.pods.refused is not None:
                raise namespace.pods.refused
            if namespace.is_empty and not namespace.watchers and name not in self._lasting:
                self._forget_empty(name)
            elif name not in self._kept:
                self._keep(name, namespace)
            if self._kept.get(name) is namespace:
                namespace.follow()
            return namespace.view()
        finally:
            namespace.users -= 1
            if self._kept.get(name) is namespace:
                self._opening.pop(name, None)
                self._kept.move_to_end(name)
            elif not namespace.users:
                if self._opening.get(name) is namespace:
                    del self._opening[name]
                self._close(namespace)

    @contextlib.asynccontextmanager
    async def on(self, target: Target, told: Told) -> AsyncIterator[None]:
        """Until left, call `told` once, in words, when the target's pod or container has ended, at once if it has.

        Trouble with the API is no end and tells nobody anything.
        """
        name, pod_name = target.namespace or "", target.pod_name or ""
        if name not in self._kept:
            with contextlib.suppress(RuntimeFailed):
                await self.view(name)
        namespace = self._kept.get(name)
        if namespace is None:
            _log.warning("a pod is not watched", namespace=name, pod=pod_name)
            yield
            return
        watcher = _Watcher(target, told)
        namespace.watchers.setdefault(pod_name, []).append(watcher)
        namespace.tell(pod_name)
        try:
            yield
        finally:
            namespace.watchers[pod_name].remove(watcher)
            if not namespace.watchers[pod_name]:
                del namespace.watchers[pod_name]
            namespace.used = time.monotonic()

    def unlisted(self, name: str) -> list[str]:
        """Return the resources of a namespace that a list was refused of, such as "deployments"."""
        namespace = self._kept.get(name)
        if namespace is None:
            return []
        return [WORKLOADS[kind] for kind, kept in namespace.workloads.items() if kept.refused is not None]

    async def close(self) -> None:
        """Stop watching."""
        for namespace in (*self._kept.values(), *self._opening.values()):
            self._close(namespace)
        self._kept.clear()
        self._opening.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _forget_empty(self, name: str) -> None:
        self._kept.pop(name, None)
        self._empty[name] = time.monotonic()
        self._empty.move_to_end(name)
        while len(self._empty) > _EMPTY_LIMIT:
            self._empty.popitem(last=False)

    def _keep(self, name: str, namespace: _Namespace) -> None:
        """Keep a namespace, for the one not asked about for longest if there are too many."""
        while len(self._kept) >= NAMESPACES:
            idle = next((other for other in self._kept if self._may_go(other)), None)
            if idle is None:
                return
            self._close(self._kept.pop(idle))
        self._kept[name] = namespace
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = background(self._sweep(), name="kubernetes namespaces")

    def _may_go(self, name: str) -> bool:
        return name not in self._lasting and not self._kept[name].watchers and not self._kept[name].users

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for name in list(self._kept):
                if self._may_go(name) and time.monotonic() - self._kept[name].used > _IDLE_SECONDS:
                    self._close(self._kept.pop(name))

    def _close(self, namespace: _Namespace) -> None:
        closing = background(namespace.close(), name="close a namespace")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
