"""The connections to a cluster that one login makes: who asks, by which proxy, and kept until nobody uses them."""

import asyncio
import contextlib
import hashlib
import math
import socket
import ssl
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp

from bastion.runtimes.kubernetes.answers import successful
from bastion.runtimes.kubernetes.login import Login

_CONNECT_SECONDS: Final = 10.0
_SKEW: Final = 60.0  # seconds before they expire that credentials are renewed
_NEW_SECONDS: Final = 5.0
_CLOSING_SECONDS: Final = 0.5  # that TLS may take to say good-bye
_TICK: Final = 0.005


def _identity(server: str, ssl_context: ssl.SSLContext) -> str:
    """Return what tells a cluster from others: its address, which in a pod is the same in many, and its CA."""
    digest = hashlib.sha256(server.encode())
    for certificate in sorted(ssl_context.get_ca_certs(binary_form=True)):
        digest.update(certificate)
    return digest.hexdigest()[:32]


class Link:
    """One login and the connections made with it; those end only when nobody uses them any more.

    `configuration` is the SDK's, with the host and what authenticates. Needs a running loop.
    """

    def __init__(
        self, configuration: Any, ssl_context: ssl.SSLContext, login: Login | None, namespace: str | None
    ) -> None:
        self.server = str(configuration.host).rstrip("/")
        self.namespace = namespace
        self.identity = _identity(self.server, ssl_context)
        self._made = time.monotonic()
        self._expires = login.expires if login is not None else math.inf
        self._configuration = configuration
        self._impersonated = _impersonated(login.user if login is not None else {})
        self._uses = 0
        self._retired = False
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=ssl_context,
                limit=0,  # each watch and each session holds a connection for as long as it lasts
                socket_factory=self._made_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            read_bufsize=256 * 1024,
            middlewares=(_refuse,),
        )

    @property
    def is_new(self) -> bool:
        """Whether it was made a moment ago: its credentials are not made again then, even if refused or expired."""
        return time.monotonic() - self._made < _NEW_SECONDS

    @property
    def expired(self) -> bool:
        """Whether its credentials are to be made anew."""
        return time.time() > self._expires - _SKEW and not self.is_new

    @property
    def closed(self) -> bool:
        """Whether its connections are."""
        return self._session.closed

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Hold on to the connections, also of a login that was retired meanwhile."""
        self._uses += 1
        try:
            yield self._session
        finally:
            self._uses -= 1
            await self._close_if_unused()

    async def retire(self) -> None:
        """Close the connections once nobody uses them."""
        self._retired = True
        await self._close_if_unused()

    async def close(self) -> None:
        """Close the connections, and wait until they are: the session does not wait for those just let go."""
        await self._session.close()
        await self._gone()
        for made in self._open():
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        await self._gone()

    async def _close_if_unused(self) -> None:
        if self._retired and not self._uses:
            await self.close()

    def _made_socket(self, info: Any) -> socket.socket:
        made = _kept_alive(info)
        self._sockets.add(made)
        return made

    def _open(self) -> list[socket.socket]:
        return [made for made in self._sockets if made.fileno() >= 0]

    async def _gone(self) -> None:
        """Wait for a moment until every socket is closed by its transport."""
        until = time.monotonic() + _CLOSING_SECONDS
        while self._open() and time.monotonic() < until:  # noqa: ASYNC110 - asyncio tells nobody when it closes a socket
            await asyncio.sleep(_TICK)
        await asyncio.sleep(0)

    async def options(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return what every request carries: who asks, and by which way."""
        sent = [("User-Agent", "bastion"), *headers.items(), *self._impersonated]
        settings = await self._configuration.auth_settings()
        if token := (settings.get("BearerToken") or {}).get("value"):
            scheme, _, credentials = str(token).strip().partition(" ")
            sent.append(("Authorization", f"{scheme.title()} {credentials}"))  # the SDK's service account says "bearer"
        options: dict[str, Any] = {"headers": sent, "proxy": self._proxy()}
        if self._configuration.tls_server_name:
            options["server_hostname"] = self._configuration.tls_server_name
        return options

    def _proxy(self) -> str | None:
        """Return proxy-url, or the environment's; aiohttp's own reading of it would read ~/.netrc as well."""
        if self._configuration.proxy:
            return str(self._configuration.proxy)
        parts = urllib.parse.urlsplit(self.server)
        if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        return urllib.request.getproxies().get(parts.scheme)


def _impersonated(user: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers for `as` and its like, which the SDK passes over: more rights than were meant."""
    headers = [("Impersonate-User", user["as"])] if user.get("as") else []
    headers += [("Impersonate-Uid", user["as-uid"])] if user.get("as-uid") else []
    return [(name, str(value)) for name, value in headers] + [
        ("Impersonate-Group", str(group)) for group in user.get("as-groups") or []
    ]


async def _refuse(request: aiohttp.ClientRequest, ask: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Raise Answered for every answer that is no success: of a handshake the library would follow redirects."""
    return await successful(await ask(request))


def _kept_alive(info: Any) -> socket.socket:
    """Make a socket that notices within a minute when its server is gone: a watch may be silent for minutes."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def shown(server: str) -> str:
    """Return a server's address without any user or password in it."""
    parts = urllib.parse.urlsplit(server)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
