"""What is done with files is on record before anybody has it, byte for byte, however it ends."""

import asyncio
from contextlib import suppress

import pytest

from bastion.errors import BastionError, ClientGone, FileFailed, RecordingFailed
from bastion.files import Changes, Mode
from bastion.files.recorded_file import finishing
from bastion.model import FIRST_FILE, Data, FileOperation, Recorded
from tests.unit.recorded_house import NEW, READ, WHOLE, digest, get, house, listed, opened, put


async def test_a_file_is_summed_up_when_it_is_closed() -> None:
    """A file that was read or written is on record with its size and SHA-256, and its contents on its own stream."""
    async with opened(WHOLE) as (house, files):
        assert await get(files, b"log/web.log") == b"one\ntwo\n"
        await put(files, b"/app/new", b"content")
        assert house.memory.content(b"/app/new") == b"content"
    path, new = b"/app/log/web.log", b"/app/new"
    assert house.operations == [
        FileOperation("open", path, stream=3, note="read"),
        FileOperation("read", path, size=8, sha256=digest(b"one\ntwo\n"), stream=3),
        FileOperation("open", new, stream=5, note="write, create, truncate"),
        FileOperation("write", new, size=7, sha256=digest(b"content"), stream=6),
    ]
    assert (house.contents(3), house.contents(6)) == (b"one\ntwo\n", b"content")
    assert (house.live.bytes_out, house.live.bytes_in) == (8, 7)


@pytest.mark.parametrize(("mode", "operation"), [(READ, "read"), (NEW, "write")])
async def test_an_empty_file_has_a_digest_too(mode: Mode, operation: str) -> None:
    """A file of which nothing passed is on record with no bytes and their SHA-256."""
    async with opened(WHOLE) as (house, files):
        house.memory.put(b"/empty")
        await (await files.open(b"/empty", mode)).close()
        assert (house.last().operation, house.last().size, house.last().sha256) == (operation, 0, digest(b""))


async def test_both_ways_of_one_file_are_apart() -> None:
    """What is read of a file and what is written to it are two streams, and two sums."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", Mode(read=True, write=True))
        assert await file.read(0, 3) == b"one"
        await file.write(3, b"!")
        await file.close()
        sums = {one.operation: (one.stream, one.size, one.note) for one in house.operations[1:]}
        assert sums == {"read": (3, 3, ""), "write": (4, 1, "from byte 3 on")}
        assert (house.contents(3), house.contents(4)) == (b"one", b"!")


async def test_nothing_is_written_before_it_is_on_record() -> None:
    """When a piece is recorded the container has not got it, and what cannot be recorded it never gets."""
    inside = house()
    had: list[bytes] = []

    async def record(event: Recorded) -> None:
        if isinstance(event, Data):
            had.append(inside.memory.content(b"/app/new"))
        await type(inside).record(inside, event)

    inside.record = record  # type: ignore[method-assign] # the same, and a look at the tree before
    with pytest.raises(RecordingFailed):  # noqa: PT012 - the file is open when the record fails
        async with opened(WHOLE, inside) as (_, files):
            file = await files.open(b"/app/new", NEW)
            await file.write(0, b"one")
            await file.write(3, b"two")
            inside.full = True
            await file.write(6, b"three")
    assert had == [b"", b"one", b"onetwo"]
    assert inside.memory.content(b"/app/new") == b"onetwo"
    assert inside.memory.opened == 0


async def test_nothing_is_given_out_that_is_not_on_record() -> None:
    """When the record fails neither a piece, nor a folder's list, nor an opened file is given out."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", READ)
        house.full = True
        with pytest.raises(RecordingFailed):
            await file.read(0, 3)
        with pytest.raises(RecordingFailed):
            await listed(files, b"/app")
        with pytest.raises(RecordingFailed):
            await files.open(b"/app/log/web.log", READ)
        house.full = False
    assert house.memory.opened == 0


async def test_every_change_is_on_record() -> None:
    """What makes, removes, renames, links and changes is on record with both paths and what was asked for."""
    async with opened(WHOLE) as (house, files):
        await files.make_directory(b"d", 0o755)
        await put(files, b"d/a", b"")
        await files.rename(b"d/a", b"/app/d/b", overwrite=False)
        await files.symlink(b"../etc", b"d/l")
        await files.hard_link(b"d/b", b"d/c")
        await files.change(b"d/b", Changes(size=1, permissions=0o600, times=(1, 2)), follow=True)
        file = await files.open(b"d/b", READ)
        await file.change(Changes(permissions=0o640))
        await file.close()
        for name in (b"b", b"c", b"l"):
            await files.remove(b"d/" + name)
        await files.remove_directory(b"d")
        assert len(await listed(files, b"log")) == 4
        assert [(one.operation, one.path, one.other, one.note) for one in house.operations if one.stream is None] == [
            ("make-directory", b"/app/d", None, ""),
            ("rename", b"/app/d/a", b"/app/d/b", ""),
            ("symlink", b"/app/d/l", b"../etc", ""),
            ("link", b"/app/d/b", b"/app/d/c", ""),
            ("change", b"/app/d/b", None, "size 1, permissions 0600, accessed 1, modified 2"),
            ("change", b"/app/d/b", None, "permissions 0640"),
            ("remove", b"/app/d/b", None, ""),
            ("remove", b"/app/d/c", None, ""),
            ("remove", b"/app/d/l", None, ""),
            ("remove-directory", b"/app/d", None, ""),
            ("list", b"/app/log", None, ""),
        ]


async def test_what_only_looks_is_not_on_record() -> None:
    """Looking at a path, resolving it and reading a link leave no line: clients do it all the time."""
    async with opened(WHOLE) as (house, files):
        house.memory.tree.attach(b"/app/l", house.memory.tree.find(b"/app/log/web.log", follow=True))
        await files.stat(b"log", follow=True)
        assert await files.real_path(b"../app/./log") == b"/app/log"
        await files.space(b"")
        with pytest.raises(FileFailed):
            await files.stat(b"nothing", follow=False)
        assert house.kept == []


async def test_what_fails_is_on_record_in_words() -> None:
    """A failure is raised as the container said it, and is on record with the same words."""
    async with opened(WHOLE) as (house, files):
        with pytest.raises(FileFailed):
            await get(files, b"/nothing")
        with pytest.raises(FileFailed):
            await files.remove(b"/app/log")
        with pytest.raises(FileFailed):
            await files.remove_directory(b"/app/log")
        with pytest.raises(FileFailed):
            await listed(files, b"/app/log/web.log")
        house.memory.room = 20
        file = await files.open(b"/app/big", NEW)
        with pytest.raises(FileFailed):
            await file.write(0, b"x" * 100)
        await file.close()
        assert house.said() == [
            ("open", b"/nothing", "no such file or directory"),
            ("remove", b"/app/log", "is a directory"),
            ("remove-directory", b"/app/log", "directory not empty"),
            ("list", b"/app/log/web.log", "not a directory"),
            ("open", b"/app/big", "ok"),
            ("write", b"/app/big", "no space left on device"),
        ]


@pytest.mark.parametrize(
    ("reads", "note"),
    [
        ([(0, 4), (4, 4)], ""),
        ([(0, 4), (4, 4), (8, 4)], ""),
        ([(4, 4)], "from byte 4 on"),
        ([(4, 4), (0, 4)], "not in the file's order"),
        ([(0, 2), (4, 4)], "not in the file's order"),
        ([(0, 4), (0, 4)], "not in the file's order"),
    ],
)
async def test_digest_is_of_what_passed_in_its_order(reads: list[tuple[int, int]], note: str) -> None:
    """The SHA-256 is over the bytes as they passed; where they are not the file from its start, a note says so."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", READ)
        passed = b"".join([await file.read(*one) for one in reads])
        await file.close()
        assert (house.last().sha256, house.last().size, house.last().note) == (digest(passed), len(passed), note)


async def test_what_is_appended_is_in_order() -> None:
    """Where every write goes to the end of the file, the offsets say nothing."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", Mode(write=True, append=True))
        await file.write(0, b"three\n")
        await file.write(0, b"four\n")
        await file.close()
        assert (house.last().size, house.last().note) == (11, "")
        assert house.memory.content(b"/app/log/web.log") == b"one\ntwo\nthree\nfour\n"


async def test_a_file_that_changed_while_it_was_read_is_told() -> None:
    """When size or time of a file are not at its closing what they were at its opening, a note says so."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", READ)
        await file.read(0, 100)
        house.memory.put(b"/app/log/web.log", b"another in its place")
        await file.close()
        assert house.last().note == ""  # the one that is open has not changed
        file = await files.open(b"/app/log/web.log", READ)
        await file.read(0, 100)
        house.memory.tree.find(b"/app/log/web.log", follow=True).content.write(0, b"more than before, and longer")
        await file.close()
        assert house.last().note == "changed while it was read"


async def test_a_file_is_closed_once() -> None:
    """A second closing does nothing and is not on record, also of a file that was cut off."""
    async with opened(WHOLE) as (house, files):
        file = await files.open(b"/app/log/web.log", READ)
        await file.close()
        await file.close()
        left = await files.open(b"/app/log/web.log", READ)
    await left.close()
    assert [one.operation for one in house.operations] == ["open", "read", "open", "read"]
    assert house.last().result == "cut off"


async def test_what_is_open_when_a_session_is_cut_is_on_record() -> None:
    """A session that is cancelled in the middle of a transfer has its open files on record as cut off, with sums."""
    inside = house()
    begun = asyncio.Event()

    async def transfer() -> None:
        async with opened(WHOLE, inside) as (_, files):
            reading = await files.open(b"/app/log/web.log", READ)
            await reading.read(0, 3)
            writing = await files.open(b"/app/half", NEW)
            await writing.write(0, b"half")
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(transfer())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [(one.operation, one.result, one.size, one.sha256) for one in inside.operations[2:]] == [
        ("read", "cut off", 3, digest(b"one")),
        ("write", "cut off", 4, digest(b"half")),
    ]
    assert inside.memory.opened == 0


@pytest.mark.parametrize(
    ("error", "result"), [(None, "ok"), (FileFailed("no such attribute"), "ok"), (ClientGone("gone"), "cut off")]
)
async def test_a_transfer_that_breaks_off_is_cut_off(error: BastionError | None, result: str) -> None:
    """A file is whole on record when its transfer ended by itself, and cut off when it was broken off."""
    async with opened(WHOLE) as (house, files):
        with suppress(FileFailed, ClientGone):
            file = await files.open(b"/app/new", NEW)
            async with finishing(file):
                await file.write(0, b"half")
                if error is not None:
                    raise error
        assert (house.last().operation, house.last().result, house.last().size) == ("write", result, 4)
        assert house.memory.opened == 0


async def test_an_operation_that_is_cut_is_on_record() -> None:
    """A change under way when the session ends is on record as cut off, since it may have been done."""
    async with opened(WHOLE) as (house, files):
        task = asyncio.create_task(files.rename(b"log", b"log2", overwrite=True))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert house.said() == [("rename", b"/app/log", "cut off")]


async def test_streams_are_never_given_twice() -> None:
    """Each of many files that are open at once has two streams of its own."""
    async with opened(WHOLE) as (house, files):
        await asyncio.gather(*(files.open(b"/app/log/web.log", READ) for _ in range(50)))
        streams = [one.stream for one in house.operations]
        assert streams == list(range(FIRST_FILE, FIRST_FILE + 100, 2))
    assert house.memory.opened == 0


async def test_watchers_read_a_line_for_each_operation() -> None:
    """Who watches sees what is done, in lines that print, and no contents."""
    async with opened(WHOLE) as (house, files):
        with house.live.watchers.watch() as watcher:
            await put(files, b"/app/evil\x1b[2J\n\xff", b"content")
            await files.rename(b"/app/log", b"/app/old", overwrite=False)
            shown = b"".join([frame.payload for _ in range(3) if isinstance(frame := await watcher.take(), Data)])
    lines = shown.decode().split("\r\n")
    assert lines[1:] == [
        r"write /app/evil\x1b[2J\n\xff, 7 bytes: ok",
        "rename /app/log -> /app/old: ok",
        "",
    ]
    assert all(line.isprintable() for line in lines)
