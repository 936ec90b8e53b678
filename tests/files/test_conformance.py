"""What the port to a container's files promises of names and folders, proved for every way to them."""

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


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
async def test_odd_name(place: Place, name: bytes) -> None:
    """A name of any bytes is made, found, read, listed, renamed and removed as it is."""
    path = await place.put(name, b"content of " + name)
    assert await place.get(name) == b"content of " + name
    assert (await place.files.stat(path, follow=False)).size == len(name) + 11
    assert await place.files.real_path(path) == path
    assert set(await place.list()) == {b".", b"..", name}
    await place.files.rename(path, path[:-1] + b"z", overwrite=False)
    assert set(await place.list()) == {b".", b"..", name[:-1] + b"z"}
    await place.files.remove(path[:-1] + b"z")
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
