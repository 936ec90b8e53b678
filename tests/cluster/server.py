"""The stand-in API server: TLS, who asks and whether they may, and the way to REST, exec or port-forward."""

import asyncio
import contextlib
import dataclasses
import ssl
import weakref
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.cluster import discovery
from tests.cluster.answers import Object, Refused, answer
from tests.cluster.exec import Asked, Exec, choose
from tests.cluster.forward import Forward
from tests.cluster.kubelet import Pod
from tests.cluster.node import Node
from tests.cluster.rest import Rest, body_of
from tests.cluster.rights import Rights, Where
from tests.cluster.switches import HARNESS, Switches

_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_RESTART_SECONDS: Final = 2.0
_HEAD_BYTES: Final = 1024 * 1024  # of a request's line, and of a header, as Go's server takes; a command is in the line


class Server:
    """An API server on a port of 127.0.0.1, over one node."""

    def __init__(self, node: Node, folder: Path, rights: Rights) -> None:
        self._node = node
        self._rest = Rest(node)
        self._rights = rights
        self._folder = folder
        self._plain: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()  # connections that are no streams
        self._listener: asyncio.Server | None = None
        self._restart: asyncio.Task[None] | None = None
        self.port = 0
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, max_line_size=_HEAD_BYTES, max_field_size=_HEAD_BYTES
        )

    async def start(self) -> None:
        """Listen; the port is in `port` then."""
        await self._runner.setup()
        await self._listen()

    async def close(self) -> None:
        """Stop, and end every connection."""
        if self._restart is not None:
            self._restart.cancel()
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    async def control(self, request: web.Request) -> web.Response:
        """Take switches from the tests: an object of them, an empty one for none; `restart` and so on act once."""
        asked: dict[str, Any] = await request.json()
        if not asked:
            for pod in self._node.pods():
                pod.lose_node(lost=False)
            self._node.switch(Switches())
        await self._act(asked)
        pairs = {name: [tuple(pair) for pair in asked[name]] for name in ("forbid", "rights") if asked.get(name)}
        self._node.switch(dataclasses.replace(self._node.switches, **asked | pairs))
        return web.Response()

    async def _act(self, asked: dict[str, Any]) -> None:
        """Do what acts once, and take it out of what is asked."""
        for pod in self._node.named(asked.pop("evict", "")):
            await pod.evict()
        for pod in self._node.named(asked.pop("node_lost", "")):
            pod.lose_node()
        if asked.pop("compact", False):
            self._node.store.compact()
        if asked.pop("drop_watches", False):
            self._rest.watches += 1
        if token := asked.pop("token", None):
            self._rights.token = token
        if asked.pop("restart", False):
            self._drop()
            self._restart = asyncio.create_task(self._come_back())

    async def _listen(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._folder / "ca.crt"))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._runner.server, "127.0.0.1", self.port, ssl=context)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _drop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for transport in list(self._plain):
            transport.abort()  # type: ignore[attr-defined]

    async def _come_back(self) -> None:
        await asyncio.sleep(_RESTART_SECONDS)
        await self._listen()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:  # else the client has gone already
            self._plain.add(request.transport)
        switches = self._switches_for(request)
        try:
            user = self._rights.user(request, switches)
            if switches.slow:
                await asyncio.sleep(switches.slow)
            return await self._dispatch(request, user, switches)
        except Refused as refused:
            return answer(refused.status(), refused.code)
        except ConnectionError:
            if request.transport is not None and not request.transport.is_closing():
                raise
            return web.Response()  # to a client that has gone

    def _switches_for(self, request: web.Request) -> Switches:
        return Switches() if request.headers.get("User-Agent") == HARNESS else self._node.switches

    async def _dispatch(self, request: web.Request, user: str, switches: Switches) -> web.StreamResponse:
        path = request.path
        if path == "/version":
            return answer(discovery.version(switches.version))
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if (known := discovery.answer_to(path, f"127.0.0.1:{self.port}")) is not None:
            return answer(known)
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and request.method == "POST":
            return answer(self._rights.review(user, await body_of(request), switches), 201)
        where = _where(path)
        if where is None:
            raise Refused(404, "the server could not find the requested resource", {})
        if where.subresource in ("exec", "portforward"):
            return await self._stream(request, where, user, switches)
        self._rights.require(user, _verb(request, where), where, switches)
        return await self._rest.serve(request, where)

    async def _stream(self, request: web.Request, where: Where, user: str, switches: Switches) -> web.StreamResponse:
        verbs = ["create"] if request.method == "POST" else ["get"]
        if verbs == ["get"] and switches.minor() >= 35:
            verbs.append("create")
        for verb in verbs:
            self._rights.require(user, verb, where, switches)
        made = self._node.store.get(("pods", where.namespace, where.name))
        if made is None:
            raise Refused(404, f'pods "{where.name}" not found', {"name": where.name, "kind": "pods"})
        container = _container(made, request.query.get("container", "")) if where.subresource == "exec" else ""
        if request.method != "GET":
            raise Refused(405, "Method Not Allowed", {})
        pod = self._node.pod(where.namespace, where.name)
        if pod is None:
            raise Refused(400, f"pod {where.name} does not have a host assigned")
        if where.subresource == "exec":
            return await self._exec(request, container, pod, switches)
        return await self._forward(request, pod)

    async def _exec(self, request: web.Request, container: str, pod: Pod, switches: Switches) -> web.StreamResponse:
        streams = {n for n, name in enumerate(("stdin", "stdout", "stderr")) if _is_true(request.query.get(name))}
        if not streams:
            return web.Response(status=400, text="you must specify at least 1 of stdin, stdout, stderr")
        if not request.query.getall("command", []):
            raise Refused(400, "you must specify at least 1 command", None)
        protocol = choose(_offered(request), switches)
        if protocol is None:
            return web.Response(status=403)
        engines = pod.container(container)
        if engines is None:
            return web.Response(status=500, text=f'container not found ("{container}")')
        tty = _is_true(request.query.get("tty"))
        asked = Asked(request.query.getall("command"), engines, tty, frozenset(streams - ({2} if tty else set())))
        ws = await self._upgraded(request, protocol)
        await Exec(asked, pod, self._node.docker.runc, protocol, switches).serve(request, ws)
        return ws

    async def _forward(self, request: web.Request, pod: Pod) -> web.StreamResponse:
        protocol = next((name for name in _offered(request) if name == "v4.channel.k8s.io"), None)
        holder = pod.holder()
        if protocol is None or holder is None:
            return web.Response(status=403 if protocol is None else 500)
        try:
            ports = [int(port) for text in request.query.getall("ports") for port in text.split(",")]
        except (KeyError, ValueError):
            return web.Response(status=400, text='query parameter "port" is required')
        try:
            pid = self._node.docker.runc.pid(holder)
        except FileNotFoundError:  # it has just ended
            return web.Response(status=500)
        ws = await self._upgraded(request, protocol)
        await Forward(pod, pid, ports).serve(ws)
        return ws

    async def _upgraded(self, request: web.Request, protocol: str) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=(protocol,) if protocol else (), timeout=2, compress=False)
        if not protocol:
            ws.headers["Sec-WebSocket-Protocol"] = ""
        await ws.prepare(request)
        if request.transport is not None:  # else the client has gone already
            self._plain.discard(request.transport)
            with contextlib.suppress(AttributeError):
                request.transport.set_write_buffer_limits(64 * 1024)
        return ws


def _where(path: str) -> Where | None:
    """Read a path of the API; None when it names nothing that exists."""
    words = path.strip("/").split("/")
    group, words = ("", words[1:]) if words[0] == "api" else ("/".join(words[1:2]), words[2:])
    if not words:
        return None
    version, words = words[0], words[1:]
    watching = words[:1] == ["watch"]
    words = words[1:] if watching else words
    namespace = ""
    if len(words) > 2 and words[0] == "namespaces":
        namespace, words = words[1], words[2:]
    resource = discovery.find(group, version, words[0]) if words else None
    if resource is None or len(words) > 3:
        return None
    words += [""] * (3 - len(words))
    if words[2] not in ("", *(discovery.SUBRESOURCES.get(resource.full, ()))):
        return None
    return Where(resource, namespace, words[1], words[2])


def _verb(request: web.Request, where: Where) -> str:
    if request.method != "GET":
        return _VERBS.get(request.method, request.method.lower())
    if where.name:
        return "get"
    return "watch" if request.query.get("watch") in ("true", "1") else "list"


def _container(made: Object, name: str) -> str:
    spec = made["spec"]
    kinds = ("containers", "initContainers", "ephemeralContainers")
    names = [one["name"] for kind in kinds for one in spec.get(kind, ())]
    pod = made["metadata"]["name"]
    if not name:
        if len(spec["containers"]) == 1:
            return str(names[0])
        words = f"a container name must be specified for pod {pod}, choose one of: [{' '.join(names)}]"
        raise Refused(400, words)
    if name not in names:
        raise Refused(400, f"container {name} is not valid for pod {pod}")
    return name


def _offered(request: web.Request) -> list[str]:
    headers = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [word.strip() for header in headers for word in header.split(",") if word.strip()]


def _is_true(word: str | None) -> bool:
    return word in ("true", "1")
