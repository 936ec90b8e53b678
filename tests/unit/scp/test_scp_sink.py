"""The taking end of scp against clients that do what none in good faith does, and what they leave behind."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bastion.files.scp.wire import PIECE
from tests.unit.memory_files import MemoryFiles
from tests.unit.scp.client import converse, messages

OUTSIDE = b"/home/outside"


@pytest.fixture
def files() -> MemoryFiles:
    """Files with a folder to put things into, beside one that is to be left alone."""
    return _files()


def _files() -> MemoryFiles:
    made = MemoryFiles(b"/home/app")
    made.put(OUTSIDE + b"/kept", b"kept")
    made.folder(b"/home/app/d")
    return made


@pytest.mark.parametrize("name", [b"..", b".", b"../x", b"/etc/x", b"a/b", b"a\0b", b"../outside/kept"])
async def test_a_name_that_leads_elsewhere_is_refused(files: MemoryFiles, name: bytes) -> None:
    """A client cannot name a file or a folder that is not straight in the target; the conversation ends."""
    for kind in (b"C", b"D"):
        status, heard = await converse(files, "scp -r -t d", b"%s0644 1 %s\nx\0" % (kind, name), b"C0644 1 y\ny\0")
        assert (status, heard) == (1, b"\0\1scp: error: unexpected filename\n")
    assert not files.folder(b"/home/app/d").children
    assert files.content(OUTSIDE + b"/kept") == b"kept"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"C0644 x name",
        b"C0644 -1 name",
        b"C0644 1e3 name",
        b"C0644 99999999999999999999 name",
        b"C0644 9223372036854775808 name",
        b"C9999 1 name",
        b"C644 1 name",
        b"C0644 1",
        b"C0644 1 ",
        b"T1 0 x 0",
        b"T1 0 1",
        b"E ",
        b"\3",
        b"C0644 1 " + b"x" * 5000,
    ],
)
async def test_a_line_that_is_none_ends_it(files: MemoryFiles, line: bytes) -> None:
    """What is no message of the protocol is told to be none, and nothing after it is taken."""
    status, heard = await converse(files, "scp -t d", line + b"\n", b"C0644 1 y\ny\0")
    assert status == 1
    assert heard.startswith(b"\0\1scp: ")
    assert len(messages(heard)) == 1
    assert not files.folder(b"/home/app/d").children


async def test_a_folder_is_taken_with_r_only(files: MemoryFiles) -> None:
    """Without -r no folder is made."""
    status, heard = await converse(files, "scp -t d", b"D0755 0 sub\n", b"E\n")
    assert (status, heard) == (1, b"\0\1scp: protocol error: received directory without -r\n")
    assert not files.folder(b"/home/app/d").children


@pytest.mark.parametrize("goes", [False, True])
async def test_a_client_that_ends_within_a_file_fails(files: MemoryFiles, *, goes: bool) -> None:
    """What arrived is there, the file is closed, and neither side can take it for the whole."""
    status, heard = await converse(files, "scp -t d", b"C0644 100 f\n" + b"x" * 60, goes=goes)
    assert (status, heard) == (1, b"\0\0\1scp: the client ended in the midst of a file\n")
    assert files.opened == 0


async def test_a_client_that_ends_within_a_tree_fails(files: MemoryFiles) -> None:
    """A folder that was not left is given what it was to have, and the status says that something is missing."""
    status, heard = await converse(files, "scp -r -p -t d", b"T9 0 8 0\nD0550 0 sub\nC0644 1 f\nx\0")
    assert (status, heard) == (1, b"\0\0\0\0\0")
    found = await files.stat(b"d/sub", follow=False)
    assert (found.mode & 0o7777, found.modified, found.accessed) == (0o550, 9, 8)


async def test_an_error_of_the_client_is_counted(files: MemoryFiles) -> None:
    """A file that the client could not read to its end is left as it arrived, and the status is not 0."""
    status, heard = await converse(files, "scp -t d", b"C0644 3 f\nab\0\1scp: f: read error\nC0644 1 g\ng\0")
    assert (status, heard) == (1, b"\0\0\0\0\0")
    assert files.content(b"/home/app/d/g") == b"g"
    status, heard = await converse(files, "scp -t d", b"\1scp: x: No such file\nC0644 1 h\nh\0")
    assert (status, files.content(b"/home/app/d/h")) == (1, b"h")
    status, heard = await converse(files, "scp -t d", b"\2gave up\nC0644 1 i\ni\0")
    assert (status, heard, b"i" in files.folder(b"/home/app/d").children) == (1, b"\0", False)


async def test_a_mode_without_writing_is_given_at_the_end(files: MemoryFiles) -> None:
    """A file and a folder that their owner may not write are filled first, and have that mode afterwards."""
    said = b"D0555 0 sub\nC0444 1 f\nx\0E\n"
    assert await converse(files, "scp -r -t d", said) == (0, b"\0\0\0\0\0")
    assert stat.S_IMODE((await files.stat(b"d/sub", follow=False)).mode) == 0o555
    assert stat.S_IMODE((await files.stat(b"d/sub/f", follow=False)).mode) == 0o444


async def test_special_bits_come_with_p_only(files: MemoryFiles) -> None:
    """Without -p nothing arrives that runs as somebody else."""
    await converse(files, "scp -t d", b"C6755 1 f\nx\0")
    await converse(files, "scp -p -t d", b"C6755 1 g\nx\0")
    assert stat.S_IMODE((await files.stat(b"d/f", follow=False)).mode) == 0o755
    assert stat.S_IMODE((await files.stat(b"d/g", follow=False)).mode) == 0o6755


async def test_contents_are_moved_in_large_pieces(files: MemoryFiles) -> None:
    """However small the pieces that arrive, the container is written to in large ones, and never in larger."""
    content = bytes(2 * PIECE + 5)
    status, _ = await converse(files, "scp -t d", b"C0644 %d f\n%s\0" % (len(content), content), piece=1000)
    assert (status, files.writes, files.content(b"/home/app/d/f")) == (0, [PIECE, PIECE, 5], content)


async def test_folders_in_folders_end_somewhere(files: MemoryFiles) -> None:
    """A client that goes into folders without end is told when their path is overly long, and goes no further."""
    status, heard = await converse(files, "scp -r -t d", b"D0755 0 %s\n" % (b"x" * 200) * 100)
    assert status == 1
    assert b"the name is too long" in heard


async def test_a_target_is_one_path(files: MemoryFiles) -> None:
    """A pattern that one path fits is that path, one that two fit is no target."""
    assert await converse(files, "scp -t [d]", b"C0644 1 f\nx\0") == (0, b"\0\0\0")
    assert files.content(b"/home/app/d/f") == b"x"
    files.folder(b"/home/app/e")
    assert await converse(files, "scp -t [de]", b"C0644 1 g\nx\0") == (1, b"\1scp: [de]: ambiguous target\n")


async def test_a_file_that_is_refused_is_not_waited_for(files: MemoryFiles) -> None:
    """The answer to a file that cannot be written is a line, and the next file is taken."""
    files.put(b"/home/app/d/f").mode &= ~0o222
    status, heard = await converse(files, "scp -t d", b"C0644 1 f\nC0644 1 g\nx\0")
    assert (status, heard) == (1, b"\0\1scp: d/f: permission denied\n\0\0")
    assert files.content(b"/home/app/d/g") == b"x"


MESSAGES = [
    b"C0644 3 f\n", b"abc", b"\0", b"D0755 0 sub\n", b"E\n", b"T1 0 1 0\n", b"\1no\n", b"\2no\n", b"C0644 0 g\n",
    b"C0644 9999999 h\n", b"D0755 0 ..\n", b"C0644 3 ../f\n",
]  # fmt: skip


@given(some.lists(some.sampled_from(MESSAGES) | some.binary(max_size=5)), some.sampled_from(["-t", "-rpt", "-rdt"]))
async def test_no_client_breaks_it(said: list[bytes], flags: str) -> None:
    """Whatever a client says, it ends, with no file open and nothing touched outside the target."""
    files = _files()
    status, heard = await converse(files, f"scp {flags} d", *said)
    assert status in {0, 1}
    assert heard
    assert files.opened == files.listing == 0
    assert set(files.folder(b"/home").children) == {b"app", b"outside"}
    assert set(files.folder(b"/home/app").children) == {b"d"}
    assert files.content(OUTSIDE + b"/kept") == b"kept"
