"""Run programs in containers: find a shell or a toolbox, start what was asked for, and end all that it left."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import structlog

from bastion.errors import ContainerEnded, NoShell, RuntimeFailed
from bastion.model import Request, Target
from bastion.runtimes import beside, shell
from bastion.runtimes.docker.engine import GONE, Engine, status
from bastion.runtimes.docker.exec import Calls, DockerExec, Inspected
from bastion.runtimes.docker.shells import Shells
from bastion.runtimes.docker.toolbox import Toolbox, Toolboxes
from bastion.runtimes.docker.watch import Watch
from bastion.runtimes.ending import end_all

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
    """What runs in the containers of one engine for sessions; `images` has the toolbox image of each stack with one."""

    def __init__(self, engine: Engine, watch: Watch, toolboxes: Toolboxes, images: Mapping[str, str]) -> None:
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
            running = DockerExec(target, calls, tty=tty, notes=entrance.notes)
            may_run = True
            async with self._watch.on(target.container_id, running.told), self._lasting(entrance, target, running):
                try:
                    try:
                        await self._engine.start(running.stream, exec_id, body, target.container_name)
                    except RuntimeFailed:
                        may_run = False
                        raise
                    yield running
                finally:
                    running.close()
                    if may_run and not running.container_ended:
                        await asyncio.shield(self._end(target, entrance, request, calls))

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
            if not running.container_ended and word != "is paused":
                running.told(_lost(word))

        if entrance.container_id == target.container_id:
            yield
            return
        async with self._watch.on(entrance.container_id, lost):
            yield

    def _end(self, target: Target, entrance: _Entrance, request: Request, calls: Calls) -> asyncio.Task[None]:
        """Begin to end what a session left."""
        name = target.container_name if entrance.container_id == target.container_id else "the toolbox"
        ending = asyncio.create_task(
            end_all(
                target,
                shell.ending(entrance.scripts, request.uid),
                request.uid,
                program=Inspected(calls.state),
                run=functools.partial(self._engine.run, entrance.container_id, name, paced=True),
                users=(entrance.user, "0"),
            ),
            name=f"end {request.uid}",
        )
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

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
            return "is paused"
        if details.get("Running") and not details.get("Restarting"):
            return None
        if details.get("OOMKilled"):
            return "ran out of memory"
        return f"stopped (its exit status is {details.get('ExitCode')})"


def _lost(word: str) -> str:
    return f"has lost its toolbox, which {word}"
