"""Read what the engine says of a container: which service of which stack it is, and what makes it unsafe to enter."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bastion.model import Target
from bastion.runtimes.host_paths import opens_engine

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_LABELS: Final = (
    ("bastion.stack", "bastion.service"),
    ("com.docker.compose.project", "com.docker.compose.service"),
    ("com.docker.stack.namespace", "com.docker.swarm.service.name"),
)
_OWN_STACK: Final = "docker"

TOOLBOX: Final = "bastion.toolbox"  # the label of a toolbox, with the id of the container that it is beside


class Place(NamedTuple):
    """One container that runs, and which service of which stack it is."""

    stack: str
    service: str
    container_name: str
    container_id: str


def place(entry: Mapping[str, Any]) -> Place | None:
    """Return the place of one container of the engine's list; None when it does not run or its names are none.

    A toolbox has none either, whatever other labels its image brought along.
    """
    name = None if is_toolbox(entry) else _container_name(entry.get("Names"))
    where = _stack_and_service(entry.get("Labels"), name) if name else None
    if name is None or where is None or entry.get("State") not in ("running", "paused"):
        return None
    return Place(*where, name, str(entry["Id"]))


def is_toolbox(entry: Mapping[str, Any]) -> bool:
    """Say whether one container of the engine's list is a toolbox, of whatever bastion."""
    return TOOLBOX in (entry.get("Labels") or {})


def _container_name(names: object) -> str | None:
    """Return the container's own name of those the engine lists (the others are links, with a second slash)."""
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and _NAME.fullmatch(name.removeprefix("/")):
            return name.removeprefix("/")
    return None


def _stack_and_service(labels: Mapping[str, str] | None, name: str) -> tuple[str, str] | None:
    """Return what the first pair of labels there is says, or ("docker", name); None if they are no names."""
    for stack_label, service_label in _LABELS:
        stack, service = (labels or {}).get(stack_label), (labels or {}).get(service_label)
        if stack is not None and service is not None:
            if stack_label == "com.docker.stack.namespace":
                service = service.removeprefix(f"{stack}_")
            break
    else:
        stack, service = _OWN_STACK, name
    return (stack, service) if _NAME.fullmatch(stack) and _NAME.fullmatch(service) else None


def target(runtime: str, where: Place, details: Mapping[str, Any]) -> Target:
    """Make the target of one container from the engine's full description of it."""
    return Target(
        runtime=runtime,
        stack=where.stack,
        service=where.service,
        container_id=str(details["Id"]),
        container_name=where.container_name,
        image=str((details.get("Config") or {}).get("Image", "")),
        image_digest=str(details.get("Image", "")),
        hazards=hazards(details),
        containers=(where.container_name,),
    )


def hazards(details: Mapping[str, Any]) -> tuple[str, ...]:
    """Say why entering the container would be entering its host."""
    host = details.get("HostConfig") or {}
    found = []
    if host.get("Privileged"):
        found.append("is privileged")
    if host.get("PidMode") == "host":
        found.append("shares the host's pid namespace")
    sources = [str(mount.get("Source", "")) for mount in details.get("Mounts") or []]
    sources += [str(bind).split(":", 1)[0] for bind in host.get("Binds") or []]
    if any(opens_engine(source) for source in sources):
        found.append("mounts the Docker socket")
    return tuple(found)
