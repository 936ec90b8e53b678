"""The stand-in's failure modes are those of a real cluster: rights, tokens, restarts, cuts, and pods that go."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster
from tests.cluster.wire import V4, V5, executed

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker]

Object = dict[str, Any]


def pods(cluster: Cluster) -> str:
    return f"/api/v1/namespaces/{cluster.namespace}/pods"


def test_whoever_may_not_is_told_what(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """A right that is missing is named, and a review says so too."""
    pod = made("guarded")
    cluster.switch(forbid=[("create", "pods/exec"), ("list", "pods")])
    query = {"container": "web", "command": "true", "stdout": "true"}
    refused = api.get(f"{pods(cluster)}/{pod}/exec", params=query)
    words = f'pods "{pod}" is forbidden: User "admin" cannot create resource "pods/exec" in API group "" in the '
    assert refused.status_code == 403
    assert refused.json()["message"] == f'{words}namespace "{cluster.namespace}"'
    assert api.get(pods(cluster)).json()["message"].startswith('pods is forbidden: User "admin" cannot list resource')
    attributes = {"namespace": cluster.namespace, "verb": "create", "resource": "pods", "subresource": "exec"}
    review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answers = [
        api.post(path, json=review | {"spec": {"resourceAttributes": attributes | {"verb": verb}}}).json()["status"]
        for verb in ("create", "get")
    ]
    assert [answer["allowed"] for answer in answers] == [False, True]


async def test_an_expired_token_hits_only_what_is_new(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str]
) -> None:
    """New requests get 401; an exec that is open goes on."""
    pod = await asyncio.to_thread(made, "expiring")
    async with executed(cluster, pod, ["cat"], stdin=True) as wire:
        await wire.frame()
        cluster.switch(token_expired=True)
        answer = await asyncio.to_thread(api.get, pods(cluster))
        assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")
        await wire.send(0, b"on\n")
        assert await wire.frame() == (2, b"\x01on\n")


def test_a_service_account_is_let_in_by_its_token(cluster: Cluster, api: httpx.Client) -> None:
    """A token that was replaced is worth nothing; its user's rights are a switch."""
    token = cluster.serviceaccount / "token"
    assert cluster.standin is not None
    trusted = ssl.create_default_context(cafile=cluster.serviceaccount / "ca.crt")
    with httpx.Client(base_url=cluster.server, verify=trusted) as bearer:
        old = {"Authorization": f"Bearer {token.read_text()}"}
        assert bearer.get(pods(cluster), headers=old).status_code == 200
        assert bearer.get(pods(cluster)).status_code == 401
        cluster.standin.rotate_token()
        assert bearer.get(pods(cluster), headers=old).status_code == 401
        cluster.switch(rights=[("get", "pods")])
        new = {"Authorization": f"Bearer {token.read_text()}"}
        assert bearer.get(pods(cluster), headers=new).status_code == 403


def restart(cluster: Cluster, api: httpx.Client) -> None:
    """Restart the server under a watch."""
    with api.stream("GET", pods(cluster), params={"watch": "1"}) as watching:
        lines = watching.iter_lines()
        next(lines)
        cluster.switch(restart=True)
        with pytest.raises(httpx.TransportError):
            list(lines)
    with pytest.raises(httpx.TransportError):
        api.get("/version")


def answered(api: httpx.Client) -> str | None:
    """Return the server's version; None while nobody listens."""
    try:
        return str(api.get("/version").json()["gitVersion"])
    except httpx.TransportError:
        return None


async def test_streams_outlive_a_restart(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Watches end and nobody listens for a while; an exec that is open goes on."""
    pod = await asyncio.to_thread(made, "outliving")
    async with executed(cluster, pod, ["cat"], stdin=True) as wire:
        await wire.frame()
        await asyncio.to_thread(restart, cluster, api)
        await wire.send(0, b"on\n")
        assert await wire.frame() == (2, b"\x01on\n")
    async with asyncio.timeout(60):
        while (version := await asyncio.to_thread(answered, api)) is None:
            await asyncio.sleep(0.1)
    assert version == "v1.36.0"


def test_watches_are_dropped(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """A switch ends every watch in good order."""
    made("dropped")
    with api.stream("GET", pods(cluster), params={"watch": "1", "resourceVersion": "0"}) as watching:
        lines = watching.iter_lines()
        next(lines)
        cluster.switch(drop_watches=True)
        list(lines)


async def test_a_cut_stream_has_no_end(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """After so many bytes the connection is reset: no status, no close frame."""
    pod = await asyncio.to_thread(made, "cut")
    cluster.switch(cut_after=5)
    async with executed(cluster, pod, ["echo", "0123456789"]) as wire:
        assert [await wire.frame(), await wire.frame()] == [(2, b"\x01"), (2, b"\x0101234")]
        with pytest.raises((ConnectionError, AssertionError)):
            assert (await wire.frame())[0] == 2


async def test_a_status_can_be_missing(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """The connection closes in good order without one."""
    pod = await asyncio.to_thread(made, "silent")
    cluster.switch(no_status=True)
    async with executed(cluster, pod, ["echo", "hi"]) as wire:
        assert await wire.rest() == [(2, b"\x01"), (2, b"\x01hi\n"), (8, b"\x03\xe8")]


@pytest.mark.parametrize("switched", [{"version": "1.29"}, {"protocol": "v4"}])
async def test_an_old_server_chooses_v4(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str], switched: dict[str, str]
) -> None:
    """Where v5 is not known it is passed over."""
    pod = await asyncio.to_thread(made, f"old-{'-'.join(switched)}")
    cluster.switch(**switched)
    async with executed(cluster, pod, ["true"], [V5, V4]) as wire:
        assert wire.protocol == V4


@pytest.mark.parametrize("freezes", [False, True])
async def test_what_becomes_of_an_exec_when_its_pod_is_deleted(
    cluster: Cluster, api: httpx.Client, made: Callable[..., str], *, freezes: bool
) -> None:
    """Its program is killed and that is told; or the stream freezes, where that is switched on."""
    pod = await asyncio.to_thread(made, f"deleted-{freezes}".lower())
    if freezes:
        cluster.switch(freeze_on_delete=True)
    async with executed(cluster, pod, ["sh", "-c", "echo up; sleep 100"]) as wire:
        await wire.until(b"up\n")
        await asyncio.to_thread(cluster.delete, "Pod", pod, grace=0)
        if freezes:
            assert await wire.silent(3)
        else:
            frames = await wire.rest()
            assert b'"message":"137"' in frames[-2][1]


def test_an_evicted_pod_stays_as_failed(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Its workload makes another."""
    pod = made("evicted")
    cluster.switch(evict=pod)
    status = cluster.get("Pod", pod)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    cluster.ready("evicted")


def test_a_pod_without_its_node_is_not_ready(cluster: Cluster, api: httpx.Client, made: Callable[..., str]) -> None:
    """Nothing is heard of it, and it comes back; `not_ready` looks another way."""
    pod = made("nodeless")

    def ready() -> Object:
        conditions = cluster.get("Pod", pod)["status"]["conditions"]
        return next(one for one in conditions if one["type"] == "Ready")

    cluster.switch(node_lost=pod)
    assert ready()["reason"] == "NodeStatusUnknown"
    cluster.switch()
    assert ready()["status"] == "True"
    cluster.switch(not_ready=[pod])
    assert (ready()["status"], ready()["reason"]) == ("False", "ContainersNotReady")
