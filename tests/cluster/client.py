"""The tests' own hands in a cluster, the stand-in or a real one: plain REST, and a program run in a pod."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import httpx
import websocket
import yaml

from tests.cluster.switches import HARNESS

_SECONDS: Final = 60.0

Object = dict[str, Any]


class Client:
    """One kubeconfig's present context, spoken to synchronously and by nothing of bastion's.

    Attributes:
        server: https://host:port.
        headers: what a request needs to be let in, beside the context's certificate.
        context: the TLS that the server asks for.
    """

    def __init__(self, kubeconfig: Path, *, real: bool) -> None:
        self.server, self.headers, self.context = (_by_sdk if real else _by_file)(kubeconfig)
        self._headers = self.headers | {"User-Agent": HARNESS}
        self._http = httpx.Client(
            base_url=self.server, verify=self.context, headers=self._headers, timeout=_SECONDS, trust_env=False
        )

    def call(
        self, method: str, path: str, body: Object | None = None, query: Mapping[str, str] | None = None
    ) -> Object:
        """Make one request and return its answer.

        Raises:
            LookupError: 404; the text is the server's.
            AssertionError: it was refused otherwise; the text is the server's.
        """
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        done = self._http.request(method, path, json=body, params=query, headers=headers)
        if done.status_code == httpx.codes.NOT_FOUND:
            raise LookupError(done.text)
        assert done.is_success, f"{method} {path}: {done.status_code} {done.text}"
        return cast("Object", done.json())

    def run(self, namespace: str, pod: str, container: str, command: list[str]) -> tuple[str, Object]:
        """Run a program in a pod and return its standard output as text, and its Status."""
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
        connected = websocket.create_connection(
            "wss" + self.server.removeprefix("https") + path,
            subprotocols=["v4.channel.k8s.io"],
            header=[f"{name}: {value}" for name, value in self._headers.items()],
            sslopt={"context": self.context},
            timeout=_SECONDS,
        )
        streams: dict[int, bytearray] = {1: bytearray(), 2: bytearray(), 3: bytearray()}
        try:
            while (received := connected.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
                streams[received[1][0]] += received[1][1:]
        finally:
            connected.shutdown()  # type: ignore[no-untyped-call]
        return streams[1].decode(errors="replace"), cast("Object", json.loads(streams[3]))

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()


def _by_file(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext]:
    """Read the stand-in's kubeconfig, whose certificates are files."""
    read = yaml.safe_load(kubeconfig.read_text())
    cluster, user = read["clusters"][0]["cluster"], read["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return cluster["server"], {}, context


def _by_sdk(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext]:
    """Let the official client read any kubeconfig, exec plugins included; it takes 2 s to import."""
    from kubernetes import client, config  # noqa: PLC0415

    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    bearer = configuration.get_api_key_with_prefix("authorization")
    return configuration.host.rstrip("/"), {"Authorization": bearer} if bearer else {}, context
