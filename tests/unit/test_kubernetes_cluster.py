"""The client of a cluster: logins as kubectl's, renewed when refused, and every failure in words without a secret."""

import asyncio
import json
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.http_exceptions
import pytest
from aiohttp import web

from bastion.errors import RuntimeUnreachable
from bastion.runtimes.kubernetes import errors as kubernetes_errors
from bastion.runtimes.kubernetes.cluster import SDK_FAILURES, Answered, Cluster, path, refusal

SECRET = "s3cr3t-t0k3n"  # noqa: S105 - what must not be seen
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A plain HTTP server that answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.address = ""
        self.answer: Serve = self.echo

    async def echo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"authorization": request.headers.get("Authorization"), "path": request.raw_path})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self.answer(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Give a server on this machine."""
    made = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.address = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
def kubeconfig(tmp_path: Path, server: Server) -> Callable[..., Path]:
    """Give a function that writes a kubeconfig for the server with a user."""

    def write(user: dict[str, Any] | None = None, name: str = "config", **cluster: Any) -> Path:
        file = tmp_path / name
        content = {
            "current-context": "one",
            "contexts": [{"name": "one", "context": {"cluster": "here", "user": "me", "namespace": "shop"}}],
            "clusters": [{"name": "here", "cluster": {"server": server.address} | cluster}],
            "users": [{"name": "me", "user": {"token": SECRET} if user is None else user}],
        }
        file.write_text(json.dumps(content))
        return file

    return write


def plugin(folder: Path, script: str) -> dict[str, Any]:
    """Return a user whose credentials a shell script gives."""
    file = folder / "plugin"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}}


def credential(token: str) -> str:
    return json.dumps(
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    )


async def refused(cluster: Cluster) -> RuntimeUnreachable:
    """Return how a request fails; no secret may be in it."""
    with pytest.raises(RuntimeUnreachable) as caught:
        await cluster.get("/version")
    await cluster.close()
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.detail}"
    return caught.value


async def authorization(cluster: Cluster) -> Any:
    return (await cluster.get("/version"))["authorization"]


async def test_a_token_is_sent(kubeconfig: Callable[..., Path]) -> None:
    """And the context's namespace is known."""
    cluster = Cluster(kubeconfig(), None)
    assert await authorization(cluster) == f"Bearer {SECRET}"
    assert await cluster.namespace() == "shop"
    await cluster.close()


async def test_a_token_in_a_file_is_read_without_its_line_end(kubeconfig: Callable[..., Path], tmp_path: Path) -> None:
    """Its path is relative to the kubeconfig's folder."""
    (tmp_path / "token").write_text("from-a-file\n")
    cluster = Cluster(kubeconfig({"tokenFile": "token", "token": "older"}), None)
    assert await authorization(cluster) == "Bearer from-a-file"
    await cluster.close()


async def test_a_credential_plugin_is_run(kubeconfig: Callable[..., Path], tmp_path: Path) -> None:
    """By its path relative to the kubeconfig, once for many requests."""
    user = plugin(tmp_path, f"echo run >> {tmp_path}/runs; echo '{credential('given')}'")
    cluster = Cluster(kubeconfig(user), None)
    assert await asyncio.gather(*(authorization(cluster) for _ in range(10))) == ["Bearer given"] * 10
    assert (tmp_path / "runs").read_text() == "run\n"
    await cluster.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo please log in >&2; exit 3", "failed with exit status 3"),
        ("echo nothing", "gave no credentials"),
        (f'echo \'{{"status": {{"token": "{SECRET}"}}}}\'', "gave no credentials"),
    ],
)
async def test_a_plugin_that_gives_nothing_is_said(
    kubeconfig: Callable[..., Path], tmp_path: Path, script: str, words: str
) -> None:
    """What it says is for the log, what it gives for nobody."""
    assert words in (await refused(Cluster(kubeconfig(plugin(tmp_path, script)), None))).public


async def test_a_plugin_that_waits_is_ended(
    kubeconfig: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it started, after its time."""
    monkeypatch.setattr("bastion.runtimes.kubernetes.login._PLUGIN_SECONDS", 0.3)
    error = await refused(Cluster(kubeconfig(plugin(tmp_path, "sleep 1000 & wait")), None))
    assert "gave nothing" in error.public


async def test_a_refused_login_is_made_anew_once(
    kubeconfig: Callable[..., Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the kubeconfig says by then; what was opened before goes on."""
    monkeypatch.setattr("bastion.runtimes.kubernetes.link._NEW_SECONDS", 0.0)
    ending = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/stream":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await ending.wait()
            await socket.send_str("still here")
            return socket
        good = request.headers["Authorization"] == "Bearer new"
        return web.json_response({}, status=200 if good else 401)

    server.answer = answer
    cluster = Cluster(kubeconfig(), None)
    async with cluster.websocket("/stream", [], []) as stream:
        kubeconfig({"token": "new"})
        assert await cluster.get("/x") == {}
        ending.set()
        assert await stream.receive_str() == "still here"
    kubeconfig({"token": "bad"})
    server.answer = lambda _: asyncio.sleep(0, web.Response(status=401))
    before = len(server.asked)
    assert "does not know the bastion's credentials any more" in (await refused(cluster)).public
    assert len(server.asked) == before + 2


async def test_of_several_kubeconfigs_the_first_that_says_something_wins(
    kubeconfig: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for kubectl; files that are not there are passed over."""
    first, second = kubeconfig(name="a"), kubeconfig({"token": "second"}, name="b")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none:{first}:{second}")
    cluster = Cluster(None, None)
    assert await authorization(cluster) == f"Bearer {SECRET}"
    await cluster.close()


async def test_as_is_passed_on(kubeconfig: Callable[..., Path], server: Server) -> None:
    """Impersonation takes rights away; without it the bastion would have more than was meant."""
    cluster = Cluster(kubeconfig({"token": "x", "as": "alice", "as-groups": ["dev", "ops"]}), None)
    await cluster.get("/version")
    assert server.asked[0].headers["Impersonate-User"] == "alice"
    assert server.asked[0].headers.getall("Impersonate-Group") == ["dev", "ops"]
    await cluster.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"a: [{SECRET}", "is no kubeconfig"),
        (f"- {SECRET}", "is no kubeconfig"),
        (f"clusters: {SECRET}", "is no kubeconfig"),
        ("\x00", "is no kubeconfig"),
        ("{}", "has no current context"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: y}}]", "context x has no cluster"),
    ],
)
async def test_a_kubeconfig_that_is_none_is_said(tmp_path: Path, content: str, words: str) -> None:
    """Without quoting it."""
    file = tmp_path / "config"
    file.write_text(content)
    assert words in (await refused(Cluster(file, None))).public


async def test_an_unknown_context_lists_those_there_are(kubeconfig: Callable[..., Path]) -> None:
    """Of the file that was read."""
    error = await refused(Cluster(kubeconfig(), "other"))
    assert (error.public, error.hint) == ("the kubeconfig has no context other", "its contexts: one")


async def test_certificates_that_are_none_are_said(kubeconfig: Callable[..., Path]) -> None:
    """Without quoting them."""
    user = {"client-certificate-data": "AAAA", "client-key-data": SECRET}
    file = kubeconfig(user, server="https://127.0.0.1:1", **{"certificate-authority-data": "AAAA"})
    assert "certificates or credentials cannot be used" in (await refused(Cluster(file, None))).public


async def test_without_any_kubeconfig_a_service_account_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without both that is said."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (await refused(Cluster(None, None))).public == "no kubeconfig and no service account"


async def test_an_answer_that_is_no_success_is_raised_with_its_reason(
    kubeconfig: Callable[..., Path], server: Server
) -> None:
    """Escaped, for it is the server's; a redirection is no success either."""
    body = {"kind": "Status", "reason": "Forbidden", "message": "no\x1b[2J"}
    server.answer = lambda _: asyncio.sleep(0, web.json_response(body, status=403))
    cluster = Cluster(kubeconfig(), None)
    with pytest.raises(Answered) as caught:
        await cluster.get("/x")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (403, "Forbidden", "no\\x1b[2J")
    assert refusal(caught.value, "list pods in the namespace x").public == (
        "the bastion may not list pods in the namespace x"
    )
    server.answer = lambda _: asyncio.sleep(0, web.Response(status=302, headers={"Location": "http://192.0.2.1/"}))
    with pytest.raises(Answered, match="302"):
        await cluster.get("/x")
    with pytest.raises(Answered, match="302"):
        await cluster.websocket("/x", [("command", "id")], ["v5.channel.k8s.io"]).__aenter__()
    server.answer = lambda _: asyncio.sleep(0, web.json_response(body, status=403))
    with pytest.raises(Answered, match="403 Forbidden no"):
        await cluster.websocket("/x", [], []).__aenter__()
    await cluster.close()


@pytest.mark.parametrize(
    ("message", "verbs"),
    [
        ('pods "x" is forbidden: User "me" cannot create resource "pods/exec" in API group ""', "create"),
        ('pods "x" is forbidden: User "me" cannot get resource "pods/exec" in API group ""', "get"),
        ("cannot delete resource everything", "create and get"),
        ("", "create and get"),
    ],
)
def test_the_right_that_a_stream_lacks_is_named(message: str, verbs: str) -> None:
    """As far as the server says which; else both that it needs."""
    error = kubernetes_errors.stream_refusal(Answered(403, "Forbidden", message), "pods/exec", "shop")
    assert error.public == f"the bastion may not {verbs} pods/exec in the namespace shop"


@pytest.mark.parametrize("body", [b"[]", b"no", b"[" * 100_000, b'{"a": "\xff"}'])
async def test_what_is_no_object_is_no_answer(kubeconfig: Callable[..., Path], server: Server, body: bytes) -> None:
    """Of a request and of a watch."""
    server.answer = lambda _: asyncio.sleep(0, web.Response(body=body + b"\n"))
    cluster = Cluster(kubeconfig(), None)
    with pytest.raises(RuntimeUnreachable):
        _ = [event async for event in cluster.watch("/x", {})]
    assert "does not answer as a cluster does" in (await refused(cluster)).public


async def test_a_watchs_lines_are_bounded(kubeconfig: Callable[..., Path], server: Server) -> None:
    """Lines may come in any pieces; one of more than 4 MiB ends the watch."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"a"', b': 1}\n{"a": 2}\n\n{"a": 3', b"}\n"):
            await response.write(piece)
            await asyncio.sleep(0.01)
        for _ in range(80):
            await response.write(b" " * 65536)
        return response

    server.answer = answer
    cluster = Cluster(kubeconfig(), None)
    watch = cluster.watch("/x", {})
    assert [(await anext(watch))["a"] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(RuntimeUnreachable):
        await anext(watch)
    await cluster.close()


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_a_path_is_made_of_names(segment: str) -> None:
    """Each is one segment, whatever is in it."""
    assert path("namespaces", "a/b?c", "pods") == "/api/v1/namespaces/a%2Fb%3Fc/pods"
    assert path("deployments", api="apis/apps/v1") == "/apis/apps/v1/deployments"
    with pytest.raises(ValueError, match="none"):
        path("namespaces", segment)


def classes(of: type[BaseException]) -> Iterator[type[BaseException]]:
    yield of
    for kind in of.__subclasses__():
        yield from classes(kind)


LIBRARIES = {
    kind
    for root in (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, ssl.SSLError, *SDK_FAILURES)
    for kind in classes(root)
} | {TimeoutError, ConnectionResetError, OSError, ValueError, UnicodeDecodeError, json.JSONDecodeError}


@pytest.mark.parametrize("kind", sorted(LIBRARIES, key=str))
def test_every_error_of_the_libraries_becomes_ours(kind: type[BaseException]) -> None:
    """However it was made, and without its own text, which may quote a command."""
    error = kind.__new__(kind)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error._certificate_error = ssl.CertificateError()  # noqa: SLF001 - what its own text is made of
    with pytest.raises(RuntimeUnreachable), kubernetes_errors.mapped("https://here", SDK_FAILURES):
        raise error
