"""What the port to a container's files promises of names and folders, proved for every way to them."""

import stat
from collections.abc import Awaitable, Callable

import pytest

from bastion.errors import FileFailed
from bastion.files import Changes, Mode
from tests.files.place import PATCH, READ, WRITE, Place

ODD_NAMES = [
    b"-rf",
    b"--",
    b" ",
    b" spaces  ",
    b"*",
    b"?[a]",
    b"new\nline",
    b"ends\n",
    b"\n",
    b"quotes'\"`",
    b"$HOME $(id) ${x}",
    b"back\\slash\\n",
    b"%s%d",
    b"%\\0101",
    b"...",
    b".hidden",
    b"tab\t\r\x0b",
    "ünï ✓".encode(),
    b"\xff\xfe\x80",
    b"x\n81a4:0:0:0:0:0:1:root:root:y",
    b"n" * 255,
]


async def test_odd_names(place: Place) -> None:
    """A name of any bytes is made, found, read, listed, renamed and removed as it is."""
    for name in ODD_NAMES:
        path = await place.put(name, b"content of " + name)
        assert await place.get(name) == b"content of " + name
        assert (await place.files.stat(path, follow=False)).size == len(name) + 11
        assert await place.files.real_path(path) == path
    assert set(await place.list()) == {b".", b"..", *ODD_NAMES}
    for name in ODD_NAMES:
        await place.files.rename(place.path(name), place.path(name[:-1] + b"z"), overwrite=True)
        assert name not in await place.list()
        await place.files.remove(place.path(name[:-1] + b"z"))
    assert set(await place.list()) == {b".", b".."}


async def test_every_byte(place: Place) -> None:
    """Names hold every byte but the slash and NUL, in files, folders and links."""
    names = [b"a%cb%c" % (byte, byte) for byte in range(1, 256) if byte != ord("/")]
    for name in names:
        await place.files.make_directory(place.path(name), None)
        await place.files.symlink(name, place.path(name + b"/l"))
        assert await place.files.read_link(place.path(name + b"/l")) == name
        assert await place.files.real_path(place.path(name + b"/new")) == place.path(name + b"/new")
    assert set(await place.list()) == {b".", b"..", *names}


async def test_stat(place: Place) -> None:
    """What a file is: its type, permissions, size, owner, times and number of names."""
    path = await place.put("file", b"12345")
    await place.files.change(path, Changes(permissions=0o751, times=(1_000_000_000, 1_700_000_000)), follow=True)
    await place.files.hard_link(path, place.path("second"))
    found = await place.files.stat(path, follow=True)
    assert (found.mode, found.size, found.links) == (0o100751, 5, 2)
    assert (found.accessed, found.modified) == (1_000_000_000, 1_700_000_000)
    assert (await place.look("stat -c %u:%g file")).strip() == f"{found.user}:{found.group}"


async def test_missing(place: Place) -> None:
    """What is not there is said to be not there, whatever is asked of it."""
    path = place.path("missing/too")
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: place.files.stat(path, follow=True),
        lambda: place.files.stat(path, follow=False),
        lambda: place.files.open(path, READ),
        lambda: place.files.open(path, WRITE),
        lambda: place.files.open(path, PATCH),
        lambda: place.files.make_directory(path, None),
        lambda: place.files.remove(path),
        lambda: place.files.remove_directory(path),
        lambda: place.files.rename(path, place.path("new"), overwrite=True),
        lambda: place.files.read_link(path),
        lambda: place.files.symlink(b"x", path),
        lambda: place.files.hard_link(path, place.path("new")),
        lambda: place.files.change(path, Changes(permissions=0o600), follow=True),
        lambda: place.files.change(path, Changes(size=1), follow=True),
        lambda: place.files.change(path, Changes(times=(1, 1)), follow=True),
        lambda: place.files.space(path),
        lambda: place.list(path),
    ]
    for call in asked:
        with pytest.raises(FileFailed) as failed:
            await call()
        assert failed.value.kind == "no-such-file", failed.value
    assert set(await place.list()) == {b".", b".."}


async def test_create_with_permissions(place: Place) -> None:
    """A new file and a new folder get the permissions that are asked for, less the container's umask."""
    for permissions in (0o600, 0o640, 0o755, 0o444, 0o777, 0o000):
        for mode in (
            Mode(write=True, create=True, truncate=True, permissions=permissions),
            Mode(write=True, read=True, create=True, exclusive=True, permissions=permissions),
            Mode(write=True, append=True, create=True, permissions=permissions),
        ):
            path = place.path("file")
            file = await place.files.open(path, mode)
            await file.write(0, b"x")
            await file.close()
            assert (await place.files.stat(path, follow=False)).mode == 0o100000 | permissions & ~0o022
            await place.files.remove(path)
        await place.files.make_directory(place.path("folder"), permissions)
        assert (await place.files.stat(place.path("folder"), follow=False)).mode == 0o040000 | permissions & ~0o022
        await place.files.remove_directory(place.path("folder"))


async def test_list(place: Place) -> None:
    """A folder's entries are what they are, with their owners' names; links are not followed."""
    await place.put("file", b"123")
    await place.files.make_directory(place.path("folder"), 0o700)
    await place.files.symlink(b"/nowhere", place.path("link"))
    await place.look("mkfifo fifo")
    found = await place.list()
    assert set(found) == {b".", b"..", b"file", b"folder", b"link", b"fifo"}
    assert found[b"file"].attributes == await place.files.stat(place.path("file"), follow=False)
    kinds = {name: stat.S_IFMT(entry.attributes.mode) for name, entry in found.items()}
    assert kinds[b"folder"] == kinds[b"."] == stat.S_IFDIR
    assert (kinds[b"link"], kinds[b"fifo"]) == (stat.S_IFLNK, stat.S_IFIFO)
    assert found[b"."].attributes.mode == 0o040755
    assert found[b"fifo"].user in {"root", "0"}


async def test_list_many(place: Place) -> None:
    """Ten thousand files are listed, each once, in batches, while other things are done beside it."""
    await place.look("i=10000; while [ $i -lt 20000 ]; do : >file-$i; i=$((i + 1)); done")
    batches = 0
    names: set[bytes] = set()
    async for batch in place.files.list(place.folder):
        batches += 1
        names |= {entry.name for entry in batch}
        assert (await place.files.stat(place.path("file-10000"), follow=True)).size == 0
    assert names == {b".", b"..", *(b"file-%d" % number for number in range(10_000, 20_000))}
    assert batches > 10


async def test_list_given_up(place: Place) -> None:
    """A listing that nobody reads to its end is in nobody's way."""
    await place.look("i=10000; while [ $i -lt 12000 ]; do : >file-$i; i=$((i + 1)); done")
    for _ in range(3):
        listing = place.files.list(place.folder)
        assert await anext(aiter(listing))
    assert len(await place.list()) == 2002


async def test_real_path(place: Place) -> None:
    """Links, dots and slashes are resolved as the container sees them; what is not there is taken as written."""
    files, folder = place.files, place.folder
    await files.make_directory(place.path("a"), None)
    await files.make_directory(place.path("a/b"), None)
    await place.put("a/file", b"")
    await files.symlink(b"a/b", place.path("relative"))
    await files.symlink(folder + b"/a/b", place.path("absolute"))
    await files.symlink(b"../a/../absolute", place.path("a/chain"))
    await files.symlink(b"loop", place.path("loop"))
    for asked, real in {
        "a/b": "a/b",
        "a//./b/": "a/b",
        "a/b/..": "a",
        "relative/..": "a",
        "absolute/../file": "a/file",
        "a/chain": "a/b",
        "a/chain/new": "a/b/new",
        "new/and/more": "new/and/more",
        "new/../a": "a",
    }.items():
        assert await files.real_path(place.path(asked)) == place.path(real), asked
    assert await files.real_path(b"/") == b"/"
    assert await files.real_path(b"/../..") == b"/"
    assert await files.real_path(b".") == await files.real_path(files.home)
    assert await files.real_path(b"new") == (await files.real_path(b".")).rstrip(b"/") + b"/new"
    with pytest.raises(FileFailed, match="symbolic links"):
        await files.real_path(place.path("loop/x"))


async def test_links(place: Place) -> None:
    """A link says what it was told to say, is followed or not as asked, and nothing is made inside a folder."""
    files = place.files
    path = await place.put("file", b"123")
    await files.symlink(b"file", place.path("link"))
    await files.symlink(b"ends in newline\n", place.path("odd"))
    assert await files.read_link(place.path("link")) == b"file"
    assert await files.read_link(place.path("odd")) == b"ends in newline\n"
    assert stat.S_ISLNK((await files.stat(place.path("link"), follow=False)).mode)
    assert (await files.stat(place.path("link"), follow=True)).size == 3
    with pytest.raises(FileFailed):
        await files.stat(place.path("odd"), follow=True)
    with pytest.raises(FileFailed):
        await files.read_link(path)
    await files.make_directory(place.path("folder"), None)
    await files.symlink(b"folder", place.path("to-folder"))
    for taken in ("folder", "to-folder", "file", "odd"):
        for make in (files.symlink, files.hard_link):
            with pytest.raises(FileFailed, match="already there"):
                await make(path, place.path(taken))
    assert set(await place.list(place.path("folder"))) == {b".", b".."}
    await files.hard_link(path, place.path("second"))
    assert await place.get("second") == b"123"
    await files.remove(place.path("link"))
    assert (await files.stat(path, follow=False)).links == 2


async def test_remove(place: Place) -> None:
    """A file is no folder, and a folder no file, when they are removed; a full folder is kept."""
    files = place.files
    await place.put("file", b"")
    await files.make_directory(place.path("folder"), None)
    await files.symlink(b"folder", place.path("link"))
    for call in (
        files.remove(place.path("folder")),
        files.remove_directory(place.path("file")),
        files.remove_directory(place.path("link")),
        files.make_directory(place.path("folder"), None),
        files.make_directory(place.path("file"), None),
    ):
        with pytest.raises(FileFailed):
            await call
    await files.rename(place.path("file"), place.path("folder/file"), overwrite=False)
    with pytest.raises(FileFailed, match="not empty"):
        await files.remove_directory(place.path("folder"))
    await files.remove(place.path("link"))
    await files.remove(place.path("folder/file"))
    await files.remove_directory(place.path("folder"))
    assert set(await place.list()) == {b".", b".."}


async def test_rename(place: Place) -> None:
    """A new name is taken only where that is asked for, and nothing is moved into a folder of that name."""
    files = place.files
    await place.put("one", b"1")
    await place.put("two", b"2")
    await files.make_directory(place.path("folder"), None)
    await files.symlink(b"folder", place.path("link"))
    for taken in ("two", "folder", "link"):
        with pytest.raises(FileFailed, match="already there"):
            await files.rename(place.path("one"), place.path(taken), overwrite=False)
    with pytest.raises(FileFailed):
        await files.rename(place.path("one"), place.path("folder"), overwrite=True)
    await files.rename(place.path("one"), place.path("two"), overwrite=True)
    assert await place.get("two") == b"1"
    await files.rename(place.path("two"), place.path("link"), overwrite=True)
    assert await place.get("link") == b"1"
    assert set(await place.list(place.path("folder"))) == {b".", b".."}
    await files.rename(place.path("folder"), place.path("moved"), overwrite=False)
    await files.rename(place.path("link"), place.path("moved/deep"), overwrite=False)
    assert set(await place.list()) == {b".", b"..", b"moved"}


async def test_change(place: Place) -> None:
    """Size, permissions, owner and times are changed, of a path and of an opened file."""
    files = place.files
    path = await place.put("file", b"123456789")
    own = await files.stat(path, follow=True)
    everything = Changes(size=4, permissions=0o604, owner=(own.user, own.group), times=(11, 1_600_000_001))
    await files.change(path, everything, follow=True)
    found = await files.stat(path, follow=True)
    assert (found.mode, found.size, found.accessed, found.modified) == (0o100604, 4, 11, 1_600_000_001)
    file = await files.open(path, PATCH)
    await file.change(Changes(size=6, permissions=0o4755, times=(2**33, 2**32)))
    found = await file.stat()
    assert (found.mode, found.size, found.accessed, found.modified) == (0o104755, 6, 2**33, 2**32)
    await file.close()
    assert await place.get("file") == b"1234\0\0"
    await files.change(path, Changes(size=0), follow=True)
    assert (await files.stat(path, follow=True)).size == 0
    await files.change(place.folder, Changes(permissions=0o750, times=(5, 5)), follow=True)
    found = await files.stat(place.folder, follow=True)
    assert (found.mode, found.modified) == (0o040750, 5)
    with pytest.raises(FileFailed):
        await files.change(place.folder, Changes(size=0), follow=True)


async def test_change_of_a_link(place: Place) -> None:
    """A link that is not followed is changed itself, and its target left alone."""
    path = await place.put("file", b"")
    before = await place.files.stat(path, follow=True)
    await place.files.symlink(b"file", place.path("link"))
    await place.files.change(place.path("link"), Changes(owner=(before.user, before.group)), follow=False)
    await place.files.change(place.path("link"), Changes(times=(7, 8)), follow=False)
    assert (await place.files.stat(place.path("link"), follow=False)).modified == 8
    with pytest.raises(FileFailed) as failed:
        await place.files.change(place.path("link"), Changes(permissions=0o600), follow=False)
    assert failed.value.kind == "unsupported"
    assert await place.files.stat(path, follow=True) == before


async def test_space(place: Place) -> None:
    """A file system has room, names have a length, and one that cannot be written says so."""
    found = await place.files.space(place.folder)
    assert found.blocks >= found.free >= 0
    assert (found.longest_name, found.read_only) == (255, False)
    assert found.block > 0
    assert found.fragment > 0


async def test_what_is_no_name(place: Place) -> None:
    """A name that no file can have is a failure in words."""
    for name, words in {b"a\0b": "NUL", b"n" * 256: "too long", b"d/" * 40_000: "too long"}.items():
        with pytest.raises(FileFailed, match=words):
            await place.files.open(place.path(name), WRITE)
        with pytest.raises(FileFailed, match=words):
            await place.files.make_directory(place.path(name), None)
    with pytest.raises(FileFailed):
        await place.files.symlink(b"", place.path("link"))
    assert set(await place.list()) == {b".", b".."}
