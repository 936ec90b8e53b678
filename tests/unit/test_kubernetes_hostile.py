"""An API server that means ill: frames, answers, redirections and plugins of any form end in words, never in a 0."""

import asyncio
import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from bastion.errors import ConnectionLost, RuntimeFailed, RuntimeUnreachable
from bastion.model import STDOUT, Data
from bastion.runtimes.kubernetes import login as kubernetes_login
from bastion.runtimes.kubernetes.cluster import Answered, Cluster
from bastion.runtimes.kubernetes.forward import forward
from bastion.runtimes.kubernetes.pods import read_pod
from bastion.runtimes.kubernetes.stream import V5, Place, PodStream, Status, StreamBroken, status_of
from tests.runtimes.world import resident

SECRET = "s3cr3t-t0k3n"  # noqa: S105 - what must not be seen
SUCCESS = b'\x03{"metadata":{},"status":"Success"}'
SEVEN = b'\x03{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}'
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Callable[[Serve], Awaitable[Cluster]]]:
    """Give a function that makes a server which answers everything one way, and its client."""
    runners: list[web.AppRunner] = []
    clusters: list[Cluster] = []

    async def make(serve: Serve) -> Cluster:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", serve)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        clusters.append(Cluster(kubeconfig(tmp_path, "http://{}:{}".format(*runner.addresses[0][:2])), None))
        return clusters[-1]

    yield make
    for cluster in clusters:
        await cluster.close()
    for runner in runners:
        await runner.cleanup()


def kubeconfig(folder: Path, server: str, **user: Any) -> Path:
    file = folder / "config"
    content = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user or {"token": SECRET}}],
    }
    file.write_text(json.dumps(content))
    return file


def speaking(frames: Sequence[bytes | str], *, pings: int = 0, closes: bool = True) -> Serve:
    """Return a server of WebSockets that says these frames, whatever it is asked."""

    async def serve(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(protocols=(V5, "v4.channel.k8s.io"), autoping=False)
        await ws.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(pings):
                await ws.ping(b"x" * 125)
            for frame in frames:
                await (ws.send_str(frame) if isinstance(frame, str) else ws.send_bytes(frame))
            while not closes and (await ws.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                continue
            await ws.close()
        return ws

    return serve


def always(**answer: Any) -> Serve:
    """Return a server of one answer."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(**answer)

    return serve


async def heard(cluster: Cluster) -> tuple[bytes, Status]:
    """Read a program to its end, and its status."""
    stream = PodStream(cluster, Place("shop", "web-1", "web"), tty=False)
    out = bytearray()
    try:
        await stream.open(["true"], stdin=True)
        while (data := await stream.read()) is not None:
            out += data.payload
        return bytes(out), status_of(stream.status)
    finally:
        await stream.close()


@pytest.mark.parametrize(
    "frames",
    [
        [b"\x01" + b"x" * 2 * 1024 * 1024, SUCCESS],
        [b"\x07what", SUCCESS],
        [b"\x00back", SUCCESS],
        ["\x01text", SUCCESS],
        ["\x03" + SUCCESS[1:].decode()],
        [SUCCESS, SEVEN],
        [SEVEN, SUCCESS],
        [SUCCESS, SUCCESS],
        [b"\x03", SUCCESS],
        [b"\x03" + b" " * 70_000 + SUCCESS[1:]],
        [b"\x03" + b'{"a":' * 10_000],
        [b'\x03{"status":"Failure","code":' + b"9" * 5000 + b"}"],
        [b"\x01output and no status"],
        [b"\xff"],
        [b""],
        [],
    ],
    ids=lambda frames: repr(frames)[:30],
)
async def test_frames_that_are_no_program(
    hostile: Callable[[Serve], Awaitable[Cluster]], frames: list[bytes | str]
) -> None:
    """What a program's stream cannot hold breaks it; there is no status then, least of all 0."""
    with pytest.raises(StreamBroken):
        await heard(await hostile(speaking(frames)))


async def test_output_behind_the_status(hostile: Callable[[Serve], Awaitable[Cluster]]) -> None:
    """What comes behind the status is output all the same, and the status stays what it was."""
    cluster = await hostile(speaking([b"\x01early ", SEVEN, b"\x01late", b"\xff\x01"]))
    assert await heard(cluster) == (b"early late", Status(7, ""))


async def test_a_status_without_a_close(
    hostile: Callable[[Serve], Awaitable[Cluster]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says the status and then nothing is not waited for."""
    monkeypatch.setattr("bastion.runtimes.kubernetes.stream._LAST", 0.3)
    async with asyncio.timeout(10):
        assert await heard(await hostile(speaking([SEVEN], closes=False))) == (b"", Status(7, ""))


async def test_a_flood_of_pings(hostile: Callable[[Serve], Awaitable[Cluster]]) -> None:
    """Pings that are never to be read again fill no memory and stop no output."""
    cluster = await hostile(speaking([b"\x01out", SEVEN], pings=50_000))
    before = resident()
    assert await heard(cluster) == (b"out", Status(7, ""))
    assert resident() - before < 32 * 1024 * 1024


@pytest.mark.parametrize(
    "code", [str(2**70), "-1", "007", " 7", "7 ", "7\n", "0", "+7", "1_0", "٧", "²", 7, 7.0, [7], {}]
)
def test_a_code_that_is_none(code: object) -> None:
    """An exit status is a number from 1 to 255, as Go writes it, and nothing that resembles one."""
    causes = [{"reason": "ExitCode", "message": code}]
    with pytest.raises(StreamBroken):
        status_of(json.dumps({"status": "Failure", "details": {"causes": causes}}).encode())


def test_a_success_that_failed() -> None:
    """A success with an exit status is none."""
    with pytest.raises(StreamBroken):
        status_of(b'{"status":"Success","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}')


@pytest.mark.parametrize(
    "frames",
    [[b"\x05what"], [b"\x00\x01\x00"], [b"\x00\x50"], ["\x00P\x00"], [b"\x00" + b"x" * 2 * 1024 * 1024]],
    ids=lambda frames: repr(frames)[:20],
)
async def test_frames_that_are_no_forward(
    hostile: Callable[[Serve], Awaitable[Cluster]], frames: list[bytes | str]
) -> None:
    """What a forwarded port's stream cannot hold breaks it."""
    cluster = await hostile(speaking(frames))
    with pytest.raises(ConnectionLost):
        async with forward(cluster, "shop", "web-1", 80) as connection:
            _ = [event async for event in connection]


async def test_a_forward_gives_its_bytes(hostile: Callable[[Serve], Awaitable[Cluster]]) -> None:
    """The number of the port in front of each channel is no data."""
    cluster = await hostile(speaking([b"\x00\x50\x00", b"\x01\x50\x00", b"\x00abc"]))
    async with forward(cluster, "shop", "web-1", 80) as connection:
        assert [event async for event in connection] == [Data(STDOUT, b"abc")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirection_is_never_followed(hostile: Callable[[Serve], Awaitable[Cluster]], status: int) -> None:
    """Neither of a request, a watch nor a handshake: the token would go along."""
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    cluster = await hostile(serve)
    for ask in (
        cluster.get("/a"),
        cluster.post("/b", {}),
        cluster.patch("/c", {}, "application/json"),
        anext(cluster.watch("/d", {})),
        cluster.websocket("/e", [], [V5]).__aenter__(),
    ):
        with pytest.raises(Answered, match=str(status)):
            await ask
    assert asked == ["/a", "/b", "/c", "/d", "/e"]


@pytest.mark.parametrize("status", [200, 204])
async def test_a_handshake_that_is_none(hostile: Callable[[Serve], Awaitable[Cluster]], status: int) -> None:
    """A success that is no WebSocket is an answer like others, and its error holds no header."""
    cluster = await hostile(always(status=status))
    with pytest.raises(RuntimeFailed) as refused:
        await heard(cluster)
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error!r} {error}"
        error = error.__cause__


async def test_a_body_that_grows(hostile: Callable[[Serve], Awaitable[Cluster]]) -> None:
    """A compressed answer is bounded by what comes of it."""
    bomb = gzip.compress(b" " * 512 * 1024 * 1024, 1)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    cluster = await hostile(always(body=bomb, headers=headers))
    before = resident()
    with pytest.raises(RuntimeUnreachable):
        await cluster.get("/x")
    assert resident() - before < 256 * 1024 * 1024


async def test_a_watch_with_a_line_of_10_mib(hostile: Callable[[Serve], Awaitable[Cluster]]) -> None:
    """It ends the watch, and is not held."""
    line = b'{"a": "' + b"x" * 10 * 1024 * 1024 + b'"}\n'
    cluster = await hostile(always(body=line))
    with pytest.raises(RuntimeUnreachable):
        await anext(cluster.watch("/x", {}))


def test_a_pod_of_100_000_containers() -> None:
    """It is read in part; what cannot be looked at whole is a hazard."""
    many = [{"name": f"c{number}", "volumeMounts": [{"name": "v"}] * 3} for number in range(100_000)]
    volumes = [{"name": f"v{number}"} for number in range(100_000)]
    pod = read_pod(
        {
            "metadata": {"name": "web", "ownerReferences": [{}] * 100_000},
            "spec": {"containers": many, "initContainers": many, "volumes": volumes},
            "status": {"containerStatuses": many, "conditions": [{}] * 100_000},
        }
    )
    assert pod is not None
    assert len(pod.containers) <= 3000
    assert "too many to be looked at" in pod.containers[0].hazards[0]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a b", "", "-x", "x" * 254, "a\u202eb", None, 7, ["x"]])
def test_names_that_are_none(name: object) -> None:
    """A pod or container by another name than the grammar's is not there."""
    assert read_pod({"metadata": {"name": name}}) is None
    pod = read_pod({"metadata": {"name": "web"}, "spec": {"containers": [{"name": name}, {"name": "good"}]}})
    assert pod is not None
    assert [container.name for container in pod.containers] == ["good"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("head -c 1073741824 /dev/zero", "gave no credentials"),
        (f"echo {SECRET} >&2; exit 1", "failed with exit status 1"),
        (f"echo {SECRET}", "gave no credentials"),
        ("sleep 7801", "gave nothing"),
        ("setsid sleep 7802 & sleep 7803", "gave nothing"),
        ("kill -9 $$", "failed with exit status -9"),
    ],
    ids=["1 GiB", "secret on stderr", "secret on stdout", "hangs", "leaves a child", "is killed"],
)
async def test_a_plugin_that_means_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], script: str, words: str
) -> None:
    """It is bounded in time and memory, and what it says is seen nowhere."""
    if words == "gave nothing":
        monkeypatch.setattr(kubernetes_login, "_PLUGIN_SECONDS", 0.5)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script]}
    cluster = Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1", exec=plugin), None)
    before = resident()
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeUnreachable) as refused:
            await cluster.get("/x")
    await cluster.close()
    assert resident() - before < 64 * 1024 * 1024
    assert words in refused.value.public
    seen = capfd.readouterr()
    assert SECRET not in f"{refused.value!r} {refused.value.hint} {refused.value.detail} {seen.out} {seen.err}"
    _end("7802")


async def test_a_plugin_that_leaves_an_agent(tmp_path: Path) -> None:
    """One that gives credentials and leaves a child with its output is waited for no longer."""
    given = {"apiVersion": "client.authentication.k8s.io/v1", "status": {"token": "t"}}
    script = f"setsid sleep 7804 & echo '{json.dumps(given)}'"
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script]}
    cluster = Cluster(kubeconfig(tmp_path, "http://127.0.0.1:1", exec=plugin), None)
    async with asyncio.timeout(20):
        assert await cluster.server() == "http://127.0.0.1:1"
    await cluster.close()
    _end("7804")


def _end(word: str) -> None:
    """End the `sleep` with that number."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes() == f"sleep\0{word}\0".encode():
                os.kill(int(entry.parent.name), 9)
