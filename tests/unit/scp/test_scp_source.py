"""The giving end of scp over containers that change under it, or lie, and to clients that refuse or go."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bastion.errors import FileFailed
from bastion.files import Attributes, Entry, Mode
from bastion.files.scp import expand, parse_scp, serve_scp, source
from bastion.files.scp.wire import PIECE
from tests.unit.memory_files import MemoryFiles, MemoryOpenFile
from tests.unit.scp.client import ScriptedChannel, converse

YES = b"\0" * 50


class _LyingFile(MemoryOpenFile):
    """A file that is said to be longer than it is, and of which reading fails behind `fails_at`."""

    longer = 0
    fails_at: int | None = None

    async def stat(self) -> Attributes:
        found = await super().stat()
        return replace(found, size=found.size + self.longer)

    async def read(self, offset: int, length: int) -> bytes:
        if self.fails_at is not None and offset >= self.fails_at:
            raise FileFailed("input/output error")
        return await super().read(offset, length)


class LyingFiles(MemoryFiles):
    """Files of a container that lies: about sizes, reading, and with `invented` names in every folder."""

    def __init__(self) -> None:
        super().__init__(b"/home/app", piece=1000)
        self.longer = 0
        self.fails_at: int | None = None
        self.invented: list[bytes] = []
        self.endless = False

    async def open(self, path: bytes, mode: Mode) -> MemoryOpenFile:
        opened = await super().open(path, mode)
        lying = _LyingFile(self, self.tree.find(path, follow=True), mode)
        assert type(opened) is MemoryOpenFile
        lying.longer, lying.fails_at = self.longer, self.fails_at
        return lying

    async def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        some_file = Attributes(0o100644, 1, 0, 0, 0, 0)
        async for batch in super().list(path):
            yield [*batch, *(Entry(name, some_file) for name in self.invented)]
        while self.endless:
            yield [Entry(b"x" * 200, some_file)] * 100


@pytest.fixture
def files() -> LyingFiles:
    made = LyingFiles()
    made.put(b"/home/app/f", b"content", 0o640)
    return made


async def test_a_file_that_shrinks_is_padded_and_told(files: LyingFiles) -> None:
    """The client gets as many bytes as it was told, zeros for what is missing, and an error behind them."""
    files.longer = 3
    status, heard = await converse(files, "scp -f f", YES)
    assert status == 1
    assert heard == b"C0640 10 f\ncontent\0\0\0\1scp: f: the file became shorter while it was read\n"


async def test_a_file_that_grows_ends_where_it_was(files: LyingFiles) -> None:
    """The client gets as many bytes as it was told, and no error: a log grows."""
    files.longer = -3
    assert await converse(files, "scp -f f", YES) == (0, b"C0640 4 f\ncont\0")


async def test_a_file_that_cannot_be_read_to_its_end_is_told(files: LyingFiles) -> None:
    """A failure amidst a file is told behind it, and the next file comes whole."""
    files.put(b"/home/app/g", b"x" * 2500)
    files.fails_at = 2000
    status, heard = await converse(files, "scp -f g f", YES)
    assert status == 1
    assert heard == (
        b"C0644 2500 g\n" + b"x" * 2000 + bytes(500) + b"\1scp: g: input/output error\nC0640 7 f\ncontent\0"
    )


async def test_a_size_far_from_the_truth_ends_it(files: LyingFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that promises far more than it holds does not have the client filled with zeros."""
    monkeypatch.setattr(source, "MOST_PADDING", 1000)
    files.longer = 1001
    parsed = parse_scp("scp -f f f")
    assert parsed is not None
    channel = ScriptedChannel(YES)
    assert await serve_scp(channel, files, parsed) == 1
    assert channel.heard == b"C0640 1008 f\ncontent"
    assert channel.told == ["bastion: error: a file is by far not as long as the container says"]


async def test_names_that_lead_elsewhere_are_not_sent(files: LyingFiles) -> None:
    """A container cannot have a client write outside of its folder, nor end a line or a conversation by a name."""
    files.put(b"/home/app/d/ok", b"")
    files.invented = [b"..", b".", b"", b"../../etc/passwd", b"a/b", b"x" * 5000, b"gone\nC0644 0 made"]
    status, heard = await converse(files, "scp -r -f d", YES)
    lines = heard.replace(b"\0", b"").split(b"\n")
    assert status == 1
    assert lines[:3] == [b"D0755 0 d", b"C0644 0 ok", b"\1scp: d/" + b"x" * 1022 + b": the name is too long"]
    assert lines[3:] == [b"\1scp: d/gone\\^JC0644 0 made: no such file or directory", b"E", b""]


async def test_a_folder_without_end_is_told(files: LyingFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that never ends is left, by a tree and by a pattern."""
    monkeypatch.setattr(source, "MOST_NAMES", 100_000)
    monkeypatch.setattr(expand, "MOST_BYTES", 100_000)
    files.folder(b"/home/app/d")
    files.endless = True
    status, heard = await converse(files, "scp -r -f d d/*", YES)
    assert status == 1
    assert heard == (b"\1scp: d: holds too many files to be copied at once\n\1scp: d/*: stands for too many files\n")
    assert files.listing == 0


async def test_links_that_go_round_end_somewhere(files: LyingFiles) -> None:
    """A link to the folder it is in is followed as by scp, until the container has enough."""
    files.put(b"/home/app/d/f", b"")
    await files.symlink(b".", b"d/again")
    status, heard = await converse(files, "scp -r -f d", YES * 10)
    assert status == 1
    assert heard.count(b"D0755 0 again\n") == 40
    assert b"too many levels of symbolic links" in heard


async def test_what_is_no_file_is_not_sent(files: LyingFiles) -> None:
    """A folder without -r, no path at all, and what is neither file nor folder are told by name."""
    files.folder(b"/home/app/d")
    files.put(b"/home/app/pipe").mode = 0o010644
    status, heard = await converse(files, "scp -f d '' pipe", YES)
    assert status == 1
    assert heard == (b"\1scp: d: not a regular file\n\1scp: no such file\n\1scp: pipe: not a regular file\n")


async def test_a_client_may_refuse(files: LyingFiles) -> None:
    """A file or a folder that the client does not want is left out, with what is in it; what follows comes."""
    files.put(b"/home/app/d/f", b"x")
    status, heard = await converse(files, "scp -r -p -f d f f", b"\0\0\1no\n\1no\n" + YES)
    lines = heard.split(b"\n")
    assert status == 1
    assert lines[0].startswith(b"T")
    assert lines[1] == b"D0755 0 d"
    assert lines[2].startswith(b"T")
    assert lines[3].startswith(b"T")
    assert lines[4:] == [b"C0640 7 f", b"content\0"]


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\2gave up\n", b"\0x", b"\0\0", b"\0\1" + b"x" * 5000])
async def test_a_client_that_gives_up_is_no_success(files: LyingFiles, said: bytes) -> None:
    """A client that ends, gives up or says something else gets no more, and the status is not 0."""
    status, heard = await converse(files, "scp -f f f", said)
    assert status == 1
    assert heard.count(b"content") <= 1
    assert files.opened == 0


async def test_control_characters_stay_out_of_words(files: LyingFiles) -> None:
    """A path is told without the bytes that a terminal would act on."""
    assert await converse(files, "scp -f 'a\x1b[2Jb\x7f'", YES) == (
        1,
        b"\1scp: a\\^[[2Jb\\^?: no such file or directory\n",
    )


async def test_contents_are_sent_in_pieces(files: LyingFiles) -> None:
    """No piece is larger than 1 MiB, however much a file holds at once."""
    files.piece = 10 * PIECE
    files.put(b"/home/app/large", bytes(3 * PIECE))
    parsed = parse_scp("scp -f large")
    assert parsed is not None
    channel = ScriptedChannel(YES)
    assert await serve_scp(channel, files, parsed) == 0
    assert channel.largest == PIECE


@given(some.lists(some.sampled_from([b"\0", b"\1no\n", b"\2no\n", b"x", b"\n"])))
async def test_no_client_breaks_it(said: list[bytes]) -> None:
    """Whatever a client answers, it ends, and nothing stays open."""
    files = MemoryFiles(b"/home/app")
    files.put(b"/home/app/d/f", b"content")
    files.put(b"/home/app/d/e/f", b"content")
    status, _ = await converse(files, "scp -rpf d", *said)
    assert status == 1 or b"".join(said).startswith(bytes(13))  # as many messages as it is sent
    assert files.opened == files.listing == 0
