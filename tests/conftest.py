"""Fixtures that every test folder shares: the engine of the tests' own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import Engine, EngineUnavailable
from tests.images import ImageUnavailable

CACHE = Path(os.environ.get("BASTION_TEST_CACHE") or Path(__file__).parent.parent / ".cache")


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
            (pytest.fail if os.environ.get("BASTION_REQUIRE_DOCKER") == "1" else pytest.skip)(
                f"no Docker Engine: {error}"
            )
        yield made
    finally:
        made.close()
