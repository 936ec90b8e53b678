"""Put a container with a shell beside one that has none: made once, shared by its sessions, removed after them."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import structlog

from bastion.errors import ContainerEnded, NoShell, RuntimeFailed
from bastion.model import Target
from bastion.runtimes import beside
from bastion.runtimes.docker.engine import CONFLICT, GONE, Engine, running, status
from bastion.runtimes.docker.targets import TOOLBOX, is_toolbox
from bastion.tasks import background

NOBODY: Final = "65534:65534"

_STAY: Final = ("-c", "trap exit TERM; while :; do sleep 3600 & wait $!; done")
_SECONDS: Final = 60.0  # that one may take to come and to start
_POLL: Final = 0.1
_TRIES: Final = 20  # another bastion may make or remove the same one at the same moment
_MEMORY: Final = 512 * 1024 * 1024
_PROCESSES: Final = 512
_OWN_PROCESSES: Final = ("", "private")  # a pid namespace whose first process is the container's own
_KEPT: Final = ("CapAdd", "CapDrop", "CgroupParent", "CpuPeriod", "CpuQuota", "CpuShares", "CpusetCpus", "NanoCpus")
_KEPT_TOO: Final = ("Runtime", "UsernsMode")
_NO_NEW_PRIVILEGES: Final = "no-new-privileges"
_ROOT: Final = ("", "0", "root")

_log = structlog.get_logger(__name__)


class Toolbox(NamedTuple):
    """One that runs: its container, the shell it has, and the user that its target's first process is, by number."""

    container_id: str
    shell: str
    user: str


class Toolboxes:
    """The toolboxes on one engine; one without sessions for `idle` seconds is removed, and found again until then.

    Several bastions share them: what runs in one, whoever started it, keeps it.
    """

    def __init__(self, engine: Engine, idle: float) -> None:
        self._engine = engine
        self._idle = idle
        self._sessions: Counter[str] = Counter()
        self._used: set[str] = set()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def beside(self, target: Target, image: str) -> AsyncIterator[Toolbox]:
        """Until left, there is a toolbox that sees the processes of the target; it is made when there is none yet.

        It has the target's processes and network, and no more capabilities than the target; its own files are an
        image's that must be there already.

        Raises:
            ContainerEnded: the target is gone, stopped or paused.
            NoShell: the target shares its processes with others, or the image has no shell.
            RuntimeFailed: the image is not there, or the toolbox did not start within 60 s.
        """
        name = f"bastion-toolbox-{hashlib.sha256(f'{target.container_id} {image}'.encode()).hexdigest()[:16]}"
        self._sessions[name] += 1
        try:
            try:
                async with asyncio.timeout(_SECONDS), self._lock(name):
                    found = await self._started(name, target, image)
            except TimeoutError as error:
                raise self._failed(target, image, f"it did not start in {_SECONDS:.0f} s") from error
            finally:
                self._keep(name)
            yield found
        finally:
            self._used.add(name)
            self._sessions[name] -= 1

    def adopt(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Look after the toolboxes in the engine's list of containers, such as a bastion before this one left."""
        for entry in entries:
            if is_toolbox(entry) and (names := entry.get("Names")):
                self._keep(str(names[0]).removeprefix("/"))

    async def close(self) -> None:
        """Remove those in which nothing runs."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for name in self._keepers:
            try:
                await self._removed(name)
            except RuntimeFailed as error:
                _log.info("a toolbox is left", container=name, error=error.detail or error.public)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._making.setdefault(name, asyncio.Lock())

    def _keep(self, name: str) -> None:
        if name not in self._keepers or self._keepers[name].done():
            self._keepers[name] = background(self._watch(name), name=f"keep {name}")

    async def _watch(self, name: str) -> None:
        """Remove it when it had no session from one look to the next; end when it is gone."""
        while True:
            self._used.discard(name)
            await asyncio.sleep(self._idle)
            async with self._lock(name):
                if self._sessions[name] or name in self._used:
                    continue
                try:
                    if await self._removed(name):
                        break
                except RuntimeFailed as error:
                    _log.info("a toolbox is not removed yet", container=name, error=error.detail or error.public)
        del self._keepers[name]
        if self._sessions[name]:  # one that began meanwhile makes it anew
            self._keep(name)
        else:
            del self._sessions[name]

    async def _removed(self, name: str) -> bool:
        """Remove it unless something runs in it; say whether it is gone."""
        details = await self._inspect(name)
        if details is None or TOOLBOX not in _labels(details):
            return True
        for exec_id in details.get("ExecIDs") or []:
            try:
                if (await self._engine.ask("exec_inspect", exec_id)).get("Running"):
                    return False
            except ContainerEnded:
                continue
        await self._remove(name)
        return True

    async def _remove(self, name: str) -> None:
        try:
            await self._engine.ask("remove_container", name, force=True, v=True)
        except ContainerEnded as error:
            for _ in range(_TRIES):  # it ends by our doing, and then the engine is the first to remove it
                if status(error) == GONE or await self._inspect(name) is None:
                    return
                await asyncio.sleep(_POLL)
            raise

    async def _started(self, name: str, target: Target, image: str) -> Toolbox:
        for _ in range(_TRIES):
            described = await running(self._engine, target)
            _refuse_shared(target, described)
            details = await self._inspect(name)
            if details is None:
                await self._make(name, target, image, described)
            elif not _is_ours(details, target, image):
                raise self._failed(target, image, f"{name} is another container")
            elif (details.get("State") or {}).get("Running"):
                if (found := await self._met(str(details["Id"]), target)) is not None:
                    return found
            elif (details.get("State") or {}).get("Status") == "created":
                await self._start(name, target, image)
                continue
            else:
                await self._remove(name)
            await asyncio.sleep(_POLL if details else 0)
        raise self._failed(target, image, "it ends again and again")

    async def _make(self, name: str, target: Target, image: str, described: Mapping[str, Any]) -> None:
        try:
            await self._engine.ask("create_container_from_config", _configuration(target, image, described), name)
        except RuntimeFailed as error:
            if status(error) == GONE and "no such image" in error.detail.lower():
                raise missing(image, target.stack, error.detail) from error
            if status(error) not in (GONE, CONFLICT):  # the target is gone, or there is one of that name by now
                raise self._failed(target, image, error.detail) from error

    async def _start(self, name: str, target: Target, image: str) -> None:
        try:
            await self._engine.ask("start", name)
        except RuntimeFailed as error:
            await running(self._engine, target)
            if status(error) in (GONE, CONFLICT):  # another bastion removed it
                return
            await self._remove(name)
            if "executable file not found" in error.detail or "no such file" in error.detail:
                raise NoShell(
                    f"the toolbox image of {target.stack} has no shell either",
                    f"name another image than {image} as `toolbox`",
                    detail=error.detail,
                ) from error
            raise self._failed(target, image, error.detail) from error

    async def _met(self, container_id: str, target: Target) -> Toolbox | None:
        """Return the toolbox when it answers; None when it has just ended."""
        try:
            told = await self._engine.run(container_id, "the toolbox", beside.meeting(), NOBODY)
        except ContainerEnded:
            return None
        if (first := beside.first(told)) is None:
            _log.info("a toolbox does not answer", container=target.container_name, answer=ascii(told[:200]))
            return None
        return Toolbox(container_id, first.shell, f"{first.user}:{first.group}")

    async def _inspect(self, name: str) -> Mapping[str, Any] | None:
        try:
            details: Mapping[str, Any] = await self._engine.ask("inspect_container", name)
        except ContainerEnded:
            return None
        return details

    def _failed(self, target: Target, image: str, detail: str) -> RuntimeFailed:
        return RuntimeFailed(
            f"no toolbox could be started beside {target.container_name}",
            f"does {image} have sh and sleep?",
            detail=ascii(detail)[1:-1],
        )


def missing(image: str, stack: str, detail: str = "") -> RuntimeFailed:
    """Return the error for an image that is not on the engine: pulling it is not ours, nor a matter of one session."""
    return RuntimeFailed(
        f"the toolbox image {image} of {stack} is not on its Docker Engine", f"docker pull {image}", detail=detail
    )


def _refuse_shared(target: Target, described: Mapping[str, Any]) -> None:
    """Refuse a target whose first process is not its own."""
    if (described.get("HostConfig") or {}).get("PidMode", "") not in _OWN_PROCESSES:
        raise NoShell(
            f"{target.container_name} has no shell, and no toolbox can be beside it: it shares others' processes",
            "leave out its `pid`, or enter the container whose processes they are",
        )


def _configuration(target: Target, image: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine makes it of; it is root where the target is, or root's execs had none of its rights."""
    host = described.get("HostConfig") or {}
    user = str((described.get("Config") or {}).get("User") or "").partition(":")[0]
    confined = [option for option in host.get("SecurityOpt") or [] if not option.startswith(_NO_NEW_PRIVILEGES)]
    kept = {key: host[key] for key in (*_KEPT, *_KEPT_TOO) if host.get(key)}
    of_target = f"container:{target.container_id}"
    return {
        "Image": image,
        "Entrypoint": ["sh"],
        "Cmd": list(_STAY),
        "User": "0:0" if user in _ROOT else NOBODY,
        "WorkingDir": "/",
        "Labels": {TOOLBOX: target.container_id},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **kept,
            "PidMode": of_target,
            "NetworkMode": of_target,
            "IpcMode": "private",
            "Privileged": False,
            "Init": False,
            "SecurityOpt": [*confined, _NO_NEW_PRIVILEGES],
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m,mode=1777"},  # noqa: S108 - the toolbox's own
            "Memory": _MEMORY,
            "MemorySwap": _MEMORY,
            "PidsLimit": _PROCESSES,
            "LogConfig": {"Type": "none"},
            "AutoRemove": True,
        },
    }


def _is_ours(details: Mapping[str, Any], target: Target, image: str) -> bool:
    """Say whether a container of the right name is what we made, and no more than that."""
    host = details.get("HostConfig") or {}
    return (
        _labels(details).get(TOOLBOX) == target.container_id
        and (details.get("Config") or {}).get("Image") == image
        and host.get("PidMode") == f"container:{target.container_id}"
        and not host.get("Privileged")
        and not host.get("Binds")
    )


def _labels(details: Mapping[str, Any]) -> Mapping[str, str]:
    return (details.get("Config") or {}).get("Labels") or {}
