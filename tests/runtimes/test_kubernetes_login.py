"""Logins to a cluster over TLS: certificates of another CA or name, service accounts, tokens that are replaced."""

from pathlib import Path
from typing import Any

import kubernetes.aio.config.incluster_config as incluster
import pytest
import yaml
from aiohttp import WSMsgType

from bastion.errors import RuntimeUnreachable
from bastion.runtimes.kubernetes import KubernetesRuntime
from bastion.runtimes.kubernetes import cluster as kubernetes_cluster
from bastion.runtimes.kubernetes.cluster import Answered, path
from tests.cluster import Cluster
from tests.cluster.certificates import make

pytestmark = pytest.mark.kubernetes


def changed(cluster: Cluster, folder: Path, **changes: Any) -> Path:
    """Write the stand-in's kubeconfig with another cluster entry."""
    if cluster.real:
        pytest.skip("a real cluster's kubeconfig is of any form")
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["clusters"][0]["cluster"] |= changes
    made = folder / "changed"
    made.write_text(yaml.safe_dump(content))
    return made


async def refusal(kubeconfig: Path) -> RuntimeUnreachable:
    runtime = KubernetesRuntime(kubeconfig, None)
    with pytest.raises(RuntimeUnreachable) as refused:
        await runtime.ping()
    await runtime.close()
    return refused.value


async def test_a_server_of_another_ca_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    """And nothing is sent to it."""
    make(tmp_path, "somebody")
    error = await refusal(changed(cluster, tmp_path, **{"certificate-authority": str(tmp_path / "ca.crt")}))
    assert "is not of the CA in the kubeconfig" in error.public


async def test_a_server_of_another_name_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    """Unless the kubeconfig gives the name that its certificate is for, for WebSockets too."""
    error = await refusal(changed(cluster, tmp_path, **{"tls-server-name": "elsewhere"}))
    assert "is for another name" in error.public
    made = kubernetes_cluster.Cluster(changed(cluster, tmp_path, **{"tls-server-name": "kubernetes"}), None)
    assert "gitVersion" in await made.get("/version")
    with pytest.raises(Answered, match="404"):
        await made.websocket(
            path("namespaces", cluster.namespace, "pods", "none", "exec"), [("command", "id")], ["v5.channel.k8s.io"]
        ).__aenter__()
    await made.close()


async def test_a_refused_handshake_says_why(cluster: Cluster) -> None:
    """Its Status is read, as of any other request."""
    made = kubernetes_cluster.Cluster(cluster.kubeconfig, None)
    with pytest.raises(Answered) as refused:
        await made.websocket(
            path("namespaces", cluster.namespace, "pods", "none", "exec"),
            [("command", "id"), ("stdout", "true")],
            ["v5.channel.k8s.io"],
        ).__aenter__()
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")
    assert '"none" not found' in refused.value.message
    await made.close()


async def test_the_service_account_of_a_pod_is_used(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no kubeconfig; its namespace is the one whose rights are asked about."""
    account = cluster.serviceaccount
    monkeypatch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setattr(kubernetes_cluster, "_SERVICE_ACCOUNT", account)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    host, port = cluster.server.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    made = kubernetes_cluster.Cluster(None, None)
    assert await made.server() == cluster.server
    assert await made.namespace() == cluster.namespace
    assert "items" in await made.get(path("namespaces", cluster.namespace, "pods"))
    await made.close()


async def test_a_token_that_was_replaced_is_read_anew(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one 401, without anybody noticing; what is open stays open."""
    if cluster.standin is None:
        pytest.skip("a real cluster's tokens are not ours to replace")
    monkeypatch.setattr("bastion.runtimes.kubernetes.link._NEW_SECONDS", 0.0)
    cluster.deployment("login-pod", image=cluster.image_small, kind="Pod")
    made = kubernetes_cluster.Cluster(cluster.kubeconfig, "token")
    query = [("command", "cat"), ("stdin", "true"), ("stdout", "true")]
    where = path("namespaces", cluster.namespace, "pods", "login-pod", "exec")
    async with made.websocket(where, query, ["v5.channel.k8s.io"]) as stream:
        assert stream.protocol == "v5.channel.k8s.io"
        cluster.standin.rotate_token()
        assert "gitVersion" in await made.get("/version")
        assert "items" in await made.get(path("namespaces", cluster.namespace, "pods"))
        await stream.send_bytes(b"\0still here")
        said = b""
        while b"still here" not in said:
            message = await stream.receive(timeout=20)
            assert message.type is WSMsgType.BINARY
            said += message.data
    await made.close()
    cluster.delete("Pod", "login-pod", grace=0)
