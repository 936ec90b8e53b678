"""Fixtures of the tests of SFTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.memory_files import MemoryFiles
from tests.unit.sftp.bridge import Bridge, bridged


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """Give a bastion that serves SFTP over files in memory."""
    async with bridged(tmp_path, MemoryFiles()) as made:
        yield made
