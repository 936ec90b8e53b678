"""Where the end-to-end tests enter containers: a Docker Engine, or a cluster by v5 or v4, under the same names."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import pytest

from tests.cluster import Cluster
from tests.engine import Engine

HALF_CLOSE_MISSING = "v4.channel.k8s.io cannot pass on the end of standard input"


class Place(Protocol):
    """An engine with the stack `mystack` running: web (bash and coreutils), small (busybox) and bare (no shell).

    `toolbox` is an image with a shell for what has none.
    """

    sections: str
    half_close: bool
    toolbox: str

    def entered(self) -> AbstractContextManager[None]:
        """Give it for one test."""
        ...

    def replica(self, service: str) -> str:
        """Return the name of the first container or pod of a service."""
        ...

    def running(self, service: str, word: str) -> list[str]:
        """Return the command lines that hold the word, of what runs in a service's first container."""
        ...


class DockerPlace:
    """The tests' own Docker Engine."""

    half_close = True
    toolbox = Engine.image_busybox

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.sections = f'[docker]\nhost = "{engine.host}"\n'

    def entered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def replica(self, service: str) -> str:
        return f"mystack-{service}-1"

    def running(self, service: str, word: str) -> list[str]:
        listed = self._engine.docker("top", self.replica(service), "-eo", "pid,args")
        return [line for line in listed.splitlines() if word in line]


class ClusterPlace:
    """The stand-in or a real cluster; its namespace is the stack `mystack`."""

    def __init__(self, cluster: Cluster, *, half_close: bool) -> None:
        self._cluster = cluster
        self.half_close = half_close
        self.toolbox = cluster.image_small or cluster.image
        self.sections = (
            f'[kubernetes]\nkubeconfig = "{cluster.kubeconfig}"\n'
            f'[[stacks]]\nname = "mystack"\nruntime = "kubernetes"\nnamespace = "{cluster.namespace}"\n'
        )
        web: dict[str, Any] = {"web": cluster.image, "log": cluster.image}
        deploy(cluster, "web", web)
        if cluster.image_small is not None:
            deploy(cluster, "small", {"small": cluster.image_small})
        if cluster.image_bare is not None:
            deploy_bare(cluster)

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.half_close:
            yield
            return
        self._cluster.switch(protocol="v4")
        try:
            yield
        finally:
            self._cluster.switch()

    def replica(self, service: str) -> str:
        return self._cluster.pods(service)[0]

    def running(self, service: str, word: str) -> list[str]:
        script = (
            "for d in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$d/cmdline 2>/dev/null); "
            f"case $c in *'for d in'*) ;; *'{word}'*) echo \"$d $c\" ;; esac; done"
        )
        return self._cluster.look(self.replica(service), script, container=service).splitlines()


def deploy(cluster: Cluster, name: str, images: dict[str, str], **options: Any) -> None:
    """Have a Deployment of these containers, unless it is there from before."""
    if not cluster.pods(name):
        containers = [
            {"name": container, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"]}
            for container, image in images.items()
        ]
        cluster.deployment(name, containers=containers, **options)


def deploy_bare(cluster: Cluster) -> None:
    """Have a Deployment `bare` of one static program without a shell, unless it is there from before."""
    if not cluster.pods("bare"):
        cluster.deployment("bare", containers=[{"name": "bare", "image": cluster.image_bare}])


def cluster_place(request: pytest.FixtureRequest, *, half_close: bool) -> ClusterPlace:
    """Make the place of a cluster that speaks v5, or only v4, until the end of the tests."""
    return ClusterPlace(request.getfixturevalue("cluster"), half_close=half_close)
