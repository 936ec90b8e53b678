"""Speak HTTP and WebSocket with one cluster: credentials kept fresh, answers bounded, failures in our words."""

import asyncio
import base64
import contextlib
import json
import tempfile
import urllib.parse
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import OpenApiException
from kubernetes.aio.config import ConfigException
from yarl import URL

from bastion.errors import RuntimeUnreachable
from bastion.runtimes.kubernetes import errors
from bastion.runtimes.kubernetes.answers import body, lines, read_object
from bastion.runtimes.kubernetes.errors import Answered, refusal
from bastion.runtimes.kubernetes.link import Link, shown
from bastion.runtimes.kubernetes.login import Login, log_in

__all__ = ["Answered", "Cluster", "path", "refusal"]

SDK_FAILURES: Final = (ConfigException, OpenApiException)
ANSWER_SECONDS: Final = 30.0
ANSWER_LIMIT: Final = 64 * 1024 * 1024
MESSAGE_LIMIT: Final = 1024 * 1024
_NO_KUBECONFIG_HINT: Final = "name a kubeconfig: [kubernetes] kubeconfig, $KUBECONFIG or ~/.kube/config"
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_UNAUTHORIZED: Final = 401

_Result = TypeVar("_Result")


def path(*segments: str, api: str = "api/v1") -> str:
    """Join names into the path of a resource, each quoted: `path("namespaces", "x", "pods", api="api/v1")`.

    Raises:
        ValueError: a segment is empty, "." or "..", and would make another path of it.
    """
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("a name in a path is none")
    return "/".join(["", api, *(urllib.parse.quote(segment, safe="") for segment in segments)])


class Cluster:
    """One context of a kubeconfig, or the service account of this pod; nothing is read before it is used.

    Every method raises RuntimeUnreachable when the server cannot be reached or does not know who asks, and `Answered`
    for any other answer that is no success. Log-ins are renewed before they expire, and once when one is refused.
    """

    def __init__(self, kubeconfig: Path | None, context: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._retired: set[Link] = set()

    async def get(self, path: str, query: Mapping[str, str] = _NOTHING, *, accept: str = "") -> dict[str, Any]:
        """Return the object at a path, at most 64 MiB of it, within 30 s; `accept` asks for another form of it."""
        return await self._request("GET", path, query=query, headers={"Accept": accept or "application/json"})

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object and return it."""
        return await self._request("POST", path, content=body, headers={"Content-Type": "application/json"})

    async def patch(self, path: str, body: Mapping[str, Any], content_type: str) -> dict[str, Any]:
        """Change an object by a patch of the given content type, and return it."""
        return await self._request("PATCH", path, content=body, headers={"Content-Type": content_type})

    async def watch(
        self, path: str, query: Mapping[str, str], *, accept: str = "", opened: Callable[[], None] | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Give the events of a watch until the server ends it; `opened` is called once it has answered.

        Raises:
            RuntimeUnreachable: also for a line of more than 4 MiB, or one that is no JSON object.
        """
        headers = {"Accept": accept or "application/json", "Accept-Encoding": "identity"}

        async def send(link: Link, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
            async with asyncio.timeout(ANSWER_SECONDS):
                response: aiohttp.ClientResponse = await session.get(
                    _url(link.server, path, [*query.items(), ("watch", "true")]),
                    allow_redirects=False,
                    **await link.options(headers),
                )
                return response

        async with self._asked(send) as (server, response), response:
            if opened is not None:
                opened()
            with errors.mapped(server):
                try:
                    async with contextlib.aclosing(lines(response)) as stream:
                        async for line in stream:
                            yield read_object(line)
                finally:
                    _abort(response)

    def websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket by one of the subprotocols; messages are at most 1 MiB, and pings are for the caller.

        A handshake that is refused raises Answered, with the reason where the server gives one.
        """
        return self._websocket(path, query, protocols)

    @asynccontextmanager
    async def _websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async def send(link: Link, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    found: aiohttp.ClientWebSocketResponse = await session.ws_connect(
                        _url(link.server, path, query),
                        protocols=protocols,
                        autoping=False,
                        compress=0,
                        max_msg_size=MESSAGE_LIMIT,
                        **await link.options({}),
                    )
                    return found
            except aiohttp.WSServerHandshakeError as error:
                raise Answered(error.status) from None  # it quotes the request's headers, the token's too

        async with self._asked(send) as (_, socket_):
            try:
                yield socket_
            finally:
                await socket_.close()

    async def server(self) -> str:
        """Return the server's address, https://HOST:PORT, without any user or password in it."""
        return shown((await self._linked()).server)

    async def identity(self) -> str:
        """Return what tells this cluster from others of the same name in the configuration."""
        return (await self._linked()).identity

    async def namespace(self) -> str | None:
        """Return the context's namespace, or the service account's own."""
        return (await self._linked()).namespace

    async def close(self) -> None:
        """Close every connection."""
        links = {self._link, *self._retired} - {None}
        self._link = None
        self._retired.clear()
        for link in links:
            if link is not None:
                await link.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str] = _NOTHING,
        content: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        async def send(link: Link, session: aiohttp.ClientSession) -> dict[str, Any]:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await session.request(
                    method,
                    _url(link.server, path, [*query.items()]),
                    data=None if content is None else json.dumps(content).encode(),
                    allow_redirects=False,
                    **await link.options(headers),
                )
                async with response:
                    return read_object(await body(response, ANSWER_LIMIT))

        async with self._asked(send) as (_, answer):
            return answer

    @asynccontextmanager
    async def _asked(
        self, send: Callable[[Link, aiohttp.ClientSession], Coroutine[Any, Any, _Result]]
    ) -> AsyncIterator[tuple[str, _Result]]:
        """Send something by the present login, and hold on to its connections; once more after a 401 that is news."""
        refused: Link | None = None
        while True:
            link = await self._linked(refused)
            server = shown(link.server)
            async with link.use() as session:
                try:
                    with errors.mapped(server, SDK_FAILURES):
                        result = await send(link, session)
                except Answered as answered:
                    if answered.status != _UNAUTHORIZED:
                        raise
                    if refused is not None or link.is_new:
                        raise errors.unknown_here(server) from answered
                    refused = link
                    continue
                yield server, result
                return

    async def _linked(self, refused: Link | None = None) -> Link:
        """Return the present login, or a new one if there is none, it is about to expire, or it was `refused`."""
        async with self._opening:
            link = self._link
            if link is None or link is refused or link.expired:
                self._link = await self._log_in()
                if link is not None:
                    self._retired.add(link)
                    await link.retire()
                self._retired = {old for old in self._retired if not old.closed}
            assert self._link is not None  # noqa: S101 - for mypy
            return self._link

    async def _log_in(self) -> Link:
        login = await log_in(self._kubeconfig, self._context)
        if login is None and self._context is not None:
            raise RuntimeUnreachable(f"there is no kubeconfig with the context {self._context}", _NO_KUBECONFIG_HINT)
        configuration = client.Configuration()
        # Python 3.13 asks of a CA what many clusters' own do not have; kubectl does not ask it either.
        configuration.disable_strict_ssl_verification = True
        with tempfile.TemporaryDirectory(prefix="bastion-") as folder:
            try:
                if login is None:
                    namespace = await asyncio.to_thread(_service_account, configuration)
                else:
                    namespace = login.namespace
                    content = await asyncio.to_thread(_with_files, login, Path(folder))
                    await config.load_kube_config_from_dict(content, client_configuration=configuration)
                return Link(configuration, client.ApiClient(configuration).rest_client.ssl_context, login, namespace)
            except (*SDK_FAILURES, OSError, ValueError, TypeError, KeyError) as error:
                # the SDK's words quote what it could not read, which may be a secret
                if login is None:
                    raise RuntimeUnreachable(
                        "no kubeconfig and no service account", _NO_KUBECONFIG_HINT, detail=type(error).__name__
                    ) from error
                raise RuntimeUnreachable(
                    "the kubeconfig's certificates or credentials cannot be used",
                    "kubectl version with the same kubeconfig says more",
                    detail=type(error).__name__,
                ) from error


def _abort(response: aiohttp.ClientResponse) -> None:
    """Let go of an answer that goes on: a polite end of TLS would wait for a server that has more to say."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


def _service_account(configuration: Any) -> str | None:
    config.load_incluster_config(client_configuration=configuration)
    with contextlib.suppress(FileNotFoundError, ValueError):
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="ascii").strip() or None
    return None


def _with_files(login: Login, folder: Path) -> dict[str, Any]:
    """Return the login as a kubeconfig whose certificates are files: the SDK would keep files of its own, for good."""
    cluster, user = dict(login.cluster), dict(login.user)
    for part, key in ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key")):
        if data := part.pop(f"{key}-data", None):
            file = folder / key
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(data))
            part[key] = str(file)
    return {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "it", "user": user}],
    }


def _url(server: str, path: str, query: Sequence[tuple[str, str]]) -> URL:
    encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, errors="surrogateescape")
    return URL(f"{server}{path}" + (f"?{encoded}" if encoded else ""), encoded=True)
