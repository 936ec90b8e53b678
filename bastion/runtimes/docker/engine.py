"""Ask a Docker Engine: calls of its SDK off the event loop, its errors made ours, and scripts run in containers."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import docker
import docker.errors

from bastion.errors import ContainerEnded, ContainerPaused, RuntimeFailed, RuntimeUnreachable
from bastion.model import Target
from bastion.runtimes import shell
from bastion.runtimes.docker.endpoint import TIMEOUT, Endpoint, unreachable
from bastion.runtimes.docker.stream import ExecStream, StartRefused, StreamBroken
from bastion.tasks import background

GONE: Final = 404  # HTTP's own numbers, as the engine means them
CONFLICT: Final = 409

_THREADS: Final = 16
_OUTPUT_LIMIT: Final = 64 * 1024  # bytes of a script's own output that are read
_IDENTITY_LIMIT: Final = 256  # characters
_DETACH_KEYS: Final = "ctrl-^,ctrl-_,ctrl-^,ctrl-@,ctrl-_,ctrl-^,ctrl-]"  # the default, ctrl-p ctrl-q, would be typed


class Engine:
    """A Docker Engine, 20.10 or later, at unix:///PATH or tcp://HOST:PORT.

    Raises:
        ConfigurationError: the address is of another kind.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.endpoint = Endpoint.parse(host)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._connecting = asyncio.Lock()
        self._client: Any = None
        self._identity = ""

    async def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the SDK's client.

        Raises:
            RuntimeUnreachable: the engine does not answer.
            RuntimeFailed: it says no; see `refusal` and `status`.
        """
        return await self._call(getattr(await self._connected(), method), *args, **options)

    async def api(self) -> tuple[int, ...]:
        """Return the version of the engine's API that is spoken."""
        return tuple(int(part) for part in str((await self._connected()).api_version).split("."))

    async def identity(self, *, anew: bool = False) -> str:
        """Return what tells this engine from another at the same address, asked once or, with `anew`, again.

        It outlives a restart of the engine. Podman makes up another ID for each answer, so its host and its storage
        tell it. Where the engine keeps its name to itself, as behind a proxy of its socket, that is its address here.
        """
        if anew or not self._identity:
            try:
                version, info = await self.ask("version"), await self.ask("info")
            except RuntimeUnreachable:
                raise
            except RuntimeFailed:
                return f"{socket.gethostname()} {self.host}"
            is_podman = "podman" in str(version.get("Components")).lower()
            names = ("Name", "DockerRootDir") if is_podman else ("ID",)
            self._identity = " ".join(str(info.get(name) or "") for name in names)[:_IDENTITY_LIMIT]
        return self._identity

    async def create(
        self,
        container_id: str,
        arguments: Sequence[str],
        *,
        user: str | None,
        tty: bool,
        variables: Mapping[str, str],
    ) -> str:
        """Make an exec, never a privileged one, and return its id."""
        answer = await self.ask(
            "exec_create", container_id, list(arguments),
            stdin=True, tty=tty, user=user or "", environment=dict(variables), detach_keys=_DETACH_KEYS,
        )  # fmt: skip
        return str(answer["Id"])

    async def start(self, stream: ExecStream, exec_id: str, body: Mapping[str, Any], container: str) -> None:
        """Start an exec, whose two directions are the stream from now on; `container` is its container's name."""
        version = (await self._connected()).api_version
        try:
            await stream.start(self.endpoint, f"/v{version}/exec/{exec_id}/start", dict(body))
        except StartRefused as error:
            raise refusal(error.status, error.message, container) from error
        except OSError as error:
            raise unreachable(self.host, error) from error

    async def run(
        self, container_id: str, container: str, arguments: Sequence[str], user: str | None, *, paced: bool = False
    ) -> bytes:
        """Run a script of ours in a container and return its output; with `paced` it gets a line each tick.

        Raises:
            RuntimeFailed: it could not be run, or not to its end.
        """
        exec_id = await self.create(container_id, arguments, user=user, tty=False, variables={})
        stream = ExecStream(tty=False, stalled=lambda: None)
        ticking: asyncio.Task[None] | None = None
        try:
            await self.start(stream, exec_id, {"Detach": False, "Tty": False}, container)
            if paced:
                ticking = background(_tick(stream), name="docker ending ticks", expected=(StreamBroken,))
            else:
                stream.write_eof()
            output = bytearray()
            async with asyncio.timeout(TIMEOUT):
                while (data := await stream.read()) is not None:
                    output += data.payload if len(output) < _OUTPUT_LIMIT else b""
            return bytes(output)
        except (StreamBroken, TimeoutError) as error:
            raise RuntimeFailed(
                f"the engine broke off a script in {container}", "connect again", detail=str(error)
            ) from error
        finally:
            if ticking is not None:
                ticking.cancel()
            stream.abort()

    def close(self) -> None:
        """Let go of every connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                self._client = await self._call(
                    docker.APIClient, base_url=self.host, version="auto", timeout=TIMEOUT, max_pool_size=_THREADS
                )
            return self._client

    async def _call(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call the SDK in a thread of our own."""

        def call() -> Any:
            self.endpoint.probe()
            return function(*args, **options)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise refusal(status, str(error.explanation or error), "") from error
        except (docker.errors.DockerException, OSError, ValueError) as error:  # OSError: every error of requests is one
            raise unreachable(self.host, error) from error


def refusal(status: int, message: str, container: str) -> RuntimeFailed:
    """Turn an answer of the engine's into our error: 404 gone, 409 stopped or paused, the rest its failure."""
    detail = f"{status} {message}"
    name = f"the container {container}" if container else "the container"
    hint = "connect again when its service is back"
    if status == GONE:
        return ContainerEnded(f"{name} is gone", hint, detail=detail)
    if status == CONFLICT:
        if "paused" in message:
            return ContainerPaused(f"{name} is paused", hint, detail=detail)
        state = "restarting" if "restarting" in message else "not running"
        return ContainerEnded(f"{name} is {state}", hint, detail=detail)
    return RuntimeFailed(f"the engine could not do it for {name}", "its log says more", detail=detail)


def status(error: RuntimeFailed) -> int:
    """Return the status of the engine's answer that `refusal` made this of; 0 when there was none."""
    word = error.detail.partition(" ")[0]
    return int(word) if word.isdecimal() else 0


async def running(engine: Engine, target: Target) -> Mapping[str, Any]:
    """Return what the engine says of a target's container.

    Raises:
        ContainerEnded: it is gone, stopped, restarting or paused.
    """
    described: Mapping[str, Any] = await engine.ask("inspect_container", target.container_id)
    state = described.get("State") or {}
    word = "paused" if state.get("Paused") else "restarting" if state.get("Restarting") else ""
    if word or not state.get("Running"):
        raise ContainerEnded(
            f"the container {target.container_name} is {word or 'not running'}",
            "connect again when its service is back",
        )
    return described


async def _tick(stream: ExecStream) -> None:
    while not stream.ended:
        await stream.write(b"\n")
        await asyncio.sleep(shell.TICK)
