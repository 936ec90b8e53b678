"""What the tests of the stand-in share: the way to its API, and workloads that are removed behind a test."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster


@pytest.fixture
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    """Give the user's own way to the API server; it starts and ends without trouble."""
    if not cluster.real:
        cluster.switch()
    with httpx.Client(base_url=cluster.server, headers=cluster.headers, verify=cluster.context, timeout=20) as client:
        yield client
    if not cluster.real:
        cluster.switch()


@pytest.fixture
def made(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Give a function that makes a workload of its own name and returns its first pod."""
    names: list[tuple[str, str]] = []

    def make(name: str, kind: str = "Deployment", **options: Any) -> str:
        names.append((kind, name))
        cluster.deployment(name, kind=kind, **options)
        return name if kind == "Pod" else cluster.pods(name)[0]

    yield make
    for kind, name in names:
        cluster.delete(kind, name, grace=0)
