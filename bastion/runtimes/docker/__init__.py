"""The Docker runtime: names become containers, requests become execs, and nothing is left behind."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Final

from bastion.errors import ContainerEnded, NoSuchTarget, RuntimeFailed
from bastion.model import Request, Target
from bastion.runtimes import Exec
from bastion.runtimes.dialling import ExecConnection, by_exec
from bastion.runtimes.docker import targets
from bastion.runtimes.docker.archive import Archives, DockerArchive
from bastion.runtimes.docker.engine import Engine
from bastion.runtimes.docker.exec import PAUSE_SECONDS
from bastion.runtimes.docker.hazards import Hazards
from bastion.runtimes.docker.programs import Programs
from bastion.runtimes.docker.toolbox import Toolboxes, missing
from bastion.runtimes.docker.watch import Watch
from bastion.runtimes.duties import Duty, DutyRecord, Reaped, Unrecorded

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_IDLE: Final = 120.0  # seconds that a toolbox waits for its next session


class DockerRuntime:
    """A Docker Engine, 20.10 or later, at unix:///PATH or tcp://HOST:PORT.

    `toolboxes` are the stacks' images for containers without a shell, kept for `toolbox_idle` seconds without sessions;
    `archives` are the stacks whose files may be had by the engine's archive API; `duties` records what is to be ended;
    sessions of a container that is paused end after `pause_timeout` seconds;
    `hosts` are the addresses of all the engines that are configured, whose sockets no container may mount unasked.

    Raises:
        ConfigurationError: the address is of another kind.
    """

    def __init__(
        self,
        host: str,
        *,
        name: str = "docker",
        toolboxes: Mapping[str, str] = _NONE,
        toolbox_idle: float = _IDLE,
        archives: Collection[str] = (),
        pause_timeout: float = PAUSE_SECONDS,
        hosts: Collection[str] = (),
        duties: DutyRecord | None = None,
    ) -> None:
        self.name = name
        duties = duties or Unrecorded()
        self._with_archive = frozenset(archives)
        self._archives: Archives | None = None
        self._images = dict(toolboxes)
        self._engine = Engine(host)
        self._hazards = Hazards(self._engine, (host, *hosts))
        self._watch = Watch(self._engine.endpoint, self._running, duties.retry_now)
        self._toolboxes = Toolboxes(self._engine, toolbox_idle)
        self._programs = Programs(
            self._engine,
            self._watch,
            self._toolboxes,
            self._images,
            runtime=name,
            duties=duties,
            pause_seconds=pause_timeout,
        )
        self._looked = False

    async def services(self) -> list[tuple[str, str]]:
        """List (stack, service) of everything that runs; see the port."""
        return sorted({(entry.stack, entry.service) for entry in await self._list() if not entry.is_one_off})

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        """List the running containers of a service, or the one with that name; see the port.

        A container holds no others, so only its own name may be its `container`. One-off containers of
        `docker compose run` are no replicas: they are entered by their own names.
        """
        candidates = _of_name(await self._list(), stack, service)
        if not candidates:
            await self._refuse_stopped(stack, service)
        chosen = [entry for entry in candidates if container in (None, entry.container_name)]
        found = await asyncio.gather(*map(self._target, chosen))
        return sorted(filter(None, found), key=lambda target: target.container_name)

    def exec(self, target: Target, request: Request) -> AbstractAsyncContextManager[Exec]:
        """Run the request's shell or command; see the port."""
        return self._programs.exec(target, request)

    async def reap(self, duty: Duty) -> Reaped:
        """End what a session left; see the port."""
        return await self._programs.reap(duty)

    @asynccontextmanager
    async def dial(self, target: Target, host: str, port: int) -> AsyncIterator[ExecConnection]:
        """Connect by a helper of the image's own, or of a toolbox's; see the port."""
        async with by_exec(self.exec, target, host, port) as connection:
            yield connection

    def archive(self, target: Target) -> DockerArchive | None:
        """Return the target's files by the engine's archive API, where its stack says so; see the port."""
        if target.stack not in self._with_archive:
            return None
        if self._archives is None:
            self._archives = Archives(self._engine, self._watch)
        return self._archives.of(target)

    async def faults(self) -> list[RuntimeFailed]:
        """Name the toolbox images that are not there; see the port."""
        found = []
        for stack, image in sorted(self._images.items()):
            try:
                await self._engine.ask("inspect_image", image)
            except ContainerEnded as error:  # what a 404 becomes
                found.append(missing(image, stack, error.detail))
        return found

    async def ping(self) -> str:
        """Return the engine's name and versions; see the port."""
        version = await self._engine.ask("version")
        return f"Docker Engine {version.get('Version')} (API {version.get('ApiVersion')}) at {self._engine.host}"

    async def close(self) -> None:
        """Wait for what is being ended, remove the toolboxes, and let go of every connection."""
        await self._programs.close()
        await self._toolboxes.close()
        await self._watch.close()
        if self._archives is not None:
            await self._archives.close()
        self._engine.close()

    async def _target(self, entry: targets.Place) -> Target | None:
        """Return the target of a container of the engine's list; None when it has ended since."""
        try:
            details = await self._engine.ask("inspect_container", entry.container_id)
        except ContainerEnded:
            return None
        return targets.target(self.name, entry, details, await self._hazards.of(details))

    async def _list(self) -> list[targets.Place]:
        """List what runs; what has names outside the grammar is left out."""
        if not self._looked:
            left = await self._engine.ask("containers", all=True, filters={"label": targets.TOOLBOX})
            self._toolboxes.adopt(left)
            self._looked = True
        entries = await self._engine.ask("containers")
        self._toolboxes.adopt(entries)
        places = [targets.place(entry) for entry in entries if targets.runs(entry)]
        return [place for place in places if place is not None]

    async def _refuse_stopped(self, stack: str, service: str) -> None:
        """Raise NoSuchTarget when containers of that name are there and none of them runs; the newest is described."""
        entries = {str(entry["Id"]): entry for entry in await self._engine.ask("containers", all=True)}
        places = [place for place in map(targets.place, entries.values()) if place is not None]
        if stopped := _of_name(places, stack, service):
            newest = max(stopped, key=lambda entry: entry.created)
            raise NoSuchTarget(
                f"{service}@{stack} {targets.describe_stopped(entries[newest.container_id])}",
                f"its log says why: ask whoever runs {stack}",
            )

    async def _running(self) -> set[str]:
        return {str(entry["Id"]) for entry in await self._engine.ask("containers")}


def _of_name(places: Sequence[targets.Place], stack: str, service: str) -> list[targets.Place]:
    """Return the replicas of a service of the stack, or else the container of exactly that name."""
    here = [entry for entry in places if entry.stack == stack]
    replicas = [entry for entry in here if entry.service == service and not entry.is_one_off]
    return replicas or [entry for entry in here if entry.container_name == service]
