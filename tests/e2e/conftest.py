"""Fixtures of the end-to-end tests: one bastion over the tests' engine, with a container of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.places import HALF_CLOSE_MISSING, DockerPlace, Place, cluster_place
from tests.e2e.server import Bastion
from tests.engine import Engine
from tests.postgresql import Postgresql, postgresql

_PLACES = {"everywhere": ("docker", "kubernetes-v5", "kubernetes-v4"), "kubernetes": ("kubernetes-v5",)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test where its mark says, and without one on Docker."""
    if "place" in metafunc.fixturenames:
        marked = [places for mark, places in _PLACES.items() if metafunc.definition.get_closest_marker(mark)]
        metafunc.parametrize("place", marked[0] if marked else ("docker",), indirect=True, scope="session")


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    """Give the engine with the stack `mystack`."""
    if request.param == "docker":
        return DockerPlace(request.getfixturevalue("containers"))
    return cluster_place(request, half_close=request.param == "kubernetes-v5")


@pytest.fixture(autouse=True)
def _as_the_place_is(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skip what needs the end of input where there is none; have the stand-in speak as its place does for one test."""
    if "place" not in request.fixturenames:
        yield
        return
    place: Place = request.getfixturevalue("place")
    if request.node.get_closest_marker("half_close") and not place.half_close:
        pytest.skip(HALF_CLOSE_MISSING)
    with place.entered():
        yield


def containers_socket(engine: Engine) -> str:
    """Return the path of the engine's own socket."""
    return engine.host.removeprefix("unix://")


@pytest.fixture(scope="session")
def containers(engine: Engine) -> Iterator[Engine]:
    """Give the engine with the stack `mystack` running.

    Its services are web (Debian), small (busybox), bare (no shell), and host and socket, which lead to the host.
    """
    names = ("mystack-web-1", "mystack-small-1", "mystack-bare-1", "mystack-host-1", "mystack-socket-1")
    engine.remove(*names)
    engine.start(names[0], engine.image_debian, service="web")
    engine.start(names[1], engine.image_busybox, service="small")
    engine.start(names[2], engine.image_scratch, service="bare")
    engine.start(names[3], engine.image_busybox, service="host", args=["--pid", "host"])
    mount = f"{containers_socket(engine)}:/run/docker.sock"
    engine.start(names[4], engine.image_busybox, service="socket", args=["--volume", mount])
    yield engine
    engine.remove(*names)


@pytest.fixture(scope="session")
def bastion(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a running bastion that all tests may share who neither stop nor fill it."""
    server = Bastion(tmp_path_factory.mktemp("bastion"), place.sections).start()
    yield server
    assert server.stop() == 0
    assert not server.events("internal error"), "an unknown error was logged"


@pytest.fixture
def own(place: Place, tmp_path: Path) -> Iterator[Bastion]:
    """Give a bastion of the test's own, not started yet."""
    server = Bastion(tmp_path / "own", place.sections)
    yield server
    server.stop()


@pytest.fixture(name="postgresql")
def _postgresql() -> Iterator[Postgresql]:
    """Give a PostgreSQL of the test's own."""
    with postgresql() as server:
        yield server


@pytest.fixture(params=["web", "small"])
def service(request: pytest.FixtureRequest) -> str:
    """Name a service of the stack: one with bash and coreutils, one with busybox only."""
    return str(request.param)
