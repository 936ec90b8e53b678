"""Fixtures of the unit tests: a key home, and the wall clock that it goes by."""

from pathlib import Path

import pytest

from bastion.keyring import Keyring
from tests.unit.keyring_home import Wall


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def keyring(tmp_path: Path, wall: Wall) -> Keyring:
    keyring = Keyring(tmp_path / "keys", wall=wall)
    keyring.init()
    keyring.load()
    return keyring
