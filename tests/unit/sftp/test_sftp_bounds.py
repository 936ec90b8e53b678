"""The bounds of the SFTP server: paths, handles, and packets that are none."""

from collections.abc import Callable

import pytest

from bastion.errors import Malformed
from bastion.files import sftp_wire as wire
from bastion.files.sftp_answers import LONGEST_PATH
from bastion.files.sftp_handles import MOST_HANDLES
from bastion.files.sftp_telling import MOST_LINES
from bastion.files.sftp_wire import Kind, Status
from tests.unit.memory_files import MemoryFiles
from tests.unit.sftp.talker import HELLO, NOTHING, Talker, read_status, talking

READ, WRITE, CREATE = wire.READ, wire.WRITE, wire.CREATE
string, number, longs = wire.string, wire.number, wire.longs


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (b"a\0b", Status.FAILURE, "the path has a NUL byte"),
        (b"x" * (LONGEST_PATH + 1), Status.FAILURE, "file name too long"),
        (b"/" * LONGEST_PATH, Status.FAILURE, "file name too long"),  # the container's own limit
        (b"", Status.NO_SUCH_FILE, "no such file or directory"),
        (b"none/none", Status.NO_SUCH_FILE, "no such file or directory"),
    ],
)
async def test_paths_are_checked(path: bytes, status: Status, words: str) -> None:
    """A path that cannot be one goes no further than the server; any other failure is the container's."""
    async with talking(MemoryFiles()) as talker:
        for kind in (Kind.LSTAT, Kind.STAT, Kind.OPENDIR, Kind.REMOVE, Kind.RMDIR, Kind.READLINK):
            assert await talker.status(kind, string(path)) == (status, words)
        assert await talker.status(Kind.OPEN, string(path), number(READ), NOTHING) == (status, words)
        assert await talker.status(Kind.MKDIR, string(path), NOTHING) == (status, words)
        assert await talker.status(Kind.SETSTAT, string(path), NOTHING) == (status, words)
        assert await talker.status(Kind.SYMLINK, string(b"target"), string(path)) == (status, words)
        assert await talker.status(Kind.RENAME, string(path), string(b"new")) == (status, words)
        await talker.end()


async def test_a_client_has_so_many_files_open_and_no_more() -> None:
    """Of ten thousand files that are opened the first are, the others are failures in words, and nothing is made."""
    files = MemoryFiles()
    async with talking(files) as talker:
        handles = [await talker.open(b"/tmp/%d" % each, WRITE | CREATE) for each in range(MOST_HANDLES)]
        for each in range(MOST_HANDLES, 10_000):
            talker.send(Kind.OPEN, string(b"/tmp/%d" % each), number(WRITE | CREATE), NOTHING)
        for _ in range(MOST_HANDLES, 10_000):
            answer = await talker.answer()
            answer.number()
            assert read_status(answer)[1].startswith(f"more than {MOST_HANDLES} files are open at once")
        assert (await talker.status(Kind.OPENDIR, string(b"/tmp")))[0] == Status.FAILURE
        assert files.opened == MOST_HANDLES
        assert len(files.folder(b"/tmp").children) == MOST_HANDLES
        await talker.ok(Kind.CLOSE, handles[0])
        await talker.open(b"/tmp/again", WRITE | CREATE)
        assert len(talker.channel.said) == MOST_LINES + 1
        await talker.end()
    assert files.opened == 0


@pytest.mark.parametrize(
    "hostile",
    [
        lambda talker: talker.raw(number(2**31)),
        lambda talker: talker.raw(number(0)),
        lambda talker: talker.raw(wire.packet(Kind.STAT, b"\0")),
        lambda talker: talker.raw(HELLO),
        lambda talker: talker.send(Kind.STAT, number(100), b"short"),
        lambda talker: talker.send(Kind.WRITE, string(b"x"), longs(0), number(9), b"short"),
        lambda talker: talker.raw(number(100) + b"the end comes too soon"),
    ],
)
async def test_what_is_no_sftp_ends_the_conversation(hostile: Callable[[Talker], object]) -> None:
    """A packet that is none is an error with words, after what came before it was answered; all is closed."""
    files = MemoryFiles()
    files.put(b"/app/a")
    async with talking(files) as talker:
        await talker.open(b"/app/a", READ)
        before = talker.send(Kind.LSTAT, string(b"/app/a"))
        hostile(talker)
        with pytest.raises(Malformed, match="SFTP"):
            await talker.end()
        answer = await talker.answer()
        assert (answer.kind, answer.number()) == (Kind.ATTRS, before)
    assert files.opened == 0


async def test_a_conversation_begins_with_init() -> None:
    """Whatever else comes first ends it; that nothing comes at all is no error."""
    with pytest.raises(Malformed, match="INIT"):
        async with talking(MemoryFiles(), hello=wire.packet(Kind.STAT, number(1), string(b"/"))):
            pass
