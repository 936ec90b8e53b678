"""The places whose files the conformance suite meets: every world of the runtimes' suite, by every way."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bastion.files import Files
from bastion.files.helper import Start, started
from bastion.files.shell_files import ShellFiles
from bastion.model import Name
from tests.files.place import Place
from tests.runtimes.conftest import WORLDS, docker, world, world_of
from tests.runtimes.world import World

__all__ = ["docker", "world"]

STRICT = ["process", *(pytest.param(name, marks=pytest.mark.docker) for name in ("busybox", "debian", "toolbox"))]


@pytest.fixture(params=WORLDS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Give the files of each world in turn, with a new folder."""
    async with (
        world_of(request, request.param) as found,
        by_shell(found) as files,
        a_folder(files, found) as folder,
    ):
        yield Place(files, folder, found)


@pytest.fixture(params=STRICT)
async def strict(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Give the files of some worlds in turn, strictly."""
    async with (
        world_of(request, request.param) as found,
        by_shell(found, strict=True) as files,
        a_folder(files, found) as folder,
    ):
        yield Place(files, folder, found)


@asynccontextmanager
async def by_shell(world: World, *, strict: bool = False) -> AsyncIterator[ShellFiles]:
    """Give the files of a world by a helper shell."""
    start = Start(world.runtime.exec, world.target, uuid.uuid4().hex, Name("web"), strict=strict)
    async with started(start) as helper, ShellFiles(start, helper) as files:
        yield files


@asynccontextmanager
async def a_folder(files: Files, world: World) -> AsyncIterator[bytes]:
    """Give a new folder; it is removed with all that is in it."""
    folder = f"/tmp/files-{uuid.uuid4().hex}"
    await files.make_directory(folder.encode(), 0o755)
    try:
        yield folder.encode()
    finally:
        world.look(f"chmod -R u+rwx {world.root}{folder}; rm -rf {world.root}{folder}")
