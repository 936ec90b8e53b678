"""How requests flow: writes that are put together, input that is held back, and an end that leaves nothing open."""

import asyncio

import pytest

from bastion.errors import ClientGone, FileFailed, RuntimeFailed
from bastion.files import Mode
from bastion.files import sftp_wire as wire
from bastion.files.sftp import MOST_WRITTEN
from bastion.files.sftp_incoming import READ_AHEAD
from bastion.files.sftp_telling import MOST_LINES
from bastion.files.sftp_wire import Kind, Status
from tests.unit.memory_files import MemoryFiles, MemoryOpenFile
from tests.unit.sftp.talker import NOTHING, Talker, read_status, talking

READ, WRITE, CREATE = wire.READ, wire.WRITE, wire.CREATE
string, number, longs = wire.string, wire.number, wire.longs
PIECE = 32768


class Breaking(MemoryFiles):
    """Files whose way to the container breaks when something is removed, and whose files fail to close or to sync."""

    closing: Exception | None = None

    async def remove(self, path: bytes) -> None:
        raise RuntimeFailed("the container went away")

    async def open(self, path: bytes, mode: Mode) -> MemoryOpenFile:
        opened = await super().open(path, mode)
        failure, close = self.closing, opened.close

        async def fail() -> None:
            await close()
            if failure is not None:
                raise failure

        opened.close = fail  # type: ignore[method-assign] # one file's own
        return opened


async def statuses(talker: Talker, count: int) -> list[tuple[int, Status]]:
    """Return the numbers and statuses of so many answers."""
    found = []
    for _ in range(count):
        answer = await talker.answer()
        found.append((answer.number(), read_status(answer)[0]))
    return found


async def taken(talker: Talker) -> int:
    """Return how much was read from the channel, once no more of it is."""
    before = -1
    while before != talker.channel.taken:
        before = talker.channel.taken
        for _ in range(20):
            await asyncio.sleep(0)
    return before


async def test_writes_that_have_arrived_are_one() -> None:
    """Writes that go on where the last ended become one of up to a mebibyte; each is answered, in order."""
    files = MemoryFiles()
    async with talking(files) as talker:
        handle = await talker.open(b"/tmp/a", WRITE | CREATE)
        files.ready.clear()
        first = talker.send(Kind.LSTAT, string(b"/"))
        numbers = [talker.send(Kind.WRITE, handle, longs(n * PIECE), string(b"%c" % n * PIECE)) for n in range(40)]
        await taken(talker)
        files.ready.set()
        answer = await talker.answer()
        assert (answer.kind, answer.number()) == (Kind.ATTRS, first)
        assert await statuses(talker, 40) == [(each, Status.OK) for each in numbers]
        assert files.writes == [MOST_WRITTEN, 8 * PIECE]
        assert files.content(b"/tmp/a") == b"".join(b"%c" % n * PIECE for n in range(40))
        await talker.end()


async def test_no_write_is_larger_than_the_bound() -> None:
    """However much arrived in one piece, and however it was cut, a write has at most a mebibyte."""
    files = MemoryFiles()
    async with talking(files) as talker:
        handle = await talker.open(b"/tmp/a", WRITE | CREATE)
        packets = [
            wire.packet(Kind.WRITE, number(n), handle, longs(n * wire.LONGEST_DATA), string(bytes(wire.LONGEST_DATA)))
            for n in range(10)
        ]
        talker.raw(b"".join(packets))
        assert await statuses(talker, 10) == [(n, Status.OK) for n in range(10)]
        assert files.writes == [4 * wire.LONGEST_DATA, 4 * wire.LONGEST_DATA, 2 * wire.LONGEST_DATA]
        await talker.end()


async def test_only_what_belongs_together_is_put_together() -> None:
    """A write elsewhere, to another file, or behind another request is one of its own."""
    files = MemoryFiles()
    async with talking(files) as talker:
        one = await talker.open(b"/tmp/one", WRITE | CREATE)
        two = await talker.open(b"/tmp/two", WRITE | CREATE)
        files.ready.clear()
        talker.send(Kind.FSTAT, one)
        for handle, offset in ((one, 0), (one, 3), (one, 7), (two, 10), (one, 10), (two, 13)):
            talker.send(Kind.WRITE, handle, longs(offset), string(b"abc"))
        talker.send(Kind.FSTAT, two)
        talker.send(Kind.WRITE, two, longs(16), string(b"abc"))
        await taken(talker)
        files.ready.set()
        assert (await talker.answer()).kind == Kind.ATTRS
        assert [status for _, status in await statuses(talker, 6)] == [Status.OK] * 6
        assert (await talker.answer()).kind == Kind.ATTRS
        assert [status for _, status in await statuses(talker, 1)] == [Status.OK]
        assert files.writes == [6, 3, 3, 3, 3, 3]
        assert files.content(b"/tmp/one") == b"abcabc\0abcabc"
        await talker.end()


async def test_a_write_that_fails_fails_for_each() -> None:
    """Of writes that were put together none is said to have been done when the whole was not, and one line is shown."""
    files = MemoryFiles(room=100_000)
    async with talking(files) as talker:
        handle = await talker.open(b"/tmp/a\x1b", WRITE | CREATE)
        files.ready.clear()
        talker.send(Kind.FSTAT, handle)
        numbers = [talker.send(Kind.WRITE, handle, longs(n * PIECE), string(bytes(PIECE))) for n in range(9)]
        await taken(talker)
        files.ready.set()
        await talker.answer()
        assert await statuses(talker, 9) == [(each, Status.FAILURE) for each in numbers]
        assert (await talker.status(Kind.WRITE, handle, longs(0), string(bytes(PIECE))))[0] == Status.OK
        assert talker.channel.said == ["bastion: error: /tmp/a\\x1b: no space left on device"]
        await talker.end()


async def test_input_is_read_ahead_so_far_and_no_further() -> None:
    """While the container does not answer no more than the bound is taken from the channel, and all of it later."""
    files = MemoryFiles()
    async with talking(files) as talker:
        handle = await talker.open(b"/tmp/a", WRITE | CREATE)
        files.ready.clear()
        count = 8 * 1024 * 1024 // PIECE
        for each in range(count):
            talker.send(Kind.WRITE, handle, longs(each * PIECE), string(bytes(PIECE)))
        held = await taken(talker)
        assert READ_AHEAD <= held <= READ_AHEAD + MOST_WRITTEN + wire.LONGEST_PACKET
        files.ready.set()
        assert {status for _, status in await statuses(talker, count)} == {Status.OK}
        assert len(files.content(b"/tmp/a")) == count * PIECE
        await talker.end()


@pytest.mark.parametrize("ending", ["end", "gone", "cut", "broken", "cancelled", "unread"])
async def test_nothing_is_left_open(ending: str) -> None:
    """However a conversation ends, files and folders are closed, and what broke the way to the container is raised."""
    files = Breaking()
    for each in range(300):
        files.put(b"/app/%d" % each)
    async with talking(files) as talker:
        for each in range(10):
            await talker.open(b"/app/%d" % each, READ)
        await talker.ask(Kind.OPENDIR, string(b"/app"))
        assert (files.opened, files.listing) == (10, 1)
        if ending == "end":
            await talker.end()
        elif ending == "gone":
            talker.channel.coming.put_nowait(None)
            await talker.serving
        elif ending == "cut":
            talker.raw(number(50) + b"half a packet")
            talker.channel.coming.put_nowait(None)
            await talker.serving
        elif ending == "broken":
            talker.send(Kind.REMOVE, string(b"/app/1"))
            with pytest.raises(RuntimeFailed, match="the container went away"):
                await talker.end()
        elif ending == "cancelled":
            files.ready.clear()
            talker.send(Kind.LSTAT, string(b"/app/1"))
            await taken(talker)
            talker.serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await talker.serving
        else:
            talker.channel.gone = True
            talker.send(Kind.LSTAT, string(b"/app/1"))
            with pytest.raises(ClientGone):
                await talker.serving
        assert (files.opened, files.listing) == (0, 0)


async def test_a_file_that_cannot_be_closed_is_said() -> None:
    """What was written is not passed over when its end fails: CLOSE is answered so, and at the end it is shown."""
    files = Breaking()
    files.closing = FileFailed("no space left on device")
    async with talking(files) as talker:
        handle = await talker.open(b"/tmp/a", WRITE | CREATE)
        await talker.open(b"/tmp/b", WRITE | CREATE)
        assert await talker.status(Kind.CLOSE, handle) == (Status.FAILURE, "no space left on device")
        assert (await talker.status(Kind.CLOSE, handle))[1] == "there is no such handle"
        await talker.end()
        assert "bastion: error: /tmp/a: no space left on device" in talker.channel.said
        assert "bastion: error: /tmp/b: no space left on device" in talker.channel.said


async def test_a_way_that_breaks_while_closing_is_raised() -> None:
    """A clean end is none when the way to the container broke while files were closed."""
    files = Breaking()
    files.closing = RuntimeFailed("the container went away")
    async with talking(files) as talker:
        await talker.open(b"/tmp/a", WRITE | CREATE)
        await talker.open(b"/tmp/b", WRITE | CREATE)
        with pytest.raises(RuntimeFailed):
            await talker.end()
    assert files.opened == 0


async def test_probes_are_silent() -> None:
    """What clients ask only to see what is there shows no line, nor does making a folder that is there."""
    files = MemoryFiles()
    files.put(b"/app/a")
    long = string(b"/" + b"x" * 300)
    async with talking(files) as talker:
        for kind in (Kind.STAT, Kind.LSTAT, Kind.REALPATH, Kind.READLINK, Kind.OPENDIR):
            assert (await talker.status(kind, long))[0] == Status.FAILURE
        assert (await talker.status(Kind.READLINK, string(b"/app/a")))[0] == Status.FAILURE
        assert (await talker.status(Kind.MKDIR, string(b"/app"), NOTHING))[0] == Status.FAILURE
        assert (await talker.status(Kind.REMOVE, string(b"/none")))[0] == Status.NO_SUCH_FILE
        assert talker.channel.said == []
        assert (await talker.status(Kind.MKDIR, long, NOTHING))[0] == Status.FAILURE
        assert len(talker.channel.said) == 1
        await talker.end()


async def test_lines_are_few_and_printable() -> None:
    """A line says the path so that a terminal obeys nothing in it, each failure once, and so many of them."""
    files = MemoryFiles()
    async with talking(files) as talker:
        for name in (b"/new\nline", b"/\xff", "/\u202e".encode(), b"/" + b"y" * 100):
            files.folder(name)
            for _ in range(2):
                assert (await talker.status(Kind.REMOVE, string(name)))[0] == Status.FAILURE
        assert talker.channel.said == [
            "bastion: error: /new\\nline: is a directory",
            "bastion: error: /\\xff: is a directory",
            "bastion: error: /\\u202e: is a directory",
            f"bastion: error: /{'y' * 100}: is a directory",
        ]
        await talker.status(Kind.RENAME, string(b"/" + b"y" * 100), string(b"/new\nline"))
        assert talker.channel.said[-1] == f"bastion: error: /{'y' * 100} to /new\\nline: file exists"
        for each in range(2 * MOST_LINES):
            files.folder(b"/%d" % each)
            await talker.status(Kind.REMOVE, string(b"/%d" % each))
        assert len(talker.channel.said) == MOST_LINES + 1
        assert talker.channel.said[-1] == "bastion: error: more has failed than is said here"
        await talker.end()
