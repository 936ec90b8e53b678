"""What every test folder shares: the engine of the tests' own, and what becomes of a test whose needs are not here."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest
from hypothesis import settings

from tests.cluster import Cluster
from tests.engine import Engine, EngineUnavailable
from tests.images import ImageUnavailable

settings.register_profile("bastion", deadline=None)  # timings are measured in bench/, never asserted
settings.load_profile("bastion")

CACHE = Path(os.environ.get("BASTION_TEST_CACHE") or Path(__file__).parent.parent / ".cache")

_PROGRAMS: Final = (
    "age",
    "age-keygen",
    "busybox",
    "rclone",
    "rsync",
    "scp",
    "sftp",
    "ssh",
    "ssh-keygen",
    "sshfs",
    "zcat",
    "zstd",
)


def unavailable(reason: str) -> NoReturn:
    """Skip the test for this reason; BASTION_REQUIRE_DOCKER=1 turns the skip into a failure."""
    if os.environ.get("BASTION_REQUIRE_DOCKER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _without_programs() -> Generator[None, object, object]:
    try:
        return (yield)
    except FileNotFoundError as error:
        if error.filename not in _PROGRAMS or shutil.which(error.filename) is not None:
            raise
        missing = f"{error.filename} is not installed (tests/prepare.sh)"
    except (EngineUnavailable, ImageUnavailable) as error:
        missing = f"no Docker Engine: {error}"
    unavailable(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip a test by the name of what its fixtures miss."""
    return (yield from _without_programs())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test by the name of what it misses."""
    return (yield from _without_programs())


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give a running Docker Engine with the tests' images; skip with the reason where none can be had.

    BASTION_REQUIRE_DOCKER=1 turns the skip into a failure.
    """
    made = Engine(CACHE)
    try:
        try:
            made.start_engine()
            made.prepare()
        except (EngineUnavailable, ImageUnavailable) as error:
            unavailable(f"no Docker Engine: {error}")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Give a cluster: the one of BASTION_TEST_KUBECONFIG, else the stand-in over the engine of the tests' own."""
    engine = None if os.environ.get("BASTION_TEST_KUBECONFIG") else request.getfixturevalue("engine")
    made = Cluster(engine)
    try:
        yield made
    finally:
        made.close()
