"""The API's listeners: uvicorn inside the server's own loop, by unix socket and TLS, with limits before a request."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI

from bastion.api.connections import Gate, Protocol, Room
from bastion.api.listening import tcp_listener, unix_listener
from bastion.config import ApiSettings
from bastion.errors import BastionError, ConfigurationError
from bastion.tasks import background

CERTIFICATE_CHECK_SECONDS: Final = 5.0
_HEADER_BYTES: Final = 16 * 1024

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._tls = tls
        self._waiting: set[Gate] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on these sockets, and say so."""
        room = Room(is_unix=any(one.family == socket.AF_UNIX for one in sockets or []))
        make: Callable[[], Protocol] = partial(Protocol, self.config, self.server_state, {}, room=room)
        factory = make if self._tls is None else partial(Gate, self._tls, self._waiting, room, make)
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(factory, sock=one, backlog=64) for one in sockets or []]
        self.started = True
        self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave those whose handshake is not over, and let the others finish."""
        for gate in list(self._waiting):
            gate.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the server around this one."""
        yield


@asynccontextmanager
async def serve_api(api: FastAPI, settings: ApiSettings) -> AsyncIterator[list[tuple[str, int]]]:
    """Answer on the unix socket, mode 0660, and on the addresses, for as long as the context lasts; give the latter.

    Raises:
        ConfigurationError: another server answers there, an address or the certificate cannot be used.
    """
    async with AsyncExitStack() as running:
        bound = []
        if settings.socket is not None:
            await running.enter_async_context(_serve(api, running.enter_context(unix_listener(settings.socket)), None))
        if settings.endpoints:
            tls = tls_of(settings)
            if tls is not None:
                await running.enter_async_context(_renewing(tls, settings))
            for host, port in settings.endpoints:
                listening = running.enter_context(tcp_listener(host, port))
                bound.append((str(listening.getsockname()[0]), int(listening.getsockname()[1])))
                await running.enter_async_context(_serve(api, listening, tls))
        yield bound


@asynccontextmanager
async def _serve(api: FastAPI, listening: socket.socket, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    config = uvicorn.Config(
        api,
        http=Protocol,
        log_config=None,
        log_level="critical",  # what goes wrong is in our own log already
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        server_header=False,
        proxy_headers=False,
    )
    server = _Server(config, tls)
    serving = background(_serve_until_asked(server, listening), name="api", essential=True)
    starting = background(server.up.wait(), name="api starting")
    try:
        await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
            raise BastionError("the api did not start", "look at the log")
        yield
    finally:
        starting.cancel()
        server.should_exit = True
        await serving


async def _serve_until_asked(server: _Server, listening: socket.socket) -> None:
    await server.serve([listening])
    if not server.should_exit:
        raise BastionError("the api has ended by itself", "look at the log")


def tls_of(settings: ApiSettings) -> ssl.SSLContext | None:
    """Return what TLS is spoken with, None where no certificate is configured.

    Raises:
        ConfigurationError: the certificate or its key cannot be used.
    """
    if settings.certificate is None and settings.private_key is None:
        return None
    if settings.certificate is None or settings.private_key is None:
        raise ConfigurationError("[api] certificate and private_key go together", "set both, or neither")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(made, settings)
    return made


def _load(tls: ssl.SSLContext, settings: ApiSettings) -> None:
    """Take the certificate and key from their files; connections from now on are shown it.

    Raises:
        ConfigurationError: they cannot be read, or do not go together.
    """
    try:
        tls.load_cert_chain(settings.certificate or "", settings.private_key, password=lambda: b"")
    except (OSError, ValueError) as error:
        words = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error).lower()
        raise ConfigurationError(
            f"[api] certificate {settings.certificate} with {settings.private_key}: {words}",
            "both are PEM files, the key without a passphrase",
        ) from error


@asynccontextmanager
async def _renewing(tls: ssl.SSLContext, settings: ApiSettings) -> AsyncIterator[None]:
    task = background(_renew(tls, settings), name="api certificate")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _renew(tls: ssl.SSLContext, settings: ApiSettings) -> None:
    """Load the certificate for ever when its files change; an unusable or unreadable certificate changes nothing."""
    seen: object = None
    with contextlib.suppress(OSError):
        seen = _stamp(settings)
    reason = ""
    while True:
        await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
        try:
            if (stamp := _stamp(settings)) == seen:
                continue
            # First into a context that nobody uses: half of a pair must not end in the one that serves.
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)
            _load(tls, settings)
        except (ConfigurationError, OSError) as error:  # tried again at the next poll, and logged once
            if str(error) != reason:
                reason = str(error)
                log.error("certificate not taken over", reason=reason)  # noqa: TRY400 - it is the file's fault
        else:
            seen, reason = stamp, ""
            log.info("certificate read again", path=str(settings.certificate))


def _stamp(settings: ApiSettings) -> list[tuple[int, int, int]]:
    """Return a stamp that differs whenever the certificate or its key has changed.

    Raises:
        OSError: the certificate or its key is gone, or stat(2) on one of them fails.
    """
    found = [path.stat() for path in (settings.certificate, settings.private_key) if path is not None]
    return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in found]
