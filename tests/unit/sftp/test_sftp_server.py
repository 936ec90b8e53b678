"""The server of SFTP over files in memory: every request, the order of answers, its bounds, and what it leaves open."""

import stat
from collections.abc import Awaitable

from bastion.files import sftp_wire as wire
from bastion.files.sftp_handles import MOST_HANDLES
from bastion.files.sftp_wire import Fields, Kind, Status
from tests.unit.memory_files import MemoryFiles
from tests.unit.sftp.talker import NOTHING, Talker, read_status, talking

READ, WRITE, CREATE = wire.READ, wire.WRITE, wire.CREATE
string, number, longs = wire.string, wire.number, wire.longs


def one_name(answer: Fields) -> bytes:
    assert (answer.kind, answer.number()) == (Kind.NAME, 1)
    name = answer.string()
    assert answer.string() == name
    assert answer.number() == 0
    assert not answer.left
    return name


async def read_all(talker: Talker, handle: bytes, offset: int, length: int) -> bytes | tuple[Status, str]:
    answer = await talker.ask(Kind.READ, handle, longs(offset), number(length))
    return answer.string() if answer.kind == Kind.DATA else read_status(answer)


async def test_a_client_is_told_what_is_served() -> None:
    """The answer to INIT is version 3 whatever the client knows, with the extensions and their versions."""
    files = MemoryFiles()
    async with talking(files, hello=wire.packet(Kind.INIT, number(6), string(b"an"), string(b"extension"))) as talker:
        await talker.end()
    async with talking(files) as talker:
        limits = await talker.extended(b"limits@openssh.com")
        assert limits.kind == Kind.EXTENDED_REPLY
        assert [limits.long() for _ in range(4)] == [262144, 261120, 261120, MOST_HANDLES]
        assert await talker.status(Kind.EXTENDED, string(b"none@example.com")) == (
            Status.OP_UNSUPPORTED, "this extension is not served",
        )  # fmt: skip
        assert (await talker.status(77))[0] == Status.OP_UNSUPPORTED
        assert (await talker.status(Kind.DATA, string(b"an answer")))[0] == Status.OP_UNSUPPORTED
        await talker.end()


async def test_single_requests_do_what_they_say() -> None:
    """Each request on a path is done in the container, and answered with a status or what was asked for."""
    files = MemoryFiles()
    files.put(b"/app/a", b"content")
    async with talking(files) as talker:
        await talker.ok(Kind.MKDIR, string(b"/app/made"), number(4) + number(0o700))
        assert stat.S_IMODE((await files.stat(b"/app/made", follow=True)).mode) == 0o700
        await talker.ok(Kind.RENAME, string(b"/app/a"), string(b"/app/b"))
        files.put(b"/app/c", b"other")
        assert await talker.status(Kind.RENAME, string(b"/app/b"), string(b"/app/c")) == (Status.FAILURE, "file exists")
        await read_ok(talker.extended(b"posix-rename@openssh.com", string(b"/app/b"), string(b"/app/c")))
        assert files.content(b"/app/c") == b"content"
        await talker.ok(Kind.SYMLINK, string(b"c"), string(b"/app/link"))
        assert one_name(await talker.ask(Kind.READLINK, string(b"/app/link"))) == b"c"
        assert one_name(await talker.ask(Kind.REALPATH, string(b"/app/made/../link"))) == b"/app/c"
        await read_ok(talker.extended(b"hardlink@openssh.com", string(b"/app/c"), string(b"/app/twin")))
        assert (await files.stat(b"/app/c", follow=True)).links == 2
        await talker.ok(Kind.SETSTAT, string(b"/app/link"), number(1 | 4 | 8), longs(3), *map(number, (0o600, 11, 12)))
        found = (await talker.ask(Kind.STAT, string(b"/app/link"))).changes()
        assert (found.size, found.permissions, found.times) == (3, 0o600, (11, 12))
        await read_ok(talker.extended(b"lsetstat@openssh.com", string(b"/app/link"), number(8), number(1), number(2)))
        assert (await talker.ask(Kind.LSTAT, string(b"/app/link"))).changes().times == (1, 2)
        assert (await talker.ask(Kind.STAT, string(b"/app/link"))).changes().times == (11, 12)
        await talker.ok(Kind.REMOVE, string(b"/app/link"))
        assert (await talker.status(Kind.RMDIR, string(b"/app")))[0] == Status.FAILURE
        await talker.ok(Kind.RMDIR, string(b"/app/made"))
        await talker.end()


async def read_ok(asked: Awaitable[Fields]) -> None:
    assert read_status(await asked)[0] == Status.OK


async def test_links_may_come_as_drafted() -> None:
    """For a client that finds no OpenSSH here and keeps to the draft, SYMLINK's first path is the link."""
    files = MemoryFiles()
    async with talking(files, links_as_drafted=True) as talker:
        await talker.ok(Kind.SYMLINK, string(b"/app"), string(b"target"))
        await talker.end()
    assert await files.read_link(b"/app") == b"target"


async def test_homes_and_paths_from_them() -> None:
    """No path is the home, `~` is expanded for OpenSSH, and nobody else's home is known."""
    files = MemoryFiles(home=b"/srv/app")
    async with talking(files) as talker:
        assert one_name(await talker.ask(Kind.REALPATH, string(b""))) == b"/srv/app"
        assert one_name(await talker.ask(Kind.REALPATH, string(b"."))) == b"/srv/app"
        for given, expanded in ((b"~", b"/srv/app"), (b"~/x", b"/srv/app/x"), (b"x", b"/srv/app/x"), (b"/x", b"/x")):
            assert one_name(await talker.extended(b"expand-path@openssh.com", string(given))) == expanded
        assert read_status(await talker.extended(b"expand-path@openssh.com", string(b"~root")))[0] == Status.FAILURE
        assert one_name(await talker.extended(b"home-directory", string(b""))) == b"/srv/app"
        assert read_status(await talker.extended(b"home-directory", string(b"root")))[0] == Status.FAILURE
        await talker.end()


async def test_space_is_that_of_the_container() -> None:
    """Statvfs and fstatvfs give the eleven numbers, of a path and of what a handle was opened by."""
    files = MemoryFiles(room=1 << 20)
    files.put(b"/app/a")
    files.tree.read_only = True
    async with talking(files) as talker:
        expected = [4096, 4096, 256, 256, 256, 1000, 900, 900, 7, 1, 255]
        handle = await talker.open(b"/app/a", READ)
        folder = string((await talker.ask(Kind.OPENDIR, string(b"/app"))).string())
        for answer in (
            await talker.extended(b"statvfs@openssh.com", string(b"/app")),
            await talker.extended(b"fstatvfs@openssh.com", handle),
            await talker.extended(b"fstatvfs@openssh.com", folder),
        ):
            assert answer.kind == Kind.EXTENDED_REPLY
            assert [answer.long() for _ in range(11)] == expected
            assert not answer.left
        await talker.end()


async def test_opened_files_are_read_written_and_changed() -> None:
    """OPEN's flags mean what they say; a handle serves what it was opened for, until it is closed."""
    files = MemoryFiles()
    files.put(b"/app/a", b"old content")
    async with talking(files) as talker:
        handle = await talker.open(b"/app/a", READ | WRITE)
        await talker.ok(Kind.WRITE, handle, longs(0), string(b"new"))
        assert await read_all(talker, handle, 0, 100) == b"new content"
        assert await read_all(talker, handle, 11, 100) == (Status.EOF, "end of file")
        assert await read_all(talker, handle, 0, 0) == (Status.EOF, "end of file")
        await talker.ok(Kind.FSETSTAT, handle, number(1), longs(3))
        assert (await talker.ask(Kind.FSTAT, handle)).changes().size == 3
        await read_ok(talker.extended(b"fsync@openssh.com", handle))
        assert files.synced == 1
        appending = await talker.open(b"/app/a", WRITE | wire.APPEND)
        await talker.ok(Kind.WRITE, appending, longs(0), string(b"er"))
        assert files.content(b"/app/a") == b"newer"
        assert (await talker.status(Kind.READ, appending, longs(0), number(1)))[0] == Status.FAILURE
        plain = await talker.open(b"/app/a", 0)
        assert await read_all(talker, plain, 0, 9) == b"newer"
        assert (await talker.status(Kind.WRITE, plain, longs(0), string(b"x")))[0] == Status.FAILURE
        made = WRITE | CREATE | wire.EXCLUSIVE
        answer = await talker.ask(Kind.OPEN, string(b"/app/b"), number(made), number(4), number(0o100640))
        assert answer.kind == Kind.HANDLE
        assert stat.S_IMODE((await files.stat(b"/app/b", follow=True)).mode) == 0o640
        assert (await talker.status(Kind.OPEN, string(b"/app/b"), number(made), NOTHING)) == (
            Status.FAILURE, "file exists",
        )  # fmt: skip
        await talker.open(b"/app/a", WRITE | wire.TRUNCATE)
        assert files.content(b"/app/a") == b""
        assert files.opened == 5
        await talker.ok(Kind.CLOSE, handle)
        assert (await talker.status(Kind.CLOSE, handle)) == (Status.FAILURE, "there is no such handle")
        assert (await talker.status(Kind.FSTAT, handle))[0] == Status.FAILURE
        await talker.end()
    assert files.opened == 0


async def test_handles_are_for_what_they_were_given_for() -> None:
    """A folder's handle reads no file, a file's no folder, and what nobody was given is nothing."""
    files = MemoryFiles()
    files.put(b"/app/a")
    async with talking(files) as talker:
        file = await talker.open(b"/app/a", READ)
        folder = string((await talker.ask(Kind.OPENDIR, string(b"/app"))).string())
        assert await talker.status(Kind.READDIR, file) == (Status.FAILURE, "not a directory")
        assert await talker.status(Kind.READ, folder, longs(0), number(1)) == (Status.FAILURE, "is a directory")
        assert await talker.status(Kind.WRITE, folder, longs(0), string(b"x")) == (Status.FAILURE, "is a directory")
        for handle in (b"", b"x", bytes(8), b"\xff" * 300):
            assert await talker.status(Kind.CLOSE, string(handle)) == (Status.FAILURE, "there is no such handle")
        answer = await talker.ask(Kind.READDIR, folder)
        assert (answer.kind, answer.number()) == (Kind.NAME, 3)
        assert await talker.status(Kind.READDIR, folder) == (Status.EOF, "end of the folder")
        assert await talker.status(Kind.READDIR, folder) == (Status.EOF, "end of the folder")
        assert await talker.status(Kind.OPENDIR, string(b"/app/a")) == (Status.NO_SUCH_FILE, "not a directory")
        await talker.end()
    assert (files.opened, files.listing) == (0, 0)


async def test_a_read_is_filled() -> None:
    """READ is answered with all it asked for, in one answer, until the file ends; 255 KiB are the most."""
    files = MemoryFiles(piece=777)
    content = bytes(range(256)) * 2000
    files.put(b"/app/a", content)
    async with talking(files) as talker:
        handle = await talker.open(b"/app/a", READ)
        assert await read_all(talker, handle, 5, 200_000) == content[5:200_005]
        assert await read_all(talker, handle, 500_000, 32768) == content[500_000:]
        assert await read_all(talker, handle, 0, 2**32 - 1) == content[: wire.LONGEST_DATA]
        assert await read_all(talker, handle, 2**40, 10) == (Status.EOF, "end of file")
        assert await read_all(talker, handle, 2**64 - 1, 10) == (Status.FAILURE, "file too large")
        assert await talker.status(Kind.WRITE, handle, longs(2**64 - 1), string(b"x")) == (
            Status.FAILURE, "was not opened for writing",
        )  # fmt: skip
        await talker.end()


async def test_copies_are_made_in_the_container() -> None:
    """Copy-data copies a part, or all up to the end that the file has; a file is never copied into itself."""
    files = MemoryFiles()
    content = bytes(range(256)) * 10_000
    files.put(b"/app/a", content)
    files.put(b"/app/link")
    async with talking(files) as talker:
        source = await talker.open(b"/app/a", READ)
        target = await talker.open(b"/app/b", WRITE | CREATE)
        await read_ok(talker.extended(b"copy-data", source, longs(10, 20), target, longs(0)))
        assert files.content(b"/app/b") == content[10:30]
        await read_ok(talker.extended(b"copy-data", source, longs(0, 0), target, longs(5)))
        assert files.content(b"/app/b") == content[10:15] + content
        late = await talker.extended(b"copy-data", source, longs(len(content) - 3, 20), target, longs(0))
        assert read_status(late)[0] == Status.EOF
        itself = await talker.open(b"/app/a", WRITE)
        refused = await talker.extended(b"copy-data", source, longs(0, 0), itself, longs(7))
        assert read_status(refused) == (Status.FAILURE, "a file is not copied into itself")
        await files.hard_link(b"/app/a", b"/app/twin")
        twin = await talker.open(b"/app/twin", WRITE | wire.APPEND)
        await read_ok(talker.extended(b"copy-data", source, longs(0, 0), twin, longs(0)))
        assert files.content(b"/app/a") == content + content
        await talker.end()


async def test_names_may_have_any_bytes() -> None:
    """Every byte but `/` and NUL comes through in a name, both ways."""
    files = MemoryFiles()
    names = {bytes([byte]) + b"x" for byte in range(1, 256) if byte != ord("/")}
    async with talking(files) as talker:
        for name in sorted(names):
            handle = await talker.open(b"/tmp/" + name, WRITE | CREATE)
            await talker.ok(Kind.CLOSE, handle)
        folder = string((await talker.ask(Kind.OPENDIR, string(b"/tmp"))).string())
        found = set[bytes]()
        while (answer := await talker.ask(Kind.READDIR, folder)).kind == Kind.NAME:
            for _ in range(answer.number()):
                found.add(answer.string())
                answer.string()
                answer.changes()
        assert found == names | {b".", b".."}
        await talker.end()
