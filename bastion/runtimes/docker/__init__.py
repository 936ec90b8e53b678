"""The Docker runtime: names become containers, requests become execs, and nothing is left behind."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import docker
import docker.errors
import structlog

from bastion.errors import ContainerEnded, RuntimeFailed
from bastion.model import Request, Target
from bastion.runtimes import shell
from bastion.runtimes.dialling import ExecConnection, by_exec
from bastion.runtimes.docker import targets
from bastion.runtimes.docker.endpoint import TIMEOUT, Endpoint, unreachable
from bastion.runtimes.docker.exec import Calls, DockerExec, Inspected
from bastion.runtimes.docker.shells import Shells
from bastion.runtimes.docker.stream import ExecStream, StartRefused, StreamBroken
from bastion.runtimes.docker.watch import Watch
from bastion.runtimes.ending import end_all

_THREADS: Final = 16
_OUTPUT_LIMIT: Final = 64 * 1024  # bytes of a script's own output that are read
_DETACH_KEYS: Final = "ctrl-^,ctrl-_,ctrl-^,ctrl-@,ctrl-_,ctrl-^,ctrl-]"  # the default, ctrl-p ctrl-q, would be typed
_CONSOLE_SIZE: Final = (1, 42)  # the API that starts a terminal in its size

_log = structlog.get_logger(__name__)


class DockerRuntime:
    """A Docker Engine, 20.10 or later, at unix:///PATH or tcp://HOST:PORT.

    Raises:
        ConfigurationError: the address is of another kind.
    """

    def __init__(self, host: str, *, name: str = "docker") -> None:
        self.name = name
        self._host = host
        self._endpoint = Endpoint.parse(host)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._connecting = asyncio.Lock()
        self._client: Any = None
        self._watch = Watch(self._endpoint, self._running)
        self._shells = Shells(self._run)
        self._endings: set[asyncio.Task[None]] = set()

    async def services(self) -> list[tuple[str, str]]:
        """List (stack, service) of everything that runs; see the port."""
        return sorted({(entry.stack, entry.service) for entry in await self._list()})

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        """List the running containers of a service, or the one with that name; see the port.

        A container holds no others, so only its own name may be its `container`.
        """
        here = [entry for entry in await self._list() if entry.stack == stack]
        chosen = [entry for entry in here if entry.service == service]
        chosen = chosen or [entry for entry in here if entry.container_name == service]
        chosen = [entry for entry in chosen if container in (None, entry.container_name)]
        client = await self._connected()
        details = await asyncio.gather(
            *(self._call(client.inspect_container, entry.container_id) for entry in chosen),
            return_exceptions=True,
        )
        found = []
        for entry, answer in zip(chosen, details, strict=True):
            if isinstance(answer, ContainerEnded):
                continue
            if isinstance(answer, BaseException):
                raise answer
            found.append(targets.target(self.name, entry, answer))
        return sorted(found, key=lambda target: target.container_name)

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[DockerExec]:
        """Run the request's shell or command; see the port."""
        tty = request.terminal is not None
        chosen = target.shell or await self._shells.of(target)
        arguments = shell.command_line(chosen, request)
        client = await self._connected()
        body: dict[str, Any] = {"Detach": False, "Tty": tty}
        if request.terminal and request.terminal.columns > 0 and request.terminal.rows > 0:
            if self._api(client) >= _CONSOLE_SIZE:
                body["ConsoleSize"] = [request.terminal.rows, request.terminal.columns]
            else:
                arguments = shell.sized(arguments, request.terminal.columns, request.terminal.rows)
        exec_id = await self._create(target, arguments, user=target.user, tty=tty, variables=shell.environment(request))
        scripts = shell.for_scripts(chosen)
        calls = self._calls(target, request, exec_id, scripts)
        running = DockerExec(target, calls, tty=tty)
        may_run = True
        async with self._watch.on(target.container_id, running.told):
            try:
                try:
                    await self._start(running.stream, exec_id, body, target)
                except RuntimeFailed:
                    may_run = False
                    raise
                yield running
            finally:
                running.close()
                if may_run and not running.container_ended:
                    run = functools.partial(self._run, target, paced=True)
                    ending = asyncio.create_task(
                        end_all(
                            target,
                            shell.ending(scripts, request.uid),
                            request.uid,
                            program=Inspected(calls.state),
                            run=run,
                            users=(target.user, "0"),
                        ),
                        name=f"end {request.uid}",
                    )
                    self._endings.add(ending)
                    ending.add_done_callback(self._endings.discard)
                    await asyncio.shield(ending)

    @asynccontextmanager
    async def dial(self, target: Target, host: str, port: int) -> AsyncIterator[ExecConnection]:
        """Connect by a helper of the image's own; see the port."""
        async with by_exec(self.exec, target, host, port) as connection:
            yield connection

    async def faults(self) -> list[RuntimeFailed]:
        """Find none: what answers can run sessions."""
        return []

    async def ping(self) -> str:
        """Return the engine's name and versions; see the port."""
        client = await self._connected()
        version = await self._call(client.version)
        return f"Docker Engine {version.get('Version')} (API {version.get('ApiVersion')}) at {self._host}"

    async def close(self) -> None:
        """Wait for what is being ended, and let go of every connection."""
        await asyncio.gather(*self._endings, return_exceptions=True)
        await self._watch.close()
        if self._client is not None:
            self._client.close()
            self._client = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _list(self) -> list[targets.Place]:
        """List what runs; what has names outside the grammar is left out."""
        client = await self._connected()
        found = [targets.place(entry) for entry in await self._call(client.containers)]
        return [place for place in found if place is not None]

    async def _running(self) -> set[str]:
        client = await self._connected()
        return {str(entry["Id"]) for entry in await self._call(client.containers)}

    def _calls(self, target: Target, request: Request, exec_id: str, chosen: str) -> Calls:
        async def state() -> dict[str, Any]:
            client = await self._connected()
            answer: dict[str, Any] = await self._call(client.exec_inspect, exec_id)
            return answer

        async def container() -> str | None:
            try:
                details = (await self._call((await self._connected()).inspect_container, target.container_id))["State"]
            except ContainerEnded as ended:
                return "was removed" if ended.detail.startswith("404") else "stopped"
            if details.get("Paused"):
                return "is paused"
            if details.get("Running") and not details.get("Restarting"):
                return None
            return (
                "ran out of memory"
                if details.get("OOMKilled")
                else f"stopped (its exit status is {details.get('ExitCode')})"
            )

        async def resize(columns: int, rows: int) -> None:
            client = await self._connected()
            try:
                await self._call(client.exec_resize, exec_id, rows, columns)
            except RuntimeFailed as error:  # after the program's end it answers 404 or 500: no error of the session
                _log.debug("resize refused", session=request.uid, error=error.detail)

        async def signal(name: str) -> None:
            await self._run(target, shell.signalling(chosen, request.uid, name), target.user)

        return Calls(state, container, resize, signal)

    async def _create(
        self, target: Target, arguments: tuple[str, ...], *, user: str | None, tty: bool, variables: dict[str, str]
    ) -> str:
        client = await self._connected()
        answer = await self._call(
            client.exec_create, target.container_id, list(arguments),
            stdin=True, tty=tty, user=user or "", environment=variables, detach_keys=_DETACH_KEYS,
        )  # fmt: skip
        return str(answer["Id"])

    async def _start(self, stream: ExecStream, exec_id: str, body: dict[str, Any], target: Target) -> None:
        client = await self._connected()
        try:
            await stream.start(self._endpoint, f"/v{client.api_version}/exec/{exec_id}/start", body)
        except StartRefused as error:
            raise _refusal(error.status, error.message, target.container_name) from error
        except OSError as error:
            raise unreachable(self._host, error) from error

    async def _run(self, target: Target, arguments: tuple[str, ...], user: str | None, *, paced: bool = False) -> bytes:
        """Run a script of ours in the container and return its output; with `paced` it gets a line each tick."""
        exec_id = await self._create(target, arguments, user=user, tty=False, variables={})
        stream = ExecStream(tty=False, stalled=lambda: None)
        ticking: asyncio.Task[None] | None = None
        try:
            await self._start(stream, exec_id, {"Detach": False, "Tty": False}, target)
            if paced:
                ticking = asyncio.create_task(_tick(stream), name="docker ending ticks")
            else:
                stream.write_eof()
            output = bytearray()
            async with asyncio.timeout(TIMEOUT):
                while (data := await stream.read()) is not None:
                    output += data.payload if len(output) < _OUTPUT_LIMIT else b""
            return bytes(output)
        except (StreamBroken, TimeoutError) as error:
            raise RuntimeFailed(
                f"the engine broke off a script in {target.container_name}", "connect again", detail=str(error)
            ) from error
        finally:
            if ticking is not None:
                ticking.cancel()
            stream.abort()

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                self._client = await self._call(
                    docker.APIClient, base_url=self._host, version="auto", timeout=TIMEOUT, max_pool_size=_THREADS
                )
            return self._client

    @staticmethod
    def _api(client: Any) -> tuple[int, ...]:
        return tuple(int(part) for part in str(client.api_version).split("."))

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call the SDK in a thread of our own, its errors become ours."""

        def call() -> Any:
            self._endpoint.probe()
            return function(*args, **options)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise _refusal(status, str(error.explanation or error), "") from error
        except (docker.errors.DockerException, OSError, ValueError) as error:  # OSError: every error of requests is one
            raise unreachable(self._host, error) from error


async def _tick(stream: ExecStream) -> None:
    while not stream.ended:
        await stream.write(b"\n")
        await asyncio.sleep(shell.TICK)


def _refusal(status: int, message: str, container: str) -> RuntimeFailed:
    """Turn an answer of the engine's into our error: 404 gone, 409 stopped or paused, the rest its failure."""
    detail = f"{status} {message}"
    name = f"the container {container}" if container else "the container"
    hint = "connect again when its service is back"
    if status == 404:  # noqa: PLR2004 - HTTP's own numbers
        return ContainerEnded(f"{name} is gone", hint, detail=detail)
    if status == 409:  # noqa: PLR2004
        state = next((word for word in ("paused", "restarting") if word in message), "not running")
        return ContainerEnded(f"{name} is {state}", hint, detail=detail)
    return RuntimeFailed(f"the engine could not do it for {name}", "its log says more", detail=detail)
