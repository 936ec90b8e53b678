"""Say what of a container makes entering it entering its host: privileges, and what its mounts lead to."""

import asyncio
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from bastion.errors import ContainerEnded
from bastion.runtimes.docker.engine import Engine
from bastion.runtimes.host_paths import opens_engine, socket_paths

MAX_MOUNTS: Final = 256
LOOK_SECONDS: Final = 2.0  # for the links of one source: a network's file system that is away would block for ever
_MAX_LOOKS: Final = 64  # sources that are looked at or hang at a time
_SEPARATORS: Final = re.compile("[,:=]")


class Hazards:
    """Judges containers of one engine; `hosts` are the addresses of all the engines that are configured."""

    def __init__(self, engine: Engine, hosts: Iterable[str]) -> None:
        self._engine = engine
        self._sockets = socket_paths(hosts)
        self._looks: dict[str, asyncio.Future[str]] = {}

    async def of(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in words why entering the container with this full description would be entering its host.

        What cannot be looked at counts as a hazard.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        host = details.get("HostConfig") or {}
        hazards = []
        if host.get("Privileged"):
            hazards.append("is privileged")
        if host.get("PidMode") == "host":
            hazards.append("shares the host's pid namespace")
        if (objection := await self._of_mounts(details)) is not None:
            hazards.append(objection)
        return tuple(hazards)

    async def _of_mounts(self, details: Mapping[str, Any]) -> str | None:
        host, mounts = details.get("HostConfig") or {}, details.get("Mounts") or []
        if max(len(mounts), len(host.get("Binds") or []), len(host.get("Mounts") or [])) > MAX_MOUNTS:
            return f"has more than {MAX_MOUNTS} mounts, too many to be looked at"
        sources = dict.fromkeys(_sources(details))
        if any(opens_engine(source, sockets=self._sockets) for source in sources):
            return "mounts the Docker socket"
        try:
            devices = await self._devices([str(mount.get("Name")) for mount in mounts if mount.get("Type") == "volume"])
        except ContainerEnded:  # what a 404 becomes
            return "mounts a volume that could not be looked at"
        bound = [str(mount.get("Source")) for mount in mounts if mount.get("Type") == "bind"]
        try:
            reached = [await self._follow(source) for source in dict.fromkeys((*bound, *devices)) if source[:1] == "/"]
        except TimeoutError:
            return "has a mount whose source could not be looked at"
        if any(opens_engine(path, sockets=self._sockets) for path in (*devices, *reached)):
            return "mounts the Docker socket"
        return None

    async def _devices(self, volumes: Iterable[str]) -> list[str]:
        """Return the paths in the options of volumes: `o=bind,device=/run` is in no description of a container.

        Measured with Docker 20.10: `Mounts` has the volume's own folder as its source
        (tests/runtimes/test_docker.py::test_hazards).
        """
        answers = [await self._engine.ask("inspect_volume", name) for name in dict.fromkeys(volumes)]
        return [path for answer in answers for path in _paths(answer.get("Options"))]

    async def _follow(self, source: str) -> str:
        """Return a source with its links followed, as the kernel does when it mounts; the engine must be on this host.

        In a thread of its own, which may hang; one for each source, however often it is asked about.

        Raises:
            TimeoutError: it takes too long, or too many do.
        """
        if not self._engine.host.startswith("unix://"):
            return source
        look = self._looks.get(source)
        if look is None:
            if len(self._looks) >= _MAX_LOOKS:
                raise TimeoutError
            look = self._looks[source] = asyncio.get_running_loop().create_future()
            look.add_done_callback(lambda _: self._looks.pop(source, None))
            threading.Thread(target=_resolve, args=(source, look), name="mount source", daemon=True).start()
        async with asyncio.timeout(LOOK_SECONDS):
            return await asyncio.shield(look)


def _resolve(source: str, look: asyncio.Future[str]) -> None:
    try:
        path = os.path.realpath(source)
    except (OSError, ValueError):  # a name that no kernel takes
        path = "/"

    def answer() -> None:
        if not look.done():
            look.set_result(path)

    try:
        look.get_loop().call_soon_threadsafe(answer)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return


def _sources(details: Mapping[str, Any]) -> Iterator[str]:
    """Give each path of the host that the description of a container names as the source of a mount."""
    host = details.get("HostConfig") or {}
    for mount in details.get("Mounts") or []:
        yield str(mount.get("Source", ""))
    for bind in host.get("Binds") or []:
        yield str(bind).split(":", 1)[0]
    for mount in host.get("Mounts") or []:
        yield str(mount.get("Source", ""))
        yield from _paths(((mount.get("VolumeOptions") or {}).get("DriverConfig") or {}).get("Options"))


def _paths(options: object) -> Iterator[str]:
    """Give each absolute path in the options of a volume, such as those of `device` or an overlay's `lowerdir`."""
    for value in options.values() if isinstance(options, dict) else ():
        yield from (part for part in _SEPARATORS.split(str(value)) if part.startswith("/"))
