"""Run programs in containers: find a shell or a toolbox, start what was asked for, and end all that it left."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import structlog

from bastion.errors import ContainerEnded, NoShell, OtherEngine, RuntimeFailed, RuntimeUnreachable
from bastion.model import Request, Target
from bastion.runtimes import beside, shell
from bastion.runtimes.docker.engine import GONE, Engine, status
from bastion.runtimes.docker.exec import PAUSED, Calls, DockerExec, Inspected
from bastion.runtimes.docker.shells import Shells
from bastion.runtimes.docker.toolbox import Toolbox, Toolboxes
from bastion.runtimes.docker.watch import Watch
from bastion.runtimes.duties import Duty, DutyRecord, Reaped
from bastion.runtimes.ending import Program, ProgramOfTheDead, discharge, end_all
from bastion.tasks import background

_CONSOLE_SIZE: Final = (1, 42)  # the API that starts a terminal in its size
_ROOT: Final = ("", "0", "root")

_log = structlog.get_logger(__name__)


class _Entrance(NamedTuple):
    """Where the programs of a session start: in which container, by which shell; in a toolbox, where its files are."""

    container_id: str
    shell: str
    user: str | None
    files: beside.Files = beside.Files()
    notes: tuple[str, ...] = ()

    @property
    def scripts(self) -> str:
        return shell.for_scripts(self.shell)


class Programs:
    """What runs in the containers of one engine for sessions; `images` has the toolbox image of each stack with one.

    `runtime` is the engine's name in the configuration; `pause_seconds` is how long sessions wait for an unpause.
    """

    def __init__(
        self,
        engine: Engine,
        watch: Watch,
        toolboxes: Toolboxes,
        images: Mapping[str, str],
        *,
        runtime: str,
        duties: DutyRecord,
        pause_seconds: float,
    ) -> None:
        self._pause_seconds = pause_seconds
        self._runtime = runtime
        self._duties = duties
        self._engine = engine
        self._watch = watch
        self._toolboxes = toolboxes
        self._images = images
        self._shells = Shells(self._in_target)
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[DockerExec]:
        """Run the request's shell or command in the target, or in a toolbox beside it; see the port."""
        shell.command_line("sh", request)  # what cannot be run is refused before anybody is asked
        async with AsyncExitStack() as held:
            entrance = await self._entrance(target, held)
            tty = request.terminal is not None
            body: dict[str, Any] = {"Detach": False, "Tty": tty}
            arguments = shell.command_line(entrance.shell, request)
            if entrance.files.folder:
                arguments = shell.started(entrance.scripts, request, arguments, *entrance.files)
            if request.terminal and request.terminal.columns > 0 and request.terminal.rows > 0:
                if await self._engine.api() >= _CONSOLE_SIZE:
                    body["ConsoleSize"] = [request.terminal.rows, request.terminal.columns]
                elif not entrance.files.folder:
                    arguments = shell.sized(arguments, request.terminal.columns, request.terminal.rows)
            variables = shell.environment(request, entrance.files.root)
            exec_id = await self._engine.create(
                entrance.container_id, arguments, user=entrance.user, tty=tty, variables=variables
            )
            calls = self._calls(target, entrance, request, exec_id)
            running = DockerExec(target, calls, tty=tty, notes=entrance.notes, pause_seconds=self._pause_seconds)
            may_run = False
            async with (
                self._watch.on(target.container_id, running.told, running.resumed),
                self._lasting(entrance, target, running),
            ):
                duty = self._duty(target, entrance, request, await self._engine.identity())
                try:
                    await self._duties.add(duty)
                    may_run = True
                    try:
                        await self._engine.start(running.stream, exec_id, body, target.container_name)
                    except RuntimeFailed as error:
                        may_run = isinstance(error, RuntimeUnreachable)  # the engine may have read the request
                        raise
                    yield running
                finally:
                    running.close()
                    if may_run and not running.container_ended:
                        await asyncio.shield(self._end(duty, calls))
                    else:
                        self._duties.done(duty)

    async def reap(self, duty: Duty, program: Program | None = None) -> Reaped:
        """End what a session left; `program` is its own where this bastion started it. See the port."""
        try:
            await end_all(
                duty,
                program=program or ProgramOfTheDead(),
                run=functools.partial(self._engine.run, duty.container_id, duty.container_name, paced=True),
                users=(duty.user, "0"),
                may_be_anybody=True,
            )
        except RuntimeUnreachable:
            raise
        except RuntimeFailed:
            if await self._is_gone(duty):
                return "gone"
            raise
        return "ended"

    async def close(self) -> None:
        """Wait for what is being ended."""
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _in_target(self, target: Target, arguments: tuple[str, ...], user: str | None) -> bytes:
        return await self._engine.run(target.container_id, target.container_name, arguments, user)

    async def _entrance(self, target: Target, held: AsyncExitStack) -> _Entrance:
        image = self._images.get(target.stack)
        if target.shell is not None and image is None:
            return _Entrance(target.container_id, target.shell, target.user)
        try:
            return _Entrance(target.container_id, await self._shells.of(target), target.user)
        except NoShell as error:
            if image is None:
                raise
            if not target.toolbox:
                raise NoShell(
                    f"{target.container_name} has no shell, and no grant lets you enter by a toolbox beside it",
                    "ask whoever runs this bastion for a grant that allows toolbox",
                ) from error
            return await self._by_toolbox(target, image, held)

    async def _by_toolbox(self, target: Target, image: str, held: AsyncExitStack) -> _Entrance:
        """Enter by a container beside the one that has no shell, as a user who can do no more than in that one."""
        toolbox = await held.enter_async_context(self._toolboxes.beside(target, image))
        user = toolbox.user
        if target.user is not None or toolbox.user.startswith("0:"):
            described = await self._engine.ask("inspect_container", target.container_id)
            chosen = target.user or str((described.get("Config") or {}).get("User") or "")
            if target.user is not None or chosen.partition(":")[0] not in _ROOT:
                user = await self._account(target, toolbox, chosen)
        rooting = beside.rooting(toolbox.shell, target.container_id, is_first=True)
        told = await self._engine.run(toolbox.container_id, "the toolbox", rooting, user)
        note = beside.note(target.container_name, told)
        return _Entrance(toolbox.container_id, toolbox.shell, user, beside.files(told), (note,))

    async def _account(self, target: Target, toolbox: Toolbox, user: str) -> str:
        """Return the numbers of a user and group that the target knows: the toolbox's own files have other ones."""
        if beside.account(user.replace(":", " ").encode()):
            return user
        script = beside.naming(user)
        told = await self._engine.run(toolbox.container_id, "the toolbox", script, toolbox.user)
        if (found := beside.account(told)) is None:
            raise RuntimeFailed(
                f"the user chosen for {target.container_name} is not in its image, or its files may not be opened",
                "ask the operator of the stack; numbers such as 1000:1000 are taken as they are",
                detail=ascii(f"{user}: {told[:200].decode(errors='replace')}")[1:-1],
            )
        return found

    @asynccontextmanager
    async def _lasting(self, entrance: _Entrance, target: Target, running: DockerExec) -> AsyncIterator[None]:
        """Until left, tell the session when its toolbox ends: the engine may leave its stream open then."""

        def lost(word: str) -> None:
            if not running.container_ended and word != PAUSED:
                running.told(_lost(word))

        if entrance.container_id == target.container_id:
            yield
            return
        async with self._watch.on(entrance.container_id, lost):
            yield

    def _duty(self, target: Target, entrance: _Entrance, request: Request, engine: str) -> Duty:
        is_target = entrance.container_id == target.container_id
        return Duty(
            uid=request.uid,
            runtime=self._runtime,
            engine=engine,
            container_id=entrance.container_id,
            container_name=target.container_name if is_target else f"the toolbox of {target.container_name}",
            shell=entrance.scripts,
            user=entrance.user,
        )

    def _end(self, duty: Duty, calls: Calls) -> asyncio.Task[None]:
        """Begin to end what a session left."""
        reaping = self.reap(duty, Inspected(calls.state))
        ending = background(discharge(self._duties, duty, reaping), name=f"end {duty.uid}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _is_gone(self, duty: Duty) -> bool:
        """Say whether the container of a duty, and with it all that ran there, is gone.

        Raises:
            OtherEngine: no such container, but this is not the engine that it was on.
            RuntimeFailed: the engine does not say.
        """
        try:
            state = (await self._engine.ask("inspect_container", duty.container_id))["State"]
        except ContainerEnded as error:
            if status(error) != GONE:
                raise
            if duty.engine != await self._engine.identity(anew=True):
                raise OtherEngine(
                    f"the engine {self._runtime} has no container {duty.container_name}, and is not the one that had",
                    detail=error.detail,
                ) from error
            return True
        return not state.get("Paused") and (not state.get("Running") or bool(state.get("Restarting")))

    def _calls(self, target: Target, entrance: _Entrance, request: Request, exec_id: str) -> Calls:
        async def state() -> dict[str, Any]:
            answer: dict[str, Any] = await self._engine.ask("exec_inspect", exec_id)
            return answer

        async def container() -> str | None:
            word = await self._state(target.container_id)
            if word is None and entrance.container_id != target.container_id:
                lost = await self._state(entrance.container_id)
                word = _lost(lost) if lost else None
            return word

        async def resize(columns: int, rows: int) -> None:
            try:
                await self._engine.ask("exec_resize", exec_id, rows, columns)
            except RuntimeFailed as error:  # after the program's end it answers 404 or 500: no error of the session
                _log.debug("resize refused", session=request.uid, error=error.detail)

        async def signal(name: str) -> None:
            script = shell.signalling(entrance.scripts, request.uid, name)
            await self._engine.run(entrance.container_id, target.container_name, script, entrance.user)

        return Calls(state, container, resize, signal)

    async def _state(self, container_id: str) -> str | None:
        """Say in words why a container does not run; None when it does."""
        try:
            details = (await self._engine.ask("inspect_container", container_id))["State"]
        except ContainerEnded as ended:
            return "was removed" if status(ended) == GONE else "stopped"
        if details.get("Paused"):
            return PAUSED
        if details.get("Running") and not details.get("Restarting"):
            return None
        if details.get("OOMKilled"):
            return "ran out of memory"
        return f"stopped (its exit status is {details.get('ExitCode')})"


def _lost(word: str) -> str:
    return f"has lost its toolbox, which {word}"
