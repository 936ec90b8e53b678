"""Run programs in pods: find the container's shell, start what was asked for, and end all that it left."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple, Protocol
from weakref import WeakValueDictionary

import structlog

from bastion.errors import (
    ConnectionLost,
    NoShell,
    OtherEngine,
    ProcessesLeft,
    RuntimeFailed,
    RuntimeUnreachable,
)
from bastion.model import STDOUT, Request, Target
from bastion.runtimes import beside, shell
from bastion.runtimes.duties import Duty, DutyRecord, Reaped
from bastion.runtimes.ending import Program, ProgramOfTheDead, discharge, end_all, ending_script
from bastion.runtimes.kubernetes.cache import Told
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path, refusal
from bastion.runtimes.kubernetes.exec import Calls, KubernetesExec, never_ran
from bastion.runtimes.kubernetes.pods import read_pod
from bastion.runtimes.kubernetes.stream import Place, PodStream, StreamBroken, status_of
from bastion.runtimes.kubernetes.targets import difference, is_gone
from bastion.runtimes.kubernetes.toolbox import Toolbox
from bastion.tasks import background

_SECONDS: Final = 10.0  # that a script of ours may take
_OUTPUT_LIMIT: Final = 64 * 1024  # bytes of a script's own output that are read
_REMEMBERED: Final = 4096  # containers whose shell we know
_AGAIN: Final = 0.5  # seconds before a script is tried again
_SETTLE: Final = 0.4  # seconds for the status of a program that was just ended
_APART: Final = 1.0  # seconds between two looks for what a program, nobody knows whether it is over, has left
_FOUND: Final = "bastion"  # what a chosen shell has to print

_log = structlog.get_logger(__name__)


class Watching(Protocol):
    """Tells when a target's pod ends."""

    def on(self, target: Target, told: Told) -> AbstractAsyncContextManager[None]:
        """Until left, call `told` with words when the pod or its container ends."""
        ...


class _Entrance(NamedTuple):
    """Where the programs of a session start: in which container, by which shell; in a toolbox, where its files are."""

    place: Place
    shell: str
    files: beside.Files = beside.Files()
    notes: tuple[str, ...] = ()

    @property
    def scripts(self) -> str:
        return shell.for_scripts(self.shell)


class Programs:
    """What runs in the pods of one cluster on behalf of sessions; `toolboxes` has the image of each stack with one.

    `runtime` is the cluster's name in the configuration.
    """

    def __init__(
        self,
        cluster: Cluster,
        watching: Watching,
        toolboxes: Mapping[str, str],
        *,
        runtime: str,
        duties: DutyRecord,
    ) -> None:
        self._runtime = runtime
        self._duties = duties
        self._cluster = cluster
        self._watching = watching
        self._toolboxes = toolboxes
        self._shells: OrderedDict[tuple[str, str | None], str] = OrderedDict()
        self._probing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[KubernetesExec]:
        """Run the request's shell or command in the target's pod; see the port."""
        if target.user is not None:
            raise RuntimeFailed(
                f"a program in a pod runs as its container's own user, and not as {target.user}",
                "leave `user` out where the stack or the grant names one",
            )
        shell.command_line("sh", request)  # what cannot be run is refused before anybody is asked
        entrance = await self._entrance(target)
        arguments = shell.command_line(entrance.shell, request)
        tty = request.terminal is not None
        stream = PodStream(self._cluster, entrance.place, tty=tty)
        duty = self._duty(target, entrance, request, await self._cluster.identity())
        running = KubernetesExec(target, stream, self._calls(target, entrance, duty), tty=tty, notes=entrance.notes)
        may_run, is_heard = False, True
        async with self._watching.on(target, running.told):
            try:
                await self._duties.add(duty)
                may_run = True
                try:
                    started = shell.started(entrance.scripts, request, arguments, *entrance.files)
                    await stream.open(started, stdin=True)
                except RuntimeFailed as error:
                    may_run = isinstance(error, RuntimeUnreachable)  # what was asked may have been heard all the same
                    is_heard = not may_run
                    raise
                if request.terminal and request.terminal.columns > 0 and request.terminal.rows > 0:
                    await stream.resize(request.terminal.columns, request.terminal.rows)
                running.started()
                yield running
            finally:
                end = may_run and not running.container_ended
                ending = background(self._finish(running, duty, end=end), name=f"end {request.uid}")
                self._endings.add(ending)
                ending.add_done_callback(self._endings.discard)
                if is_heard:
                    await asyncio.shield(ending)

    async def script(self, place: Place, arguments: Sequence[str], *, paced: bool = False) -> bytes:
        """Run a script of ours in a container and return its standard output; with `paced` it gets a line each tick.

        Raises:
            NoShell: there is no such shell.
            RuntimeFailed: it could not be run, or not to its end.
        """
        stream = PodStream(self._cluster, place, tty=False)
        ticking: asyncio.Task[None] | None = None
        output = bytearray()
        try:
            async with asyncio.timeout(_SECONDS):
                await stream.open(arguments, stdin=paced)
                if paced:
                    ticking = background(_tick(stream), name="pod ending ticks", expected=(StreamBroken,))
                while (data := await stream.read()) is not None:
                    if data.stream == STDOUT and len(output) < _OUTPUT_LIMIT:
                        output += data.payload
                status = status_of(stream.status)
        except (StreamBroken, TimeoutError) as error:
            raise ConnectionLost(
                f"the cluster broke off a script in {place.pod}", "connect again", detail=str(error)
            ) from error
        finally:
            if ticking is not None:
                ticking.cancel()
            await stream.close()
        if status.code is None:
            raise never_ran(status, place)
        return bytes(output)

    async def close(self) -> None:
        """Wait for what is being ended."""
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _entrance(self, target: Target) -> _Entrance:
        place = Place(str(target.namespace), str(target.pod_name), target.container_name)
        key = (target.container_id, target.shell)
        async with self._probing.setdefault(target.container_id, asyncio.Lock()):
            if key not in self._shells:
                self._shells[key] = await self._probe(place, target.shell)
            found = self._shells[key]
            self._shells.move_to_end(key)
            while len(self._shells) > _REMEMBERED:
                self._shells.popitem(last=False)
            if found:
                return _Entrance(place, found)
            return await self._by_toolbox(target, place)

    async def _probe(self, place: Place, chosen: str | None) -> str:
        """Return the chosen shell, or else bash or sh; "" when it is not there."""
        if chosen is not None:
            probes: Sequence[tuple[str, ...]] = ((chosen, "-c", f"echo {_FOUND}"),)
        else:
            probes = (shell.PROBE, ("bash", "-c", "echo bash"))
        for probe in probes:
            try:
                found = (await self.script(place, probe)).decode(errors="replace").strip()
            except NoShell as error:
                _log.debug("no shell", pod=place.pod, container=place.container, error=error.detail)
                continue
            if chosen is not None:
                return chosen if found == _FOUND else ""
            if found in ("bash", "sh"):
                return found
        return ""

    async def _by_toolbox(self, target: Target, place: Place) -> _Entrance:
        """Enter by an ephemeral container beside the one that has no shell, where the stack has an image for it."""
        image = self._toolboxes.get(target.stack)
        if image is not None and not target.toolbox:
            raise NoShell(
                f"{place.container} has no shell, and no grant lets you enter by a toolbox beside it",
                "ask whoever runs this bastion for a grant that allows toolbox",
            )
        if image is None:
            raise NoShell(
                f"the container {place.container} of the pod {place.pod} has no shell, so nothing can run in it",
                "name an image with a shell as `toolbox` of its stack, and sessions enter by one beside it",
            )
        made = await Toolbox(self._cluster, image).beside(place, target.container_id)
        toolbox = Place(place.namespace, place.pod, made.name)
        found = await self._probe(toolbox, None)
        if not found:
            raise NoShell(
                f"the toolbox image of {target.stack} has no shell either",
                f"name another image than {image} as `toolbox`",
            )
        container_id = target.container_id.partition("/")[2]
        told = await self.script(toolbox, beside.rooting(found, container_id, is_first=made.is_first))
        return _Entrance(toolbox, found, beside.files(told), (beside.note(place.container, told),))

    def _calls(self, target: Target, entrance: _Entrance, duty: Duty) -> Calls:
        place = entrance.place

        async def pod() -> str | None:
            try:
                found = await self._cluster.get(path("namespaces", place.namespace, "pods", place.pod))
            except Answered as answered:
                return "was deleted" if answered.status == 404 else None  # noqa: PLR2004 - HTTP's own number
            return difference(target, read_pod(found)) or None

        async def signal(name: str) -> None:
            await self.script(place, shell.signalling(entrance.scripts, duty.uid, name))

        async def is_over() -> bool:
            return (await self.script(place, shell.looking(entrance.scripts, duty.uid))).strip() == b"ended"

        async def end() -> None:
            await self.script(place, ending_script(duty), paced=True)

        return Calls(pod, signal, is_over, end)

    def _duty(self, target: Target, entrance: _Entrance, request: Request, cluster: str) -> Duty:
        place = entrance.place
        pod_uid = target.container_id.partition("/")[0]
        return Duty(
            uid=request.uid,
            runtime=self._runtime,
            engine=cluster,
            container_id=target.container_id if place.container == target.container_name else f"{pod_uid}/",
            container_name=place.container,
            shell=entrance.scripts,
            namespace=place.namespace,
            pod_name=place.pod,
        )

    async def _finish(self, running: KubernetesExec, duty: Duty, *, end: bool) -> None:
        """End what a session left in its container, then let go of its stream."""
        await running.close()
        program = _Streamed(running.stream)
        try:
            if end:
                await discharge(self._duties, duty, self.reap(duty, program))
            else:
                self._duties.done(duty)
        finally:
            program.close()
            await running.stream.close()

    async def reap(self, duty: Duty, program: Program | None = None) -> Reaped:
        """End what a session left; `program` is its own where this bastion started it. See the port."""
        place = Place(str(duty.namespace), str(duty.pod_name), duty.container_name)

        async def run(script: tuple[str, ...], _user: str | None) -> bytes:
            while True:
                try:
                    return await self.script(place, script, paced=True)
                except (RuntimeUnreachable, ConnectionLost) as error:
                    if program is None:
                        raise
                    _log.info("ending tried again", session=duty.uid, error=error.detail or error.public)
                    await asyncio.sleep(_AGAIN)

        if program is None and await self._is_gone(duty):  # another pod may have its name
            return "gone"
        try:
            await end_all(duty, program=program or ProgramOfTheDead(), run=run, users=(None,), may_be_anybody=False)
        except (RuntimeUnreachable, ProcessesLeft):
            raise
        except RuntimeFailed:
            if await self._is_gone(duty):
                return "gone"
            raise
        return "ended"

    async def _is_gone(self, duty: Duty) -> bool:
        """Say whether the container of a duty, and with it all that ran there, is gone.

        Raises:
            OtherEngine: no such pod, but this is not the cluster that it was in.
            RuntimeFailed: the cluster does not say.
        """
        try:
            found = read_pod(
                await self._cluster.get(path("namespaces", str(duty.namespace), "pods", str(duty.pod_name)))
            )
        except Answered as answered:
            if answered.status != 404:  # noqa: PLR2004 - HTTP's own number
                raise refusal(answered, f"get pods in the namespace {duty.namespace}") from answered
            found = None
        is_same_pod = found is not None and found.uid == duty.container_id.partition("/")[0]
        if not is_same_pod and duty.engine != await self._cluster.identity():
            raise OtherEngine(f"the pod {duty.pod_name} is in another cluster, or this one's CA or address has changed")
        return is_gone(duty.container_id, duty.container_name, found)


class _Streamed:
    """The session's program by its own stream, which nobody reads any more: there is no other word of its end."""

    def __init__(self, stream: PodStream) -> None:
        self._stream = stream
        self._looks = 0
        self._draining = background(self._drain(), name=f"drain {stream.place.pod}")

    async def started(self) -> None:
        """Return at once: nobody says when it starts."""

    async def has_ended(self) -> bool:
        """Say whether the status has come; when it never will, only the second look at the pod counts."""
        await asyncio.wait({self._draining}, timeout=_SETTLE)
        if self._stream.status is not None:
            return True
        if not self._draining.done():
            return False
        self._looks += 1
        if self._looks == 1:
            await asyncio.sleep(_APART)
        return self._looks > 1

    def close(self) -> None:
        """Let go of the stream."""
        self._draining.cancel()

    async def _drain(self) -> None:
        with contextlib.suppress(StreamBroken):
            while await self._stream.read() is not None and self._stream.status is None:
                continue


async def _tick(stream: PodStream) -> None:
    while not stream.ended:
        await stream.write(b"\n")
        await asyncio.sleep(shell.TICK)
