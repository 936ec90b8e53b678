"""Put an ephemeral container with a shell beside one that has none: made once for a pod, and used again."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bastion.errors import ContainerEnded, RuntimeFailed
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path, refusal
from bastion.runtimes.kubernetes.stream import Place

_STRATEGIC: Final = "application/strategic-merge-patch+json"
_STAY: Final = ("sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait $!; done")
_SECONDS: Final = 60.0  # that an image may take to come and to start
_POLL: Final = 0.25
_TRIES: Final = 20  # ephemeral containers of a pod that have ended; none of them can be removed or started again
_PULLING: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_FAILED: Final = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_KEPT: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile")
_MESSAGE_LIMIT: Final = 300


class Beside(NamedTuple):
    """A toolbox that runs: its container's name, and whether the first process it sees is its target's own."""

    name: str
    is_first: bool


class Toolbox:
    """An image with a shell, for the pods of a stack whose containers have none."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._image = image

    async def beside(self, place: Place, container_id: str) -> Beside:
        """Return a toolbox that runs in the pod and sees the processes of the place's container.

        It is made when there is none for this container and image yet. It gets no rights that the container has not,
        and runs as the container's user, who alone, but for SYS_PTRACE, opens its files under /proc.

        Raises:
            ContainerEnded: the pod is gone.
            RuntimeFailed: the bastion may not make one, its image cannot be had, or it did not start within 60 s.
        """
        digest = hashlib.sha256(f"{container_id} {place.container} {self._image}".encode()).hexdigest()[:6]
        base = f"bastion-toolbox-{digest}"
        where = ("namespaces", place.namespace, "pods", place.pod)
        try:
            async with asyncio.timeout(_SECONDS):
                name = await self._chosen(where, place, base)
                while not self._runs(pod := await self._get(where, place), name):
                    if _state(pod, name).get("terminated"):
                        raise self._failed(place, f"it ended at once: {_state(pod, name)['terminated']}")
                    await asyncio.sleep(_POLL)
                return Beside(name, is_first=_dict(pod.get("spec")).get("shareProcessNamespace") is not True)
        except TimeoutError as error:
            raise self._failed(place, f"it did not start in {_SECONDS:.0f} s") from error

    async def _chosen(self, where: tuple[str, ...], place: Place, base: str) -> str:
        """Return the name of one that runs or is starting, having made it when there is none."""
        for _ in range(_TRIES):
            pod = await self._get(where, place)
            names = [f"{base}-{number}" if number else base for number in range(_TRIES)]
            there = {str(entry.get("name")) for entry in _ephemeral(pod)}
            name = next((name for name in names if not _state(pod, name).get("terminated")), None)
            if name is None:
                break
            if name in there or await self._made(where, place, pod, name):
                return name
        raise self._failed(place, "too many toolboxes have ended in this pod")

    async def _made(self, where: tuple[str, ...], place: Place, pod: Mapping[str, Any], name: str) -> bool:
        """Add the container; False when somebody else changed the pod at the same moment."""
        body = {"spec": {"ephemeralContainers": [self._container(place, pod, name)]}}
        try:
            await self._cluster.patch(path(*where, "ephemeralcontainers"), body, _STRATEGIC)
        except Answered as answered:
            if answered.status == 409:  # noqa: PLR2004 - HTTP's own numbers
                return False
            if answered.status == 422:  # noqa: PLR2004 - one of that name is there now, or the policy of the cluster says no
                there = {str(entry.get("name")) for entry in _ephemeral(await self._get(where, place))}
                if name in there:
                    return True
            raise refusal(
                answered, f"patch pods/ephemeralcontainers, for a toolbox, in the namespace {place.namespace}"
            ) from answered
        return True

    def _container(self, place: Place, pod: Mapping[str, Any], name: str) -> dict[str, Any]:
        spec = _dict(pod.get("spec"))
        entries = [*_dicts(spec.get("containers")), *_dicts(spec.get("initContainers"))]
        target = next((entry for entry in entries if entry.get("name") == place.container), {})
        own = _dict(target.get("securityContext"))
        context: dict[str, Any] = {key: own[key] for key in _KEPT if key in own}
        context["allowPrivilegeEscalation"] = False
        if dropped := _dict(own.get("capabilities")).get("drop"):
            context["capabilities"] = {"drop": dropped}
        return {
            "name": name,
            "image": self._image,
            "command": list(_STAY),
            "targetContainerName": place.container,
            "stdin": False,
            "tty": False,
            "imagePullPolicy": "IfNotPresent",
            "terminationMessagePolicy": "File",
            "securityContext": context,
        }

    async def _get(self, where: tuple[str, ...], place: Place) -> Mapping[str, Any]:
        try:
            return await self._cluster.get(path(*where))
        except Answered as answered:
            if answered.status == 404:  # noqa: PLR2004 - HTTP's own numbers
                raise ContainerEnded(
                    f"the pod {place.pod} is gone", "connect again when its service is back"
                ) from answered
            raise refusal(answered, f"get pods in the namespace {place.namespace}") from answered

    def _runs(self, pod: Mapping[str, Any], name: str) -> bool:
        state = _state(pod, name)
        waiting = state.get("waiting")
        reason = waiting.get("reason") if isinstance(waiting, dict) else None
        if isinstance(waiting, dict) and reason in _PULLING + _FAILED:
            words = ascii(str(waiting.get("message") or reason)[:_MESSAGE_LIMIT])[1:-1]
            raise RuntimeFailed(
                f"the toolbox image {self._image} cannot be used: {reason}",
                "is the name right, and may the node pull it?",
                detail=words,
            )
        return bool(state.get("running"))

    def _failed(self, place: Place, detail: str) -> RuntimeFailed:
        return RuntimeFailed(
            f"no toolbox could be started in the pod {place.pod}",
            f"does {self._image} have sh and sleep, and does the cluster allow ephemeral containers?",
            detail=ascii(detail)[1:-1],
        )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _ephemeral(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _dicts(_dict(pod.get("spec")).get("ephemeralContainers"))


def _state(pod: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for entry in _dicts(_dict(pod.get("status")).get("ephemeralContainerStatuses")):
        if entry.get("name") == name:
            return _dict(entry.get("state"))
    return {}
