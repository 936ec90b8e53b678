"""Helper shells of every kind: names, roots, rights that end at folders, several at once, and their ends."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files import Changes, Mode
from bastion.files.access import Judge
from bastion.files.helper import started
from bastion.files.recorded import RecordedFiles
from bastion.files.shell_files import ShellFiles
from bastion.model import STDIN, Data, FileAccess
from tests.conftest import unavailable
from tests.files.place import BOTH, PATCH, READ, WRITE
from tests.files.shells import SHELLS, Shells, here
from tests.runtimes.world import look_here, read_until
from tests.unit.recorded_house import get, house, listed


@pytest.fixture(params=SHELLS)
async def shells(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shells]:
    """Give each kind of shell in turn."""
    async with here(tmp_path, request.param) as found:
        yield found


async def test_every_byte(shells: Shells) -> None:
    """Every kind of shell takes every byte in a name, and gives it back."""
    folder = os.fsencode(shells.folder) + b"/"
    names = {b"-%cn%c" % (byte, byte) for byte in range(1, 256) if byte != ord("/")}
    async with shells.files() as files:
        for name in names:
            file = await files.open(folder + name, BOTH)
            await file.write(0, name)
            await file.close()
            assert await files.real_path(folder + name) == folder + name
        found = {entry.name async for batch in files.list(folder) for entry in batch}
    assert names <= found
    assert all((shells.folder / os.fsdecode(name)).read_bytes() == name for name in names)


async def test_failures(shells: Shells) -> None:
    """A shell outlives every failed redirection, and its own words are understood."""
    folder = os.fsencode(shells.folder) + b"/"
    (shells.folder / "file").write_bytes(b"content")
    (shells.folder / "folder").mkdir()
    async with shells.files() as files:
        for path, mode, words, kind in (
            (b"missing", READ, "no such file", "no-such-file"),
            (b"missing/too", READ, "no such file", "no-such-file"),
            (b"missing/too", WRITE, "no such file", "no-such-file"),
            (b"missing/too", BOTH, "no such file", "no-such-file"),
            (b"file/too", READ, "not a folder|no such file", "no-such-file"),
            (b"file/too", WRITE, "not a folder|no such file", "no-such-file"),
            (b"folder", WRITE, "a folder", "failure"),
            (b"x" * 256, WRITE, "the name is too long", "failure"),
            (b"file", Mode(write=True, create=True, exclusive=True), "already there", "failure"),
        ):
            with pytest.raises(FileFailed, match=words) as failed:
                await files.open(folder + path, mode)
            assert failed.value.kind == kind
        with pytest.raises(FileFailed, match="no such file") as failed:
            await files.open(b"/proc/none", WRITE)
        file = await files.open(folder + b"file", READ)
        assert await file.read(0, 100) == b"content"


async def test_several_at_once(shells: Shells) -> None:
    """Further helpers of a session have uids of their own: the end of one is not the end of another."""
    start = shells.start()
    uids = [start.request(number).uid for number in range(12)]
    assert len(set(uids)) == 12
    assert uids[0] == start.uid
    async with started(start) as first:
        for _ in range(2):
            async with started(start, number=1) as second:
                await second.do("stat", 1, paths=[b"/"])
            await first.do("stat", 1, paths=[b"/"])
    assert [uid for uid in uids if look_here(f"grep -lszF BASTION_SESSION={uid} /proc/[0-9]*/environ")] == []


async def test_shell_that_ends(shells: Shells) -> None:
    """A helper that is killed is a broken way: what waits for it, and what is asked later, fails at once."""
    start = shells.start()
    async with started(start) as helper, ShellFiles(start, helper) as files:
        file = await files.open(os.fsencode(shells.folder) + b"/file", BOTH)
        look_here(f"kill -9 $(grep -lszF BASTION_SESSION={start.uid} /proc/[0-9]*/environ | tr -dc '0-9\\n')")
        for call in (file.write(0, b"x"), file.read(0, 1), files.stat(b"/", follow=True), file.stat()):
            with pytest.raises(RuntimeFailed):
                await call
        await file.close()


async def test_own_server(shells: Shells) -> None:
    """The image's own sftp-server takes the helper's place where that is allowed, and speaks SFTP."""
    if not os.access("/usr/lib/openssh/sftp-server", os.X_OK):
        unavailable("no sftp-server here (tests/prepare.sh)")
    async with started(shells.start(), own_server=True) as helper:
        assert helper.server == "/usr/lib/openssh/sftp-server"
        await helper.program.send(Data(STDIN, b"\0\0\0\x05\x01\0\0\0\x03"))
        assert (await read_until(helper.program, b"\0\0\0\x03"))[4:9] == b"\x02\0\0\0\x03"
    shells.variables["BASTION_ROOT"] = "/proc/1/root"
    async with started(shells.start(), own_server=True) as helper:
        assert helper.server is None


async def test_cancelled(shells: Shells) -> None:
    """Whoever stops waiting for an answer does not spoil the next one."""
    path = os.fsencode(shells.folder) + b"/file"
    (shells.folder / "file").write_bytes(bytes(range(256)) * 20_000)
    async with shells.files() as files:
        file = await files.open(path, Mode(read=True, write=True))
        for pause in (0, 0, 0.0005, 0.001, 0.002, 0.004, 0.01):
            for call in (
                lambda: file.read(1000, 500_000),
                lambda: files.stat(path, follow=True),
                lambda: file.write(0, b"\0\1\2\3" * 1),
                lambda: file.write(256, bytes(range(256)) * 4_000),
            ):
                task = asyncio.create_task(call())
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await file.read(512, 4) == b"\0\1\2\3"
        await file.close()
    assert (shells.folder / "file").read_bytes() == bytes(range(256)) * 20_000


async def test_root(shells: Shells) -> None:
    """Beneath another root every link, absolute ones too, is followed as one sees it whose root that is."""
    root = shells.folder / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_bytes(b"of the container")
    (root / "absolute").symlink_to("/etc")
    (root / "up").symlink_to("../../../../etc/passwd")
    (root / "etc/chain").symlink_to("/absolute/passwd")
    (root / "odd\n").symlink_to("/etc\n")
    (root / "loop").symlink_to("/loop")
    (root / "out").symlink_to(str(shells.folder))
    shells.variables["BASTION_ROOT"] = str(root)
    async with shells.files() as files:
        assert files.home == b"/"
        for path in (
            b"/etc/passwd",
            b"absolute/passwd",
            b"/up",
            b"/etc/chain",
            b"/../../etc/passwd",
            b"/absolute/../up",
        ):
            file = await files.open(path, READ)
            assert await file.read(0, 100) == b"of the container", path
            await file.close()
            assert await files.real_path(path) == b"/etc/passwd"
        assert await files.real_path(b"/odd\n") == b"/etc\n"
        assert await files.read_link(b"/absolute") == b"/etc"
        assert stat.S_ISLNK((await files.stat(b"/up", follow=False)).mode)
        assert (await files.stat(b"/up", follow=True)).size == 16
        file = await files.open(b"/absolute/new", WRITE)
        await file.write(0, b"new")
        await file.close()
        assert (root / "etc/new").read_bytes() == b"new"
        await files.rename(b"/absolute/new", b"/absolute/newer", overwrite=False)
        await files.symlink(b"/absolute/newer", b"/absolute/link")
        await files.change(b"/absolute/link", Changes(permissions=0o600, size=1), follow=True)
        assert (await files.stat(b"/etc/newer", follow=False)).mode == 0o100600
        names = {entry.name async for batch in files.list(b"/absolute") for entry in batch}
        assert names == {b".", b"..", b"passwd", b"chain", b"newer", b"link"}
        await files.remove(b"/absolute")
        await files.make_directory(b"/absolute", None)
        for lost in (b"/out/root/etc/passwd", b"/loop", b"/out"):
            with pytest.raises(FileFailed):
                await files.open(lost, READ)


async def test_strict(shells: Shells) -> None:
    """Where rights end at folders, no link on the way or at the end of a path is followed, whatever is asked."""
    (shells.folder / "inside").mkdir()
    (shells.folder / "outside").mkdir()
    (shells.folder / "outside/file").write_bytes(b"secret")
    (shells.folder / "outside/folder").mkdir()
    (shells.folder / "inside/swapped").symlink_to("../outside")
    (shells.folder / "inside/link").symlink_to("../outside/file")
    (shells.folder / "inside/new").symlink_to("../outside/new")
    (shells.folder / "inside/file").write_bytes(b"public")
    shells.strict = True
    inside = os.fsencode(shells.folder) + b"/inside/"
    before = look_here(f"cd {shells.folder}/outside && stat -c '%n %s %a %Y %u' . * && cat file")
    async with shells.files() as files:

        async def listed(path: bytes) -> None:
            async for _ in files.list(path):
                pass

        every = Changes(size=1)
        calls: list[Callable[[bytes], Awaitable[object]]] = [
            lambda path: files.stat(path, follow=True),
            listed,
            *(lambda path, mode=mode: files.open(path, mode) for mode in (READ, WRITE, PATCH, BOTH)),
            *(
                lambda path, changes=changes: files.change(path, changes, follow=True)
                for changes in (every, Changes(permissions=0o777), Changes(owner=(1, 1)), Changes(times=(1, 1)))
            ),
        ]
        for call in calls:
            for path in (b"swapped/file", b"swapped/folder", b"link", b"swapped", b"new"):
                with pytest.raises(FileFailed):
                    await call(inside + path)
        for path in (b"swapped/file", b"swapped/folder", b"swapped/new", b"../outside/file"):
            for act in (
                files.remove(inside + path),
                files.remove_directory(inside + path),
                files.make_directory(inside + path, None),
                files.rename(inside + path, inside + b"stolen", overwrite=True),
                files.rename(inside + b"file", inside + path, overwrite=True),
                files.symlink(b"x", inside + path),
                files.hard_link(inside + path, inside + b"stolen"),
                files.hard_link(inside + b"file", inside + path),
                files.read_link(inside + path),
                files.open(inside + path, Mode(write=True, create=True, exclusive=True)),
            ):
                with pytest.raises(FileFailed) as failed:
                    await act
                assert failed.value.kind == "permission-denied"
        assert await files.real_path(inside + b"link") == os.fsencode(shells.folder) + b"/outside/file"
        assert stat.S_ISLNK((await files.stat(inside + b"link", follow=False)).mode)
        file = await files.open(inside + b"file", Mode(read=True, write=True))
        (shells.folder / "inside/file").rename(shells.folder / "inside/moved")
        assert await file.read(0, 10) == b"public"
        await files.rename(inside + b"moved", inside + b"file", overwrite=False)
        await files.change(inside + b"file", Changes(permissions=0o640, size=3, times=(1, 2)), follow=True)
        assert (await file.stat()).mode == 0o100640
        await file.close()
    assert look_here(f"cd {shells.folder}/outside && stat -c '%n %s %a %Y %u' . * && cat file") == before


@pytest.mark.parametrize("write", [(), ("/tmp/somewhere-else/**",)])
async def test_limited_rights(shells: Shells, write: tuple[str, ...]) -> None:
    """Where rights end at folders, what may be read by its real path is read by a link, too."""
    (shells.folder / "folder").mkdir()
    (shells.folder / "folder/file").write_bytes(b"content")
    (shells.folder / "link").symlink_to("folder")
    for read in ("/**", f"{shells.folder}/**"):
        access = FileAccess((read,), write)
        shells.strict = Judge(access).depends_on_paths
        inside = house()
        async with shells.files() as files, RecordedFiles(files, access, inside.live, inside.record) as recorded:
            path = os.fsencode(shells.folder) + b"/link/file"
            assert await get(recorded, path) == b"content"
            assert (await recorded.stat(path, follow=False)).size == 7
            assert b"file" in {entry.name for entry in await listed(recorded, path.rpartition(b"/")[0])}
            with pytest.raises(FileFailed):
                await recorded.open(path, WRITE)
