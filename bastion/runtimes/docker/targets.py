"""Read what the engine says of a container: which service of which stack it is."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bastion.grammar import NAME_PART
from bastion.model import Target

_NAME: Final = re.compile(NAME_PART)
_SWARM_SERVICE: Final = "com.docker.swarm.service.name"
_SWARM_TASK: Final = "com.docker.swarm.task.name"  # SERVICE.SLOT.ID, and SERVICE.NODE.ID of a global service
_LABELS: Final = (
    ("bastion.stack", "bastion.service"),
    ("com.docker.compose.project", "com.docker.compose.service"),
    ("com.docker.stack.namespace", _SWARM_SERVICE),
)
_COMPOSE_NUMBER: Final = "com.docker.compose.container-number"
_COMPOSE_ONE_OFF: Final = "com.docker.compose.oneoff"  # "True" for a container of `docker compose run`
_OWN_STACK: Final = "docker"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_PAUSED_PREFERENCE: Final = 3
_HEALTH_PREFERENCE: Final = {"starting": 1, "unhealthy": 2}
_STATUS: Final = re.compile(r"(?:Exited|Restarting) \((\d{1,3})\) ([\w ]{1,40} ago)", re.ASCII)

TOOLBOX: Final = "bastion.toolbox"  # the label of a toolbox, with the id of the container that it is beside


class Place(NamedTuple):
    """One container, and which service of which stack it is.

    `number` is the replica's by Compose or Swarm, `is_one_off` whether `docker compose run` made the container beside
    the replicas, and `created` the seconds since the epoch.
    """

    stack: str
    service: str
    container_name: str
    container_id: str
    number: int | None
    is_one_off: bool
    created: float


def place(entry: Mapping[str, Any]) -> Place | None:
    """Return the place of one container of the engine's list; None when its names are none.

    A toolbox has none either, whatever other labels its image brought along.
    """
    name = None if is_toolbox(entry) else _container_name(entry.get("Names"))
    labels = entry.get("Labels") or {}
    where = _stack_and_service(labels, name) if name else None
    if name is None or where is None:
        return None
    created = entry.get("Created")
    return Place(
        *where,
        name,
        str(entry["Id"]),
        number=_number(labels),
        is_one_off=labels.get(_COMPOSE_ONE_OFF) == "True",
        created=float(created) if isinstance(created, int | float) else 0.0,
    )


def runs(entry: Mapping[str, Any]) -> bool:
    """Say whether one container of the engine's list runs; a paused one does, one in a restart loop does not."""
    return entry.get("State") in ("running", "paused")


def describe_stopped(entry: Mapping[str, Any]) -> str:
    """Say in words how a container of the engine's list that does not run is: `is stopped (exited 1, 2 hours ago)`."""
    match = _STATUS.match(str(entry.get("Status")))
    details = f" (exited {match[1]}, {match[2]})" if match else ""
    state = {
        "created": "was created and has never been started",
        "restarting": "is in a restart loop",
        "removing": "is being removed",
    }.get(str(entry.get("State")), "is stopped")
    return state + details


def _number(labels: Mapping[str, str]) -> int | None:
    """Return the replica's number: Compose's own, or the slot in the name of Swarm's task."""
    text = labels.get(_COMPOSE_NUMBER)
    if text is None:
        service = labels.get(_SWARM_SERVICE, "")
        text = labels.get(_SWARM_TASK, "").removeprefix(f"{service}.").partition(".")[0]
    return int(text) if _NUMBER.fullmatch(text) else None


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
    else:  # a Swarm service that was created without a stack is one of the stack `docker`
        stack, service = _OWN_STACK, (labels or {}).get(_SWARM_SERVICE) or name
    return (stack, service) if _NAME.fullmatch(stack) and _NAME.fullmatch(service) else None


def target(runtime: str, where: Place, details: Mapping[str, Any], hazards: tuple[str, ...]) -> Target:
    """Make the target of one container from the engine's full description of it, and what speaks against entering."""
    return Target(
        runtime=runtime,
        stack=where.stack,
        service=where.service,
        container_id=str(details["Id"]),
        container_name=where.container_name,
        image=str((details.get("Config") or {}).get("Image", "")),
        image_digest=str(details.get("Image", "")),
        hazards=hazards,
        containers=(where.container_name,),
        created=where.created,
        number=None if where.is_one_off else where.number,
        preference=_preference(details.get("State") or {}),
    )


def _preference(state: Mapping[str, Any]) -> int:
    """Rank a container for a name without a replica's number; `Target.preference` has the ranks."""
    if state.get("Paused"):
        return _PAUSED_PREFERENCE
    health = (state.get("Health") or {}).get("Status")
    return _HEALTH_PREFERENCE.get(str(health), 0)
