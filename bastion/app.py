"""The composition root: it alone builds objects, picks adapters, and ties their lives together."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from bastion.api import create_api, serve_api
from bastion.config import KUBERNETES, Settings
from bastion.errors import RuntimeUnreachable, SessionEnded
from bastion.gateway import Gateway
from bastion.keyring import Keyring
from bastion.metrics import Metrics
from bastion.policy import Policy
from bastion.runtimes import Runtime
from bastion.sessions import Sessions
from bastion.ssh import SshServer
from bastion.targets import Targets
from bastion.transcripts import Transcripts

CLEAN_UP_SECONDS = 15.0
DEMO_NAME = ("mystack", "web")

log = structlog.get_logger(__name__)


def build_runtimes(settings: Settings) -> dict[str, Runtime]:
    """Return one adapter for each engine that the configuration names: the default one, and those of the stacks."""
    engines = dict.fromkeys(settings.engine_of(stack) for stack in ("", *(entry.name for entry in settings.stacks)))
    return {engine: _adapter(settings, engine) for engine in engines}


def _adapter(settings: Settings, engine: str) -> Runtime:
    if not engine.startswith(KUBERNETES):
        from bastion.runtimes.docker import DockerRuntime  # noqa: PLC0415 - only when it is configured

        return DockerRuntime(engine, name=engine)
    from bastion.runtimes.kubernetes import KubernetesRuntime  # noqa: PLC0415 - its SDK costs 0.6 s and 25 MiB

    stacks = [entry for entry in settings.stacks if settings.engine_of(entry.name) == engine]
    return KubernetesRuntime(
        settings.kubernetes.kubeconfig if settings.kubernetes else None,
        engine.removeprefix(KUBERNETES) or None,
        name=engine,
        namespaces={entry.name: entry.namespace or entry.name for entry in stacks},
        toolboxes={entry.name: entry.toolbox for entry in stacks if entry.toolbox},
    )


def open_transcripts(settings: Settings, keyring: Keyring, node: str) -> Transcripts:
    """Return the transcripts, encrypted to the configured recipients and every auditor of the key home."""
    return Transcripts(
        settings.audit.directory,
        [*settings.audit.recipients, *keyring.auditor_recipients()],
        keyring.signing_key,
        node=node,
        input=settings.audit.input,
        stream_limit=settings.audit.stream_limit,
    )


async def serve(
    settings: Settings,
    *,
    runtimes: Mapping[str, Runtime] | None = None,
    ready: Callable[[Sequence[tuple[str, int]]], None] | None = None,
) -> None:
    """Run the bastion until SIGTERM, SIGINT or SIGHUP, then end every session with its reason.

    `runtimes` replaces the configured ones (the demo's local processes); `ready` is called with the bound addresses.

    Raises:
        ConfigurationError: something is not as it must be; nothing was started.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    node = socket.gethostname()
    keyring = Keyring(settings.keys.home)
    keyring.load()
    for problem in keyring.problems:
        log.warning("key home", problem=problem)
    adapters = dict(runtimes) if runtimes is not None else build_runtimes(settings)
    engine_of = settings.engine_of if runtimes is None else partial(_only, next(iter(adapters)))
    metrics = Metrics()
    sessions = Sessions(settings.sessions, node)
    transcripts = open_transcripts(settings, keyring, node)
    gateway = Gateway(
        policy=Policy(settings.grants, settings.stacks),
        targets=Targets(adapters, settings.stacks, engine_of),
        sessions=sessions,
        transcripts=transcripts,
        runtimes=adapters,
        metrics=metrics,
        limits=settings.sessions,
        notice=settings.ssh.notice,
    )
    server = SshServer(settings.ssh, keyring, gateway, metrics)
    async with AsyncExitStack() as running:
        for adapter in adapters.values():
            running.push_async_callback(adapter.close)
        await transcripts.start()
        running.push_async_callback(transcripts.close)
        api = create_api(sessions, metrics=metrics, ready=partial(_ping, adapters))
        await running.enter_async_context(serve_api(api, settings.api.socket))
        running.push_async_callback(server.close)
        addresses = await server.listen()
        await running.enter_async_context(_background(server.watch_keys(), stop))
        log.info("serving", addresses=[f"{host}:{port}" for host, port in addresses], node=node)
        if ready is not None:
            ready(addresses)
        await stop.wait()
        log.info("stopping", sessions=len(sessions.list()))
        server.stop_listening()
        await sessions.end_all(
            SessionEnded("the bastion is shutting down", "connect again in a moment"), grace=CLEAN_UP_SECONDS
        )


def _only(engine: str, _stack: str) -> str:
    """Every stack is on the demo's one engine."""
    return engine


async def _ping(adapters: Mapping[str, Runtime]) -> None:
    for adapter in adapters.values():
        await adapter.ping()


@asynccontextmanager
async def _background(work: Coroutine[None, None, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Run the work beside what runs inside; when it fails, which it should not, the bastion stops and says why."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the demo serves: its runtimes, the (stack, service) pairs one may try, and a line that says what it is."""

    runtimes: Mapping[str, Runtime]
    names: Sequence[tuple[str, str]]
    words: str


@asynccontextmanager
async def demonstrate(settings: Settings, owner: str) -> AsyncIterator[Demonstration]:
    """Find something to enter: labelled containers that run, else a throwaway one, else local processes.

    `owner` tells this demo's throwaway container from another's; it is removed when the context is left.
    """
    async with AsyncExitStack() as cleanup:
        try:
            found = await _containers(settings, owner, cleanup)
        except RuntimeUnreachable as error:
            found = _local_processes(error.public)
        yield found


async def _containers(settings: Settings, owner: str, cleanup: AsyncExitStack) -> Demonstration:
    from bastion.runtimes.throwaway import Throwaway  # noqa: PLC0415 - only for the demo

    runtimes = build_runtimes(settings)
    throwaway = Throwaway(settings.docker.host, owner)
    await asyncio.to_thread(throwaway.remove)  # what a killed demo left is not to be mistaken for a service
    if names := await _enterable(runtimes):
        return Demonstration(runtimes, names, f"services of this Docker Engine that can be entered: {len(names)}")
    cleanup.push_async_callback(asyncio.to_thread, throwaway.remove)
    if (image := await asyncio.to_thread(throwaway.start, *DEMO_NAME)) is None:
        return _local_processes("this Docker Engine runs no labelled container and has no image with a shell")
    return Demonstration(runtimes, [DEMO_NAME], f"web@mystack is a throwaway container of the image {image}")


async def _enterable(runtimes: Mapping[str, Runtime]) -> list[tuple[str, str]]:
    names = []
    for runtime in runtimes.values():
        for stack, service in await runtime.services():
            targets = await runtime.find(stack, service) if stack != "docker" else []  # "docker" are the unlabelled
            if targets and not targets[0].hazards:
                names.append((stack, service))
    return names


def _local_processes(why: str) -> Demonstration:
    from bastion.runtimes.process import ProcessRuntime  # noqa: PLC0415 - only for the demo

    user = "nobody" if os.geteuid() == 0 else None
    runtime = ProcessRuntime(*DEMO_NAME, user=user)
    words = f"{why}: web@mystack is a shell on this machine itself, as {user or 'you'}"
    return Demonstration({runtime.name: runtime}, [DEMO_NAME], words)
