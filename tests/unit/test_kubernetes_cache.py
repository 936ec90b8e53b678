"""What is kept of namespaces: shared lists, watches that break, and no growth from names that were asked for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bastion.errors import ContainerEnded
from bastion.model import Name, Request, Target
from bastion.runtimes.kubernetes import KubernetesRuntime
from bastion.runtimes.kubernetes import cache as kubernetes_cache
from bastion.runtimes.kubernetes.cache import Cache
from bastion.runtimes.kubernetes.cluster import Cluster

Event = dict[str, Any]


def pod(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    told = {"name": "web", "containerID": f"containerd://{name}", "state": {"running": {}}}
    return {
        "metadata": {"name": name, "uid": name, "resourceVersion": str(version)} | metadata,
        "spec": {"containers": [{"name": "web"}]},
        "status": {"phase": "Running", "conditions": [], "containerStatuses": [told]},
    }


class Server:
    """An API server with the same pods in every namespace but those named `empty-…`; watches say what is put in."""

    def __init__(self) -> None:
        self.lists: list[str] = []
        self.watched: list[str] = []
        self.pods: list[dict[str, Any]] = [pod("web", 1)]
        self.version = 1
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.address = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        is_pods = request.path.endswith("/pods")
        if request.path.endswith("/exec"):
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        if "watch" in request.query:
            return await self._watch(request, is_pods=is_pods)
        self.lists.append(request.path)
        await asyncio.sleep(0.02)
        items = self.pods if is_pods and "/empty-" not in request.path else []
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request, *, is_pods: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if is_pods:
            self.watched.append(request.query["resourceVersion"])
        while (event := await (self.events.get() if is_pods else asyncio.Event().wait())) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Give a server on this machine."""
    made = Server()
    application = web.Application()
    application.router.add_get("/{path:.*}", made.serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.address = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """Give a kubeconfig of that server."""
    written = tmp_path / "config"
    written.write_text(
        "current-context: it\ncontexts: [{name: it, context: {cluster: it}}]\n"
        f"clusters: [{{name: it, cluster: {{server: '{server.address}'}}}}]\n"
    )
    return written


@pytest.fixture
async def cache(kubeconfig: Path) -> AsyncIterator[Cache]:
    """Give a cache over that server, `lasting` of it kept for good."""
    cluster = Cluster(kubeconfig, None)
    made = Cache(cluster, ["lasting"])
    yield made
    await made.close()
    await cluster.close()


def target(namespace: str = "shop", name: str = "web") -> Target:
    return Target("k", namespace, "web", f"{name}/{name}", "web", namespace=namespace, pod_name=name)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.01)


async def test_those_who_ask_at_once_share_one_list(server: Server, cache: Cache) -> None:
    """One for pods and one for each kind of workload, none while the watch is open, and one more for who wants it."""
    views = await asyncio.gather(*(cache.view("shop") for _ in range(50)))
    assert all(list(view.pods) == ["web"] for view in views)
    assert len(server.lists) == 4
    await until(lambda: cache._kept["shop"].is_current)  # noqa: SLF001 - no call would wait for the watches
    await asyncio.gather(*(cache.view("shop") for _ in range(50)))
    assert len(server.lists) == 4
    await asyncio.gather(*(cache.view("shop", anew=True) for _ in range(50)))
    assert len(server.lists) == 8


async def test_one_who_goes_away_while_a_list_runs_spoils_it_for_nobody(server: Server, cache: Cache) -> None:
    """The next in line makes it."""
    first = asyncio.create_task(cache.view("shop"))
    second = asyncio.create_task(cache.view("shop"))
    await until(lambda: bool(server.lists))
    first.cancel()
    assert list((await second).pods) == ["web"]
    await until(lambda: bool(server.watched))
    server.events.put_nowait({"type": "ADDED", "object": pod("late", 2)})
    async with asyncio.timeout(20):
        while "late" not in (await cache.view("shop")).pods:
            await asyncio.sleep(0.01)


async def test_what_holds_nothing_is_not_kept(server: Server, cache: Cache) -> None:
    """However many names are asked for; and for a second nobody is asked about them again."""
    for _ in range(2):
        await asyncio.gather(*(cache.view(f"empty-{number}", anew=True) for number in range(20)))
    assert not cache._kept  # noqa: SLF001 - growth is the point
    assert not cache._opening  # noqa: SLF001
    assert len(server.lists) == 20 * 4


async def test_the_one_not_asked_about_for_longest_is_let_go(
    server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But none that lasts or that a session watches."""
    monkeypatch.setattr(kubernetes_cache, "NAMESPACES", 4)
    await cache.view("lasting")
    await cache.view("session")
    async with cache.on(target("session"), lambda _: None):
        for name in ("one", "two", "three", "two", "four"):
            await cache.view(name)
        assert list(cache._kept) == ["lasting", "session", "two", "four"]  # noqa: SLF001
    assert list((await cache.view("one")).pods) == ["web"]


async def test_idle_namespaces_are_let_go(server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """By themselves, once nobody has asked about them for long."""
    monkeypatch.setattr(kubernetes_cache, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(kubernetes_cache, "_SWEEP_SECONDS", 0.05)
    await cache.view("lasting")
    await cache.view("shop")
    await until(lambda: list(cache._kept) == ["lasting"])  # noqa: SLF001


async def test_a_watch_that_ends_goes_on_from_where_it_was(server: Server, cache: Cache) -> None:
    """Bookmarks move it; no list is made."""
    await cache.view("shop")
    await until(lambda: server.watched == ["1"])
    server.events.put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}})
    server.events.put_nowait(None)
    await until(lambda: server.watched == ["1", "7"])
    assert len(server.lists) == 4


async def test_what_a_watch_missed_is_told_after_a_list(server: Server, cache: Cache) -> None:
    """When the version is too old by then, once."""
    await cache.view("shop")
    await until(lambda: bool(server.watched))
    told: list[str] = []
    async with cache.on(target(), told.append):
        server.pods, server.version = [pod("other", 9)], 9
        server.events.put_nowait({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
        await until(lambda: bool(told))
        await until(lambda: server.watched == ["1", "9"])
        server.events.put_nowait({"type": "DELETED", "object": pod("web", 10)})
        await asyncio.sleep(0.2)
    assert told == ["was deleted"]


async def test_what_an_old_watch_says_after_a_list_is_not_believed(
    server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened again from the list's version."""
    monkeypatch.setattr("bastion.runtimes.kubernetes.watch._AGE", 0.0)
    await cache.view("shop")
    await until(lambda: bool(server.watched))
    server.pods, server.version = [pod("web", 9, labels={"new": "1"}), pod("second", 8)], 9
    assert set((await cache.view("shop", anew=True)).pods) == {"web", "second"}
    server.events.put_nowait({"type": "DELETED", "object": pod("second", 3)})
    await until(lambda: server.watched == ["1", "9"])
    assert set((await cache.view("shop")).pods) == {"web", "second"}


async def test_a_pod_that_a_silent_watch_kept_is_looked_for_once_more(server: Server, kubeconfig: Path) -> None:
    """Before the session is told that it is gone: whoever connects again finds what there is."""
    runtime = KubernetesRuntime(kubeconfig, None, namespaces={"mystack": "shop"})
    (gone,) = await runtime.find("mystack", "web")
    await until(lambda: runtime._cache._kept["shop"].is_current)  # noqa: SLF001 - no call would wait for the watches
    server.pods, server.version = [pod("next", 9)], 9
    assert await runtime.find("mystack", "web") == [gone]
    for _ in range(2):
        with pytest.raises(ContainerEnded, match="the pod web is gone"):
            async with runtime.exec(gone, Request("u" * 16, Name("web"), "exec", "true")):
                pytest.fail("it ran")
        assert server.lists.count("/api/v1/namespaces/shop/pods") == 2
    (found,) = await runtime.find("mystack", "next")
    assert found.pod_name == "next"
    await runtime.close()


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "ADDED"},
        {"type": "ADDED", "object": []},
        {"type": "ADDED", "object": {"metadata": {"name": "../x"}}},
        {"type": "DELETED", "object": {"metadata": {"name": ["x"]}}},
        {"type": ["x"], "object": {"metadata": {}}},
        {"type": "ERROR", "object": {"code": "x"}},
        {"type": "ERROR", "object": 3},
    ],
)
async def test_events_of_any_form_change_nothing(server: Server, cache: Cache, event: Event) -> None:
    """And the watch goes on behind them."""
    await cache.view("shop")
    await until(lambda: bool(server.watched))
    told: list[str] = []
    async with cache.on(target(), told.append):
        server.events.put_nowait(event)
        await asyncio.sleep(0.05)
        server.events.put_nowait({"type": "ADDED", "object": pod("late", 5)})
        async with asyncio.timeout(20):
            while "late" not in (await cache.view("shop")).pods:
                server.events.put_nowait({"type": "ADDED", "object": pod("late", 5)})
                await asyncio.sleep(0.1)
    assert told == []
