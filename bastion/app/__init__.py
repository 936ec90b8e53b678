"""The composition root: it alone builds objects, picks adapters, and ties their lives together."""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import structlog

from bastion import descriptors
from bastion.api.actions import Actions
from bastion.api.routes import create_api
from bastion.api.server import serve_api
from bastion.api.services import Services
from bastion.api.tokens import Tokens
from bastion.app.adapters import Adapters, build_runtimes
from bastion.app.auditors import Auditors
from bastion.app.demonstration import Demonstration, demonstrate
from bastion.app.faults import Faults
from bastion.app.reloading import Reload
from bastion.app.shutdown import Shutdown
from bastion.config import Settings
from bastion.gateway import Gateway, Rules
from bastion.keyring import Keyring, open_keyring
from bastion.metrics import Metrics
from bastion.policy import NOT_SERVED, Policy
from bastion.runtimes import Runtime
from bastion.sessions import Sessions
from bastion.ssh import SshServer
from bastion.targets import Targets
from bastion.transcripts import Transcripts

__all__ = ["Demonstration", "Reload", "build_runtimes", "demonstrate", "open_transcripts", "serve"]

CLEAN_UP_SECONDS = 15.0

log = structlog.get_logger(__name__)


def open_transcripts(settings: Settings, keyring: Keyring, node: str) -> Transcripts:
    """Return the transcripts, encrypted to the configured recipients and every auditor of the key home."""
    return Transcripts(
        settings.audit.directory,
        [*settings.audit.recipients, *keyring.auditor_recipients()],
        keyring.signing_key,
        node=node,
        input=settings.audit.input,
        stream_limit=settings.audit.stream_limit,
        reserve=settings.audit.reserve,
    )


def open_sessions(settings: Settings, node: str) -> Sessions:
    """Return the registry over the configured database."""
    from bastion.sessions.sql import SqlStore  # noqa: PLC0415 - 0.2 s that only a server needs

    store = SqlStore(settings.database, node)
    return Sessions(settings.sessions, node, store, user_quota=settings.audit.user_quota)


def rules(
    settings: Settings, runtimes: Mapping[str, Runtime], keyring: Keyring, *, only_engine: str | None = None
) -> Rules:
    """Return what the configuration says about who may do what where; `only_engine` has every stack (the demo)."""
    return Rules(
        policy=Policy(settings.grants, settings.stacks, settings.groups, clock=keyring.now),
        targets=Targets(
            runtimes, settings.stacks, settings.engine_of if only_engine is None else lambda _: only_engine
        ),
        limits=settings.sessions,
        notice=settings.ssh.notice,
    )


async def serve(
    settings: Settings,
    *,
    runtimes: Mapping[str, Runtime] | None = None,
    ready: Callable[[Sequence[tuple[str, int]]], None] | None = None,
    reload: Reload | None = None,
) -> None:
    """Run the bastion until SIGTERM or SIGINT, then drain: let sessions end by themselves for a time, end the rest.

    `runtimes` replaces the configured runtimes (the demo passes local processes); `ready` is called with the bound
    addresses; `reload` reads the configuration again, at SIGHUP and when its file has changed. Without `reload`,
    SIGHUP ends the bastion too.

    Raises:
        ConfigurationError: the configuration, a key home or a folder is unusable; nothing was started.
    """
    descriptors.raise_limit()
    node = socket.gethostname()
    sessions = open_sessions(settings, node)
    shutdown = Shutdown(settings.ssh.drain_timeout, sessions)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown.signal)
    loop.add_signal_handler(signal.SIGHUP, shutdown.signal if reload is None else reload.ask)
    keyring = open_keyring(settings)
    await asyncio.to_thread(keyring.load)
    _warn_of_problems(keyring)
    metrics = Metrics()
    faults = Faults(metrics, shutdown.abandon)
    adapters = runtimes if runtimes is not None else build_runtimes(settings, sessions.duties)
    transcripts = open_transcripts(settings, keyring, node)
    _measure(metrics, sessions, transcripts)
    _warn_of_what_is_not_served(settings)
    gateway = Gateway(
        rules(settings, adapters, keyring, only_engine=next(iter(runtimes)) if runtimes else None),
        sessions=sessions,
        transcripts=transcripts,
        runtimes=adapters,
        metrics=metrics,
    )
    server = SshServer(settings.ssh, keyring, gateway, metrics)
    async with AsyncExitStack() as running:
        running.push_async_callback(asyncio.to_thread, keyring.close)
        await sessions.start()
        running.push_async_callback(sessions.close)
        # Runs before sessions.close, which takes the duties of programs that the adapters still end off the record.
        running.push_async_callback(_close, adapters)
        await running.enter_async_context(faults.running(sessions.keep(), "sessions"))
        await transcripts.start()
        running.push_async_callback(transcripts.close)
        await running.enter_async_context(faults.running(sessions.duties.run(adapters, gateway.note), "duties"))
        addresses: list[tuple[str, int]] = []
        parts = Services(
            sessions,
            gateway,
            keyring,
            transcripts,
            metrics,
            actions=Actions(),
            ready=partial(_ping, adapters, sessions, transcripts),
            ssh_addresses=lambda: addresses,
        )
        api = create_api(parts, Tokens(keyring.home, keyring.now))
        api_addresses = await running.enter_async_context(serve_api(api, settings.api))
        running.push_async_callback(server.close)
        addresses += await server.listen()
        await running.enter_async_context(faults.running(server.watch_keys(), "keys"))
        for work, task in ((gateway.watch_grants(), "grants"), (gateway.refusals.watch(), "refusals")):
            await running.enter_async_context(faults.running(work, task))
        auditors = Auditors(settings.audit.recipients, keyring, transcripts)
        await running.enter_async_context(faults.running(auditors.watch(), "auditors"))
        if reload is not None and isinstance(adapters, Adapters):
            loop.add_signal_handler(signal.SIGHUP, _call_all, reload.ask, auditors.ask)
            apply = partial(_apply, gateway=gateway, adapters=adapters, keyring=keyring, auditors=auditors)
            await running.enter_async_context(faults.running(reload.watch(settings, apply), "configuration"))
        log.info("serving", addresses=_texts(addresses), api=_texts(api_addresses), node=node)
        if ready is not None:
            ready(addresses)
        await shutdown.requested.wait()
        server.stop_listening()
        await shutdown.drain()
        await sessions.end_all(shutdown.reason, grace=CLEAN_UP_SECONDS)
    faults.raise_fatal()


def _measure(metrics: Metrics, sessions: Sessions, transcripts: Transcripts) -> None:
    def room(field: str) -> float:
        seen = transcripts.volume.room
        return float("nan") if seen is None else float(getattr(seen, field))

    metrics.watch_duties(lambda: sessions.duties.open)
    metrics.watch_room(partial(room, "free"), partial(room, "reserve"))


def _warn_of_problems(keyring: Keyring) -> None:
    for problem in keyring.problems:
        log.warning("key home", problem=problem)


def _texts(addresses: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{host}:{port}" for host, port in addresses]


def _call_all(*functions: Callable[[], None]) -> None:
    for function in functions:
        function()


def _apply(settings: Settings, *, gateway: Gateway, adapters: Adapters, keyring: Keyring, auditors: Auditors) -> None:
    fresh = rules(settings, adapters, keyring)
    adapters.apply(settings)
    gateway.replace_rules(fresh)
    auditors.configure(settings.audit.recipients)
    _warn_of_what_is_not_served(settings)


def _warn_of_what_is_not_served(settings: Settings) -> None:
    for number, grant in enumerate(settings.grants):
        if words := sorted(NOT_SERVED.intersection(grant.allow)):
            log.warning("granted but not served yet", grant=f"grants[{number}]", permissions=words)


async def _close(adapters: Mapping[str, Runtime]) -> None:
    if isinstance(adapters, Adapters):
        await adapters.close()
        return
    for adapter in adapters.values():
        await adapter.close()


async def _ping(adapters: Mapping[str, Runtime], sessions: Sessions, transcripts: Transcripts) -> None:
    transcripts.refuse_unless_ready()
    await sessions.ping()
    for adapter in adapters.values():
        await adapter.ping()
