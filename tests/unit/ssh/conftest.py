"""Fixtures of the tests of the SSH face."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bastion.config import SshSettings
from tests.unit.ssh.house import House, running


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Give a running bastion with the limits of a default configuration."""
    async with running(tmp_path, SshSettings(listen=("127.0.0.1:0",))) as made:
        yield made
