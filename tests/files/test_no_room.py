"""File systems that are full or read-only, and a user who may do little: the right failure, and nothing hidden."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bastion.errors import FileFailed
from bastion.files import Changes
from bastion.runtimes.docker import DockerRuntime
from tests.engine import Engine
from tests.files.conftest import by_shell
from tests.files.place import BOTH, READ, WRITE, Place
from tests.runtimes.world import World

pytestmark = pytest.mark.docker

PIECE = b"x" * 400_000


@pytest.fixture(params=["busybox", "debian"])
async def small(request: pytest.FixtureRequest, engine: Engine) -> AsyncIterator[Place]:
    """Give a container with 1 MiB of room in /small, a read-only /fixed, and a user who may do little."""
    name = f"small-{request.param}"
    image = engine.image_busybox if request.param == "busybox" else engine.image_debian
    if name not in engine.docker("ps", "--format", "{{.Names}}").split():
        rooms = ("--tmpfs", "/small:size=1m,mode=1777", "--tmpfs", "/fixed:ro", "--user", "1000:1000")
        engine.start(name, image, stack="small", service=request.param, args=rooms)
    runtime = DockerRuntime(engine.host)
    (target,) = await runtime.find("small", request.param)
    world = World(runtime, target, lambda script: engine.docker("exec", "-u", "0", name, "sh", "-c", script))
    async with by_shell(world) as files:
        yield Place(files, b"/small", world)
    await runtime.close()


async def test_full(small: Place) -> None:
    """A write that has no room fails as that, so does what was sent behind it, and the rest goes on."""
    await small.look("rm -f /small/*")
    file = await small.files.open(b"/small/file", WRITE)
    await file.write(0, PIECE)
    await file.write(len(PIECE), PIECE)
    with pytest.raises(FileFailed, match="no space left"):
        await file.write(2 * len(PIECE), PIECE)
    with pytest.raises(FileFailed, match="no space left"):
        await file.write(3 * len(PIECE), PIECE)
    await file.write(0, b"begin")
    assert (await file.stat()).size <= 2**20
    await file.close()
    assert (await small.files.space(b"/small")).available == 0
    await small.files.change(b"/small/file", Changes(size=5), follow=True)
    assert await small.get("file") == b"begin"
    await small.files.remove(b"/small/file")


async def test_full_while_more_comes(small: Place) -> None:
    """Of writes that are under way when room runs out, none is taken for written that is not, or elsewhere."""
    await small.look("rm -f /small/*")
    file = await small.files.open(b"/small/file", WRITE)
    pieces = [bytes([number]) * 300_000 for number in range(1, 8)]
    calls = [file.write(at * 300_000, piece) for at, piece in enumerate(pieces)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [result is None for result in results] == [True] * 3 + [False] * 4
    assert all(isinstance(result, FileFailed) and "no space left" in result.public for result in results[3:])
    await file.close()
    assert (await small.get("file")).startswith(b"".join(pieces[:3]))
    await small.files.remove(b"/small/file")


async def test_read_only(small: Place) -> None:
    """A file system that cannot be written says so, and every change to it is refused in words."""
    assert (await small.files.space(b"/fixed")).read_only
    for call in (
        small.files.open(b"/fixed/file", WRITE),
        small.files.make_directory(b"/fixed/folder", None),
        small.files.symlink(b"x", b"/fixed/link"),
        small.files.change(b"/fixed", Changes(permissions=0o777), follow=True),
        small.files.change(b"/fixed", Changes(times=(1, 1)), follow=True),
    ):
        with pytest.raises(FileFailed, match="read-only"):
            await call


async def test_not_allowed(small: Place) -> None:
    """What the container's user may not is refused as that, whatever it is."""
    await small.look(
        "rm -rf /small/*; mkdir -m 700 shut; echo x >shut/file; echo y >file; chmod 600 file; mkdir -m 711 dark"
    )
    for call in (
        small.files.stat(b"/small/shut/file", follow=True),
        small.files.open(b"/small/file", READ),
        small.files.open(b"/small/file", WRITE),
        small.files.open(b"/small/file", BOTH),
        small.files.open(b"/small/shut/file", READ),
        small.files.open(b"/small/shut/new", WRITE),
        small.files.open(b"/small/dark/new", WRITE),
        small.files.remove(b"/small/file"),
        small.files.rename(b"/small/file", b"/small/other", overwrite=True),
        small.files.change(b"/small/file", Changes(permissions=0o666), follow=True),
        small.files.change(b"/small/file", Changes(size=0), follow=True),
        small.files.change(b"/small/file", Changes(times=(1, 1)), follow=True),
        small.files.make_directory(b"/small/shut/x", None),
        small.files.remove_directory(b"/small/shut"),
        small.list(b"/small/shut"),
        small.list(b"/small/dark"),
    ):
        with pytest.raises(FileFailed) as failed:
            await call
        assert failed.value.kind == "permission-denied"
    assert await small.look("cat shut/file file") == "x\ny"
    await small.look("rm -rf /small/*")
