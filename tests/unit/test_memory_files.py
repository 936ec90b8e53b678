"""The files in memory, which other tests stand on: links, bounds, holes and what is kept count of."""

import pytest

from bastion.errors import FileFailed
from bastion.files import Changes, Mode
from tests.unit.memory_files import MemoryFiles


async def test_links_lead_where_they_say() -> None:
    """A path goes through links and `..` to the real one; a ring of links and a missing folder are failures."""
    files = MemoryFiles()
    files.put(b"/app/log/today", b"x")
    await files.symlink(b"../../app/log", b"logs")
    assert await files.real_path(b"logs/./today") == b"/app/log/today"
    assert await files.real_path(b"/app/none/../new") == b"/app/new"
    assert await files.real_path(b"/../..") == b"/"
    assert await files.read_link(b"logs") == b"../../app/log"
    await files.symlink(b"ring", b"ring")
    with pytest.raises(FileFailed, match="too many levels"):
        await files.stat(b"ring", follow=True)
    with pytest.raises(FileFailed, match="no such file"):
        await files.open(b"none/new", Mode(write=True, create=True))


async def test_a_file_stays_the_same_when_its_name_goes() -> None:
    """What was opened is read and counted on after its name was given to another file, until it is closed."""
    files = MemoryFiles(piece=2)
    files.put(b"/tmp/a", b"old")
    files.put(b"/tmp/b", b"new")
    opened = await files.open(b"/tmp/a", Mode(read=True))
    await files.hard_link(b"/tmp/b", b"/tmp/c")
    await files.rename(b"/tmp/b", b"/tmp/a", overwrite=True)
    assert [(await opened.stat()).links, (await files.stat(b"/tmp/c", follow=True)).links] == [0, 2]
    assert [await opened.read(0, 10), await opened.read(2, 10), await opened.read(3, 10)] == [b"ol", b"d", b""]
    assert files.content(b"/tmp/a") == b"new"
    assert files.opened == 1
    await opened.close()
    await opened.close()
    assert files.opened == 0


async def test_holes_take_no_room() -> None:
    """A file larger than memory is held by what was written of it; what has no room is refused as a whole."""
    files = MemoryFiles(room=200_000)
    opened = await files.open(b"/tmp/sparse", Mode(write=True, create=True))
    await opened.change(Changes(size=5 << 30))
    await opened.write((5 << 30) - 3, b"end")
    assert (await opened.stat()).size == 5 << 30
    assert await (await files.open(b"/tmp/sparse", Mode(read=True))).read((5 << 30) - 4, 9) == b"\0end"
    with pytest.raises(FileFailed, match="no space"):
        await (await files.open(b"/tmp/dense", Mode(write=True, create=True))).write(0, bytes(300_000))
    await opened.change(Changes(size=1))
    await opened.change(Changes(size=4))
    assert files.content(b"/tmp/sparse") == b"\0\0\0\0"


async def test_what_is_in_the_way_is_said() -> None:
    """A name that is taken, a folder that is not empty, a mode that forbids: each has its words and its kind."""
    files = MemoryFiles()
    files.put(b"/app/secret", b"x", 0o200)
    for asked, words, kind in (
        (files.remove_directory(b"/app"), "directory not empty", "failure"),
        (files.remove(b"/app"), "is a directory", "failure"),
        (files.make_directory(b"/app", None), "file exists", "failure"),
        (files.open(b"/app/secret", Mode(read=True)), "permission denied", "permission-denied"),
        (files.stat(b"/app/secret/x", follow=True), "not a directory", "no-such-file"),
        (files.rename(b"/app", b"/app/below", overwrite=True), "invalid argument", "failure"),
        (files.rename(b"/app/secret", b"/tmp", overwrite=False), "file exists", "failure"),
    ):
        with pytest.raises(FileFailed) as caught:
            await asked
        assert (caught.value.public, caught.value.kind) == (words, kind)
