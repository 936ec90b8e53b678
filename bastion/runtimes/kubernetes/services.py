"""List what runs in a whole cluster, from metadata alone, for those bastions that may ask for it."""

import asyncio
import functools
import time
from collections.abc import Mapping
from typing import Any, Final

from bastion.runtimes.kubernetes.cache import WORKLOADS
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path
from bastion.runtimes.kubernetes.pods import NAME, Workload, owner, read_workload
from bastion.runtimes.kubernetes.targets import Names
from bastion.runtimes.kubernetes.watch import METADATA, list_pages

_AGE: Final = 10.0  # seconds
_LIMIT: Final = 5000  # services
_FORBIDDEN: Final = 403

Services = set[tuple[str, str]]  # (namespace, canonical name)


class Census:
    """The services of every namespace of a cluster, counted at most every 10 s."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._counting = asyncio.Lock()
        self._counted = -_AGE
        self._found: Services | None = None

    async def services(self) -> Services | None:
        """Return at most 5,000 services of all namespaces; None when the bastion may not list over all of them.

        Raises:
            Answered: the cluster failed.
            RuntimeUnreachable: the cluster does not answer.
        """
        async with self._counting:
            if time.monotonic() - self._counted > _AGE:
                try:
                    self._found = await self._count()
                except Answered as answered:
                    if answered.status != _FORBIDDEN:
                        raise
                    self._found = None
                self._counted = time.monotonic()
            return self._found

    async def _count(self) -> Services:
        pods: set[tuple[str, str, tuple[str, str] | None]] = set()
        workloads: dict[str, list[Workload]] = {}

        def take_pod(entry: Mapping[str, Any]) -> None:
            metadata = entry.get("metadata")
            if isinstance(metadata, dict) and not metadata.get("deletionTimestamp"):
                controller = owner(metadata)
                name = controller[1] if controller is not None else metadata.get("name")
                pods.add((str(metadata.get("namespace")), str(name), controller))

        def take_workload(kind: str, entry: Mapping[str, Any]) -> None:
            workload = read_workload(kind, entry)
            if workload is not None:
                workloads.setdefault(str(entry["metadata"].get("namespace")), []).append(workload)

        accept = METADATA.format("List")
        running = {"fieldSelector": "status.phase=Running"}
        await list_pages(self._cluster, path("pods"), running, take_pod, accept=accept)
        for kind, plural in WORKLOADS.items():
            take = functools.partial(take_workload, kind)
            await list_pages(self._cluster, path(plural, api="apis/apps/v1"), {}, take, accept=accept)
        names = {namespace: Names(found) for namespace, found in workloads.items()}
        known = {
            (namespace, found.kind, found.name): found for namespace in workloads for found in workloads[namespace]
        }
        services: Services = set()
        for namespace, name, controller in sorted(pods, key=lambda pod: pod[:2]):
            workload = known.get((namespace, *controller)) if controller is not None else None
            services.add((namespace, names[namespace].service(workload) if workload is not None else name))
            if len(services) >= _LIMIT:
                break
        return {found for found in services if all(NAME.fullmatch(part) for part in found)}
