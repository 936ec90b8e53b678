"""From names to targets: which workloads a name means, which of their pods may be entered, and by which container."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bastion.errors import NoSuchTarget
from bastion.model import Target
from bastion.runtimes.kubernetes.pods import Container, Pod, Workload

SHOWN: Final = 20  # pods listed in a hint
_ORDINAL: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SUFFIXES: Final = ("-deployment", "-statefulset")


@dataclass(frozen=True, slots=True)
class View:
    """What a namespace holds: its pods by name, and its workloads.

    `unlisted` are the kinds of workloads that the bastion may not list: what owns a pod is then taken from the pod.
    """

    pods: Mapping[str, Pod]
    workloads: Collection[Workload]
    unlisted: frozenset[str] = frozenset()

    def known(self) -> dict[tuple[str, str], Workload]:
        """Return the workloads by kind and name, with those that only their pods tell of."""
        found = {(workload.kind, workload.name): workload for workload in self.workloads}
        for pod in self.pods.values() if self.unlisted else ():
            if pod.owner is not None and pod.owner[0] in self.unlisted:
                found.setdefault(pod.owner, Workload(*pod.owner, ()))
        return found


class Names:
    """The names that workloads can be asked for by, in levels: the name, less its suffix, labels. The first wins."""

    def __init__(self, workloads: Iterable[Workload]) -> None:
        self._levels: tuple[dict[str, list[Workload]], ...] = ({}, {}, {})
        for workload in workloads:
            for level, names in zip(
                self._levels, ([workload.name], [_short(workload.name)], workload.labels), strict=True
            ):
                for name in names:
                    level.setdefault(name, []).append(workload)

    def meant(self, name: str) -> list[Workload]:
        """Return the workloads that a name means."""
        return next((level[name] for level in self._levels if name in level), [])

    def service(self, workload: Workload) -> str:
        """Return a workload's canonical name."""
        short = _short(workload.name)
        return short if short not in self._levels[0] else workload.name

    def aliases(self, workload: Workload) -> tuple[str, ...]:
        """Return the other names that mean a workload; what means another first is none of its."""
        names = dict.fromkeys((workload.name, _short(workload.name), *workload.labels))
        return tuple(name for name in names if name != self.service(workload) and workload in self.meant(name))


def find(view: View, service: str, container: str | None, *, runtime: str, stack: str, namespace: str) -> list[Target]:
    """Return a target for each ready pod of a service, sorted by name, or for the pod of exactly that name.

    Raises:
        NoSuchTarget: there is such a service or pod, but nothing of it can be entered.
    """
    known = view.known()
    names = Names(known.values())
    owners = {(workload.kind, workload.name) for workload in names.meant(service)}
    make = _Maker(runtime, stack, namespace, names, known, service)
    if owners:
        mine = sorted((pod for pod in view.pods.values() if pod.owner in owners), key=lambda pod: pod.name)
        ready = [pod for pod in mine if pod.is_ready and not pod.over]
        if not ready:
            raise NoSuchTarget(f"no pod of {service}@{stack} is ready", _enterable(mine, stack))
        return [target for pod in ready if (target := make.target(pod, container)) is not None]
    pod = view.pods.get(service)
    if pod is None:
        return []
    target = None if pod.over else make.target(pod, container)
    if target is None and container is None:
        raise NoSuchTarget(f"the pod {service} cannot be entered: it is {_as_state(pod)}", _running(pod, stack))
    return [target] if target is not None else []


def services(view: View) -> set[str]:
    """Return the canonical names of all that runs in a namespace: workloads with a pod that runs, and bare pods."""
    known = view.known()
    names = Names(known.values())
    found = set()
    for pod in view.pods.values():
        if not pod.over and any(container.is_running for container in pod.containers):
            workload = known.get(pod.owner) if pod.owner is not None else None
            found.add(names.service(workload) if workload is not None else pod.name)
    return found


def difference(target: Target, pod: Pod | None) -> str:
    """Say in words how a target has ended, given what is known of the pod of its name now; "" while it has not."""
    uid, _, container_id = target.container_id.partition("/")
    if pod is None:
        return "was deleted"
    if pod.uid != uid:
        return "was deleted, and another pod has its name"
    return pod.over or _container_difference(container_id, pod.container(target.container_name))


def is_gone(container_id: str, container: str, pod: Pod | None) -> bool:
    """Say whether nothing runs any more of what was in a container, given what is known of the pod of its name now.

    `container_id` is as in a Target, or `UID/` for any container of that name. A pod that is being deleted or has lost
    its node may run on.
    """
    uid, _, number = container_id.partition("/")
    if pod is None or pod.uid != uid or pod.phase in ("Failed", "Succeeded"):
        return True
    found = pod.container(container)
    if found is None or not found.container_id:
        return False
    if not number:
        return bool(found.ended) and not found.is_running
    return found.container_id != number or (bool(found.ended) and found.ended_id == number)


def _container_difference(container_id: str, container: Container | None) -> str:
    if container is None or not container.container_id:  # not known yet, or not any more for a moment
        return ""
    if container.ended and container.ended_id == container_id:
        return container.ended
    if container.container_id != container_id:
        return "restarted"
    return "" if container.is_running or not container.waits_for else "ended"


@dataclass(frozen=True, slots=True)
class _Maker:
    runtime: str
    stack: str
    namespace: str
    names: Names
    known: Mapping[tuple[str, str], Workload]
    asked: str

    def target(self, pod: Pod, wanted: str | None) -> Target | None:
        """Make the target of a pod; None when the container wanted, or the one that is entered, does not run."""
        workload = self.known.get(pod.owner) if pod.owner is not None else None
        service = self.names.service(workload) if workload is not None else pod.name
        container = pod.container(wanted) if wanted is not None else default(pod, (service, self.asked))
        if container is None or not container.is_running:
            return None
        return Target(
            runtime=self.runtime,
            stack=self.stack,
            service=service,
            container_id=f"{pod.uid}/{container.container_id}",
            container_name=container.name,
            image=container.image,
            image_digest=container.image_digest,
            namespace=self.namespace,
            deployment_name=workload.name if workload is not None else None,
            pod_name=pod.name,
            hazards=container.hazards,
            aliases=self.names.aliases(workload) if workload is not None else (),
            containers=tuple(found.name for found in pod.containers if found.is_running),
            created=pod.created,
            number=_ordinal(pod),
        )


def default(pod: Pod, services: Iterable[str]) -> Container | None:
    """Return the container that is entered when none is named: named like the service, by annotation, or the first."""
    regular = [container for container in pod.containers if container.is_regular]
    for name in (*services, pod.default_container):
        for container in regular:
            if container.name == name:
                return container
    return regular[0] if regular else None


def _ordinal(pod: Pod) -> int | None:
    """Return the N of a StatefulSet's pod `NAME-N`; pods of other workloads have no numbers."""
    if pod.owner is None or pod.owner[0] != "StatefulSet":
        return None
    match = _ORDINAL.fullmatch(pod.name.removeprefix(f"{pod.owner[1]}-"))
    return int(match[0]) if match else None


def _short(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def _enterable(pods: list[Pod], stack: str) -> str:
    """List pods with their state; those whose name can be asked for come first."""
    if not pods:
        return "it has no pods; kubectl describe says why"
    pods = sorted(pods, key=lambda pod: bool(pod.over))
    shown = [f"{pod.name} ({pod.state})" for pod in pods[:SHOWN]]
    more = f" and {len(pods) - SHOWN} more" if len(pods) > SHOWN else ""
    open_ = next((pod for pod in pods if not pod.over and any(found.is_running for found in pod.containers)), None)
    lead = f"enter one all the same by its name, such as {open_.name}@{stack}; " if open_ is not None else ""
    return f"{lead}its pods: {', '.join(shown)}{more}"


def _as_state(pod: Pod) -> str:
    return {"ready": "not running", "is being deleted": "being deleted"}.get(pod.state, pod.state)


def _running(pod: Pod, stack: str) -> str:
    names = [container.name for container in pod.containers if container.is_running and not pod.over]
    return (
        f"its containers that run: {', '.join(f'{pod.name}+{name}@{stack}' for name in names[:SHOWN])}"
        if names
        else (f"kubectl describe pod {pod.name} says why")
    )
