"""The way by the engine's archive API: what it can, what it refuses, and what it never touches."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from bastion.errors import ContainerEnded, FileFailed, NoShell, RuntimeFailed
from bastion.files import Attributes, Changes, Mode
from bastion.files import archive_file as file_module
from bastion.files.archive import by_archive
from bastion.files.serving import reach
from bastion.model import FileAccess, Name, Request
from bastion.runtimes import Archive
from bastion.runtimes.docker import DockerRuntime
from tests.engine import Engine
from tests.files.place import BOTH, PATCH, READ, WRITE, Place
from tests.runtimes.world import World

pytestmark = pytest.mark.docker

STACK = "filed"
MEBIBYTE = 2**20
WHOLE = FileAccess(("/**",), ("/**",))


@pytest.fixture
def container(engine: Engine) -> Iterator[str]:
    """Give the name of a container without a shell, with a tmpfs and a volume."""
    engine.start("filed", engine.image_scratch, stack=STACK, service="filed", args=("--tmpfs", "/hidden", "-v", "/vol"))
    yield "filed"
    engine.remove("filed")


@pytest.fixture
async def runtime(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """Give a runtime whose stack lets its archives be used."""
    made = DockerRuntime(engine.host, archives={STACK}, toolboxes={STACK: engine.image_busybox})
    yield made
    await made.close()


@pytest.fixture
async def place(runtime: DockerRuntime, container: str) -> Place:
    """Give the files of the container, with a folder; it is looked at from a toolbox."""
    return await place_of(runtime, container)


async def place_of(runtime: DockerRuntime, name: str) -> Place:
    (target,) = await runtime.find(STACK, name)
    world = World(runtime, target, str, notes=1)
    loop = asyncio.get_running_loop()
    inside = World(runtime, target, str, notes=1)

    def look(script: str) -> str:
        asked = inside.command(f"cd /proc/1/root; {script}")
        return asyncio.run_coroutine_threadsafe(asked, loop).result().out.decode(errors="surrogateescape")

    world.look, world.root = look, "/proc/1/root"
    files = await by_archive(archive_of(runtime, world), None)
    await files.make_directory(b"/folder", 0o777)
    return Place(files, b"/folder", world)


def archive_of(runtime: DockerRuntime, world: World) -> Archive:
    archive = runtime.archive(world.target)
    assert archive is not None
    return archive


async def test_only_where_the_stack_says_so(engine: Engine, docker: DockerRuntime, container: str) -> None:
    """Without `archive = true` there is no such way."""
    (target,) = await docker.find(STACK, container)
    assert docker.archive(target) is None


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 70_000, 20 * MEBIBYTE])
async def test_there_and_back(place: Place, size: int) -> None:
    """What is put is there when it is closed, and comes back as it is; its way names the caveat."""
    content = os.urandom(size)
    await place.put("file", content)
    assert hashlib.sha256(await place.get("file")).digest() == hashlib.sha256(content).digest()
    assert (await place.look("sha256sum file")).split()[0] == hashlib.sha256(content).hexdigest()
    assert "own permissions are not applied" in place.files.way


@pytest.mark.parametrize(
    "name", [b"-rf", b"new\nline", b" ", b"*", b"%2e%2e", b"back\\slash", b"n" * 255, "ünï".encode()]
)
async def test_odd_name(place: Place, name: bytes) -> None:
    """A name of any characters is put, found, read and listed as it is."""
    path = await place.put(name, b"content")
    assert await place.get(name) == b"content"
    assert (await place.files.stat(path, follow=False)).size == 7
    assert await place.files.real_path(path) == path
    assert set(await place.list()) == {b".", b"..", name}


async def test_name_of_no_characters(place: Place) -> None:
    """A name that is no UTF-8 is put and listed; where the engine loses it on the way back, that is said."""
    path = await place.put(b"\xff\xfe", b"content")
    assert set(await place.list()) == {b".", b"..", b"\xff\xfe"}
    assert (await place.look("cat *")).strip() == "content"
    try:
        assert await place.get(b"\xff\xfe") == b"content"
    except FileFailed as failure:
        if failure.kind != "unsupported":
            raise
    assert await place.files.real_path(path) == path


async def test_list(place: Place) -> None:
    """A folder is listed with what each name is, and nothing of what is in the folders in it."""
    await place.put("file", b"12345")
    await place.files.make_directory(place.path("sub"), 0o750)
    await place.put("sub/deep", b"x" * 100_000)
    await place.files.symlink(b"file", place.path("link"))
    await place.look("ln file second; mkfifo pipe")
    found = await place.list()
    assert set(found) == {b".", b"..", b"file", b"sub", b"link", b"second", b"pipe"}
    modes = {name: entry.attributes.mode for name, entry in found.items()}
    assert modes[b"file"] == modes[b"second"] == 0o100644
    assert (modes[b"sub"], modes[b"link"], modes[b"pipe"] & ~0o7777) == (0o040750, 0o120777, 0o010000)
    assert found[b"file"].attributes.size == found[b"second"].attributes.size == 5
    assert found[b"."].attributes == await place.files.stat(place.folder, follow=True)
    assert {b".", b"..", b"folder", b"sleep", b"etc"} <= set(await place.list(b"/"))


async def test_many_names(place: Place) -> None:
    """A folder of many names comes in batches, each name once."""
    await place.look("mkdir many; i=0; while [ $i -lt 1500 ]; do echo $i >many/$i; i=$((i + 1)); done")
    found = await place.list(place.path("many"))
    assert set(found) == {b".", b"..", *(str(number).encode() for number in range(1500))}


async def test_links(place: Place) -> None:
    """Symbolic links are made, read and followed as the container sees them, and lead out of no container."""
    await place.put("file", b"content")
    for name, target in {
        "near": b"file",
        "far": b"/folder/file",
        "up": b"../../../../folder/file",
        "no": b"nothing",
    }.items():
        await place.files.symlink(target, place.path(name))
        assert await place.files.read_link(place.path(name)) == target
        assert (await place.files.stat(place.path(name), follow=False)).mode == 0o120777
        assert await place.files.real_path(place.path(name)) == place.path("nothing" if name == "no" else "file")
    assert await place.get("up") == b"content"
    assert await place.files.real_path(b"/nope/../folder/near") == place.path("file")
    await place.files.symlink(b"../folder", place.path("self"))
    assert await place.files.real_path(place.path("self/self/new/../x")) == place.path("x")
    await place.look("ln -s loop loop")
    with pytest.raises(FileFailed, match="too many symbolic links"):
        await place.files.stat(place.path("loop"), follow=True)
    written = await place.put("far", b"through it")
    assert await place.get("file") == b"through it"
    assert await place.files.read_link(written) == b"/folder/file"


async def test_how_files_are_opened(place: Place) -> None:
    """Files are made, cut off, patched and appended to as the mode says; a new one is there at the close."""
    path = place.path("file")
    with pytest.raises(FileFailed) as missing:
        await place.files.open(path, PATCH)
    assert missing.value.kind == "no-such-file"
    made = await place.files.open(path, replace(BOTH, permissions=0o606))
    await made.write(3, b"def")
    await made.write(0, b"abc")
    assert await made.read(1, 3) == b"bcd"
    assert await made.read(6, 3) == b""
    await made.close()
    assert (await place.files.stat(path, follow=True)).mode == 0o100604
    for mode, data, content in [
        (PATCH, b"XY", b"abXYef"),
        (Mode(write=True, append=True), b"!", b"abXYef!"),
        (WRITE, b"new", b"\0\0new"),
    ]:
        file = await place.files.open(path, mode)
        await file.write(2, data)
        await file.close()
        await file.close()
        assert await place.get("file") == content
    with pytest.raises(FileFailed, match="already there"):
        await place.files.open(path, replace(WRITE, exclusive=True))
    with pytest.raises(FileFailed, match="a folder"):
        await place.files.open(place.folder, READ)
    with pytest.raises(FileFailed, match="a folder"):
        await place.files.open(place.folder, WRITE)


@pytest.mark.parametrize("window", [file_module.WINDOW, 600_000])
async def test_reading_anywhere(place: Place, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """A file is read in any order, at its end and behind it, whatever of it is read at a time."""
    monkeypatch.setattr(file_module, "WINDOW", window)
    content = os.urandom(3 * MEBIBYTE)
    await place.put("file", content)
    file = await place.files.open(place.path("file"), READ)
    try:
        for offset, length in [
            (0, 10),
            (10, 100_000),
            (2 * MEBIBYTE, 5),
            (5, 5),
            (3 * MEBIBYTE - 1, 10),
            (0, 1),
            (4 * MEBIBYTE, 1),
        ]:
            found = await file.read(offset, length)
            assert found == content[offset : offset + len(found)]
            assert bool(found) == (offset < len(content))
    finally:
        await file.close()


async def test_changed_while_it_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that became another one is not read on as the one it was."""
    monkeypatch.setattr(file_module, "WINDOW", 100)
    path = await place.put("file", b"a" * MEBIBYTE)
    file = await place.files.open(path, READ)
    try:
        assert await file.read(0, 5) == b"aaaaa"
        await place.put("file", b"b" * 100)
        assert await file.read(95, 10) == b"aaaaa"
        with pytest.raises(FileFailed, match="changed while it was read"):
            await file.read(100, 5)
    finally:
        await file.close()


async def test_whose_it_is(engine: Engine, runtime: DockerRuntime) -> None:
    """What is made is the session user's, by the container's own passwd; what is replaced keeps its owner."""
    engine.start("whose", engine.image_scratch, stack=STACK, service="whose", args=("--user", "user"))
    try:
        place = await place_of(runtime, "whose")
        archive = archive_of(runtime, place.world)
        for user, expected in [(None, "1000:1000"), ("user", "1000:1000"), ("4711", "4711:0"), ("1000:12", "1000:12")]:
            place.files = await by_archive(archive, user)
            found = await place.files.stat(await place.put(f"of-{user}", b""), follow=True)
            assert f"{found.user}:{found.group}" == expected
        await place.put("of-None", b"by 1000:12")
        kept = await place.files.stat(place.path("of-None"), follow=True)
        assert (kept.user, kept.group) == (1000, 1000)
        with pytest.raises(FileFailed) as refused:
            await place.files.change(place.path("of-None"), Changes(owner=(0, 0)), follow=True)
        assert refused.value.kind == "unsupported"
        with pytest.raises(RuntimeFailed, match="not in its image"):
            await by_archive(archive, "nosuch")
    finally:
        engine.remove("whose")


async def test_changes(place: Place) -> None:
    """Folders, and files that this session has put, get permissions and times; other files only another size."""
    changes = Changes(permissions=0o2750, times=(1_600_000_000, 1_700_000_000))
    await place.files.change(place.folder, changes, follow=True)
    path = await place.put("mine", b"content")
    await place.files.change(path, replace(changes, permissions=0o600), follow=True)
    for each, mode in ((place.folder, 0o042750), (path, 0o100600)):
        found = await place.files.stat(each, follow=True)
        assert found.mode == mode
        assert each == place.folder or found.modified == 1_700_000_000
    assert await place.get("mine") == b"content"
    await place.look("echo other >other; exec 5<>other")
    with pytest.raises(FileFailed, match="what this session has not put") as refused:
        await place.files.change(place.path("other"), Changes(permissions=0o600), follow=True)
    assert refused.value.kind == "unsupported"
    await place.files.change(place.path("other"), Changes(size=2), follow=True)
    assert await place.get("other") == b"ot"
    opened = await place.files.open(place.path("mine"), PATCH)
    await opened.change(Changes(size=3, permissions=0o640, times=(1, 2)))
    await opened.close()
    assert await place.files.stat(path, follow=True) == Attributes(0o100640, 3, 0, 0, 2, 2)


async def test_what_it_cannot(place: Place) -> None:
    """What the API has no way for is refused in words as unsupported; what is not there as not there."""
    path = await place.put("file", b"content")
    calls: list[Callable[[bytes], Awaitable[object]]] = [
        place.files.remove,
        place.files.remove_directory,
        lambda path: place.files.rename(path, place.path("new"), overwrite=True),
        lambda path: place.files.hard_link(path, place.path("new")),
        place.files.space,
    ]
    for call in calls:
        with pytest.raises(FileFailed) as refused:
            await call(path)
        assert (refused.value.kind, refused.value.hint) == ("unsupported", "a toolbox for the stack can")
        with pytest.raises(FileFailed) as refused:
            await call(place.path("missing"))
        assert refused.value.kind == "no-such-file"
    assert await place.get("file") == b"content"


async def test_missing(place: Place) -> None:
    """What is not there, or lies in no folder, is said to be so."""
    await place.put("file", b"content")
    for name in ("missing", "missing/too", "file/too"):
        path = place.path(name)
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda path=path: place.files.stat(path, follow=True),  # type: ignore[misc]
            lambda path=path: place.files.open(path, READ),  # type: ignore[misc]
            lambda path=path: place.files.open(path, PATCH),  # type: ignore[misc]
            lambda path=path: place.files.read_link(path),  # type: ignore[misc]
            lambda path=path: place.list(path),  # type: ignore[misc]
            lambda path=path: place.files.open(path + b"/x", WRITE),  # type: ignore[misc]
            lambda path=path: place.files.make_directory(path + b"/x", None),  # type: ignore[misc]
            lambda path=path: place.files.symlink(b"x", path + b"/x"),  # type: ignore[misc]
        ]
        for call in asked:
            with pytest.raises(FileFailed) as failed:
                await call()
            assert failed.value.kind == "no-such-file", failed.value
    assert set(await place.list()) == {b".", b"..", b"file"}
    for call in (
        lambda: place.files.make_directory(place.path("file"), None),
        lambda: place.files.symlink(b"x", place.path("file")),
    ):
        with pytest.raises(FileFailed, match="already there"):
            await call()
    with pytest.raises(FileFailed, match="the name is too long"):
        await place.files.stat(place.path("n" * 300), follow=True)
    with pytest.raises(FileFailed, match="NUL"):
        await place.files.stat(place.path(b"a\0b"), follow=True)


@pytest.mark.parametrize("path", [b"/hidden/x", b"/proc/1/environ", b"/dev/shm/x", b"/sys/x", b"/folder/to-hidden/x"])
async def test_what_it_does_not_see(place: Place, path: bytes) -> None:
    """On a file system of its own, such as a tmpfs, nothing is read or written: the engine would do it beneath."""
    await place.files.symlink(b"/hidden", place.path("to-hidden"))
    for call in (lambda: place.files.stat(path, follow=True), lambda: place.files.open(path, WRITE)):
        with pytest.raises(FileFailed, match="does not see") as refused:
            await call()
        assert refused.value.kind == "unsupported"


async def test_a_volume(place: Place) -> None:
    """A volume is seen, and what is put there is there."""
    file = await place.files.open(b"/vol/x", WRITE)
    await file.write(0, b"content")
    await file.close()
    assert await place.look("cat ../vol/x") == "content"


async def test_a_read_only_container(engine: Engine, runtime: DockerRuntime) -> None:
    """A container whose root is read-only is not written to, and says so."""
    engine.start("sealed", engine.image_scratch, stack=STACK, service="sealed", args=("--read-only",))
    try:
        (target,) = await runtime.find(STACK, "sealed")
        files = await by_archive(archive_of(runtime, World(runtime, target, str)), None)
        file = await files.open(b"/etc/new", WRITE)
        await file.write(0, b"x")
        with pytest.raises(FileFailed, match="read-only") as refused:
            await file.close()
        assert refused.value.kind == "permission-denied"
    finally:
        engine.remove("sealed")


async def test_no_more_than_it_may_hold(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be held is refused in words, all open files together; what was there before stays."""
    monkeypatch.setattr(file_module, "HELD", 2 * MEBIBYTE)
    await place.put("file", b"before")
    first = await place.files.open(place.path("file"), WRITE)
    second = await place.files.open(place.path("second"), WRITE)
    await first.write(0, b"x" * MEBIBYTE)
    await second.write(0, b"x" * MEBIBYTE)
    for offset in (MEBIBYTE, 5 * 2**30):
        with pytest.raises(FileFailed, match="more than the 2 MiB"):
            await first.write(offset, b"x")
    assert await place.get("file") == b"before"
    await second.close()
    await first.write(MEBIBYTE, b"x" * MEBIBYTE)
    await first.close()
    assert len(await place.get("file")) == 2 * MEBIBYTE
    for number in range(3):
        await place.put(f"again-{number}", b"x" * MEBIBYTE)


async def test_no_larger_than_can_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is larger than can be read is refused in words."""
    monkeypatch.setattr(file_module, "LARGEST", MEBIBYTE)
    await place.put("file", b"x" * MEBIBYTE)
    assert len(await place.get("file")) == MEBIBYTE
    await place.put("file", b"x" * (MEBIBYTE + 1))
    with pytest.raises(FileFailed, match="more than the 1 MiB"):
        await place.get("file")


async def test_nobody_is_held_up(engine: Engine, place: Place, container: str) -> None:
    """While a file is open and half read, and a folder half listed, its container can be stopped."""
    await place.put("file", os.urandom(40 * MEBIBYTE))
    file = await place.files.open(place.path("file"), READ)
    assert len(await file.read(0, 1000)) == 1000
    async for _ in place.files.list(place.folder):
        await asyncio.to_thread(engine.docker, "stop", "-t", "0", container)
        break
    assert len(await file.read(20 * MEBIBYTE, 1000)) == 1000
    await file.close()


async def test_open_files_are_bounded(place: Place) -> None:
    """Eight files are open at a time, and no more."""
    path = await place.put("file", b"x" * MEBIBYTE)
    opened = [await place.files.open(path, READ) for _ in range(8)]
    with pytest.raises(FileFailed, match="too many open files"):
        await place.files.open(path, READ)
    await asyncio.gather(*(file.close() for file in opened))
    assert await place.get("file") == b"x" * MEBIBYTE


async def test_it_is_the_last_way(engine: Engine, container: str) -> None:
    """Files are reached by a toolbox where there is one and by the archive API where not; neither is a refusal."""
    asked = Request(uid="u" * 32, name=Name("filed"), kind="subsystem", command="sftp")
    made = [
        (DockerRuntime(engine.host, archives={STACK}, toolboxes={STACK: engine.image_busybox}), "a shell"),
        (DockerRuntime(engine.host, archives={STACK}), "the engine's archive API"),
        (DockerRuntime(engine.host), None),
    ]
    for runtime, way in made:
        (target,) = await runtime.find(STACK, container)
        try:
            async with reach(runtime, target, asked, WHOLE) as reached:
                assert way is not None
                assert reached.way.startswith(way)
                assert reached.files is not None
                assert b"sleep" in {entry.name async for batch in reached.files.list(b"/") for entry in batch}
        except NoShell:
            assert way is None
        await runtime.close()


async def test_a_toolbox_that_may_not_open_the_files(engine: Engine, runtime: DockerRuntime, container: str) -> None:
    """Where a toolbox may not open the container's files, that is said, and its own files are not taken for them."""
    asked = Request(uid="u" * 32, name=Name("filed"), kind="subsystem", command="sftp")
    (target,) = await runtime.find(STACK, container)
    with pytest.raises(RuntimeFailed, match="a toolbox beside filed may not open its files"):
        async with reach(runtime, replace(target, user="1000:1000"), asked, WHOLE):
            pass


@pytest.mark.parametrize(
    ("action", "words"), [(("kill",), "stopped"), (("pause",), "is paused"), (("rm", "-f"), "removed|stopped")]
)
async def test_it_is_over(
    engine: Engine, runtime: DockerRuntime, container: str, *, action: tuple[str, ...], words: str
) -> None:
    """That the container ends or is paused is told, also to whoever asks afterwards."""
    (target,) = await runtime.find(STACK, container)
    archive = archive_of(runtime, World(runtime, target, str))
    waiting = asyncio.create_task(archive.over())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await asyncio.to_thread(engine.docker, *action, container)
    async with asyncio.timeout(10):
        assert re.search(words, (await waiting).public)
        assert isinstance(await archive.over(), ContainerEnded)
    with pytest.raises(ContainerEnded):
        await archive.bounds()


async def test_the_container_goes(engine: Engine, place: Place, container: str) -> None:
    """When the container is removed, that is the failure, and no file's."""
    file = await place.files.open(place.path("file"), WRITE)
    await file.write(0, b"x")
    await asyncio.to_thread(engine.remove, container)
    with pytest.raises(ContainerEnded, match="gone"):
        await place.files.stat(place.folder, follow=True)
    with pytest.raises(ContainerEnded, match="gone"):
        await file.close()


async def test_half_a_put_is_whole(place: Place) -> None:
    """A session that is cut off while a file is put leaves it whole."""
    content = os.urandom(30 * MEBIBYTE)
    file = await place.files.open(place.path("file"), WRITE)
    await file.write(0, content)
    closing = asyncio.create_task(file.close())
    await asyncio.sleep(0.02)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    async with asyncio.timeout(20):
        while (await place.look("sha256sum file 2>&1")).split()[0] != hashlib.sha256(content).hexdigest():
            await asyncio.sleep(0.1)
