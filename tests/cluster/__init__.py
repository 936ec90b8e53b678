"""A cluster for the tests: a stand-in API server over the tests' Docker Engine, or a real one.

`BASTION_TEST_KUBECONFIG` names a real cluster by its kubeconfig. The tests make a namespace of their own there, run
workloads of `BASTION_TEST_IMAGE` (default debian:bookworm-slim), `BASTION_TEST_IMAGE_SMALL` (default busybox:stable)
and `BASTION_TEST_IMAGE_BARE` (no default: one static program, no shell) in it, and remove it. Without it a stand-in is
started as a process of its own (`python -m tests.cluster`): pods are containers of the engine, exec is runc's, and the
frames are those of a real cluster (reference/kubernetes-frames.txt). Its modules, from the outside in:

    standin        starts and stops the process    client        the tests' own REST and exec
    server         TLS, rights, the way to …       rest, watch   objects (store) and their changes
    exec, forward  WebSocket streams               discovery     what kubectl asks first
    node, kubelet  pods, restarts, pod_status      controllers   workloads → pods
    docker, runc   containers and processes        switches      failure modes
"""

import os
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.client import Client
from tests.cluster.standin import StandIn
from tests.engine import Engine

Object = dict[str, Any]

_PATHS: Final = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}
_READY_SECONDS: Final = {True: 120.0, False: 60.0}  # by whether the cluster is real


class Cluster:
    """A cluster and a namespace of this run's own in it.

    Attributes:
        kubeconfig: its present context is the namespace's; the stand-in's has a context `token` beside it.
        namespace: made here, removed by `close`.
        real: whether it is a real cluster; then `switch` skips the test.
        image: has bash and coreutils.
        image_small: busybox.
        image_bare: one static binary, no shell; None where there is none.
        standin: the stand-in's process; None on a real cluster.
    """

    def __init__(self, engine: Engine | None) -> None:
        real = os.environ.get("BASTION_TEST_KUBECONFIG")
        self.real = bool(real)
        self.namespace = f"bastion-test-{secrets.token_hex(4)}"
        self.standin = None if real else StandIn(engine.host if engine is not None else "")
        self.image = os.environ.get("BASTION_TEST_IMAGE", "debian:bookworm-slim") if real else Engine.image_debian
        small, bare = os.environ.get("BASTION_TEST_IMAGE_SMALL"), os.environ.get("BASTION_TEST_IMAGE_BARE")
        self.image_small: str | None = (small or "busybox:stable") if real else Engine.image_busybox
        self.image_bare: str | None = bare if real else Engine.image_scratch
        if self.standin is not None:
            self.kubeconfig = self.standin.write_kubeconfig(self.namespace)
        else:
            self.kubeconfig = Path(real or "").expanduser()
        self._client = Client(self.kubeconfig, real=self.real)
        made: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self._client.call("POST", "/api/v1/namespaces", made)

    @property
    def server(self) -> str:
        """The API server's address, https://host:port."""
        return self._client.server

    @property
    def headers(self) -> dict[str, str]:
        """The headers by which the kubeconfig's user is let in."""
        return dict(self._client.headers)

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS of the kubeconfig's user."""
        return self._client.context

    @property
    def serviceaccount(self) -> Path:
        """The folder that a pod has at /var/run/secrets/kubernetes.io/serviceaccount; stand-in only."""
        if self.standin is None:
            pytest.skip("a real cluster's service account is not at hand")
        return self.standin.folder / "serviceaccount"

    def apply(self, *objects: Object) -> None:
        """Create objects in the namespace."""
        for made in objects:
            self._client.call("POST", _PATHS[made["kind"]].format(self.namespace), made)

    def get(self, kind: str, name: str = "", **query: str) -> Object:
        """Return an object, or the list of a kind; `query` is such as labelSelector.

        Raises:
            LookupError: there is no such object.
        """
        path = _PATHS[kind].format(self.namespace)
        return self._client.call("GET", f"{path}/{name}" if name else path, query=query)

    def patch(self, kind: str, name: str, body: Object) -> None:
        """Merge a patch into an object."""
        self._client.call("PATCH", f"{_PATHS[kind].format(self.namespace)}/{name}", body)

    def deployment(
        self,
        name: str,
        *,
        image: str | None = None,
        replicas: int = 1,
        labels: Mapping[str, str] | None = None,
        containers: Sequence[Object] | None = None,
        pod: Mapping[str, Any] | None = None,
        kind: str = "Deployment",
        annotations: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        """Create a workload of `kind` (also "Pod") and wait until its pods are ready.

        `labels` and `annotations` are put on the workload and on its pods beside the selector's own label; `containers`
        replace the one container `web` of `image`; `pod` are further fields of the pod's spec.
        """
        own = {"bastion-test": name}
        every = own | dict(labels or {})
        made = list(containers) if containers is not None else [{"name": "web", "image": image or self.image}]
        spec: Object = {"terminationGracePeriodSeconds": 1, "containers": [self._container(one) for one in made]}
        spec |= dict(pod or {})
        metadata: Object = {"labels": every, "annotations": dict(annotations or {})}
        workload: Object = {"kind": kind, "metadata": metadata | {"name": name}}
        if kind == "Pod":
            workload |= {"apiVersion": "v1", "spec": spec}
        else:
            inner: Object = {"selector": {"matchLabels": own}, "template": {"metadata": metadata, "spec": spec}}
            inner |= {} if kind == "DaemonSet" else {"replicas": replicas}
            inner |= {"serviceName": name} if kind == "StatefulSet" else {}
            workload |= {"apiVersion": "apps/v1", "spec": inner}
        self.apply(workload)
        if wait:
            self.ready(name, replicas)

    def ready(self, name: str, replicas: int = 1) -> None:
        """Wait until a workload has at least that many ready pods that are not being deleted."""
        until = time.monotonic() + _READY_SECONDS[self.real]
        while True:
            pods = [one for one in self._pods(name) if not one["metadata"].get("deletionTimestamp")]
            if sum(_is_ready(one) for one in pods) >= replicas:
                return
            states = [one.get("status") for one in pods]
            assert time.monotonic() < until, f"{name} is not ready: {states}"
            time.sleep(0.5 if self.real else 0.02)

    def pods(self, name: str) -> list[str]:
        """Return the names of the pods of a workload that are not being deleted, sorted."""
        found = [one["metadata"] for one in self._pods(name)]
        return sorted(metadata["name"] for metadata in found if not metadata.get("deletionTimestamp"))

    def delete(self, kind: str, name: str, *, grace: int | None = None) -> None:
        """Delete an object; `grace` in seconds, 0 at once. What is deleted ends later by itself."""
        body: Object = {"propagationPolicy": "Background"} | ({} if grace is None else {"gracePeriodSeconds": grace})
        self._client.call("DELETE", f"{_PATHS[kind].format(self.namespace)}/{name}", body)

    def look(self, pod: str, script: str, container: str | None = None) -> str:
        """Run a script by sh in a pod, in its first container when none is named, and return its standard output."""
        first = container or self.get("Pod", pod)["spec"]["containers"][0]["name"]
        return self._client.run(self.namespace, pod, first, ["sh", "-c", script])[0]

    def switch(self, **switches: Any) -> None:
        """Switch failure modes on (tests/cluster/switches.py); with none, all off.

        Beside those, some act once: restart=True, drop_watches=True, compact=True (every resourceVersion but the
        present is too old), evict="pod", node_lost="pod".
        """
        if self.standin is None:
            pytest.skip("a real cluster has no switches for failure modes")
        self.standin.switch(**switches)

    def close(self) -> None:
        """Remove the namespace, and stop what was started."""
        try:
            self._client.call("DELETE", f"/api/v1/namespaces/{self.namespace}")
        finally:
            self._client.close()
            if self.standin is not None:
                self.standin.close()

    def _pods(self, name: str) -> list[Object]:
        found: list[Object] = self.get("Pod", labelSelector=f"bastion-test={name}")["items"]
        return found

    def _container(self, made: Object) -> Object:
        given: Object = {"imagePullPolicy": "IfNotPresent"} | made
        if self.real and "command" not in made and "args" not in made and made["image"] != self.image_bare:
            given |= {"command": ["sleep", "100000"]}
        return given


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
