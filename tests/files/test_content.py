"""What the port to a container's files promises of their content, proved for every way to them."""

import asyncio
import hashlib
import os
import random

import pytest

from bastion.errors import FileFailed
from bastion.files import Changes, Mode
from tests.files.place import BOTH, PATCH, READ, WRITE, Place

MEBIBYTE = 2**20
AMOUNTS = [0, 1, 4095, 4096, 65536, 65537, 256 * 1024, 3 * MEBIBYTE + 5]


async def test_both_ways(place: Place) -> None:
    """What is written is what is read, whatever the amount and the pieces."""
    for amount in AMOUNTS:
        content = os.urandom(amount)
        await place.put("file", content)
        for step in (32 * 1024, MEBIBYTE):
            assert await place.get("file", step) == content


async def test_content_of_every_kind(place: Place) -> None:
    """No content is taken for anything else: newlines, NULs, hex digits, and lines like those of a protocol."""
    lines = b"".join(b"\n%032x 0\n%032x 1\n" % (number, number) for number in range(20_000))
    for content in (lines, b"\0" * 300_000, b"\n" * 300_000, b"0 \n0 " * 60_000, bytes(range(256)) * 1000):
        path = await place.put("file", content)
        assert await place.get("file") == content
        assert (await place.look("sha256sum file")).split()[0] == hashlib.sha256(content).hexdigest()
        await place.files.remove(path)


async def test_large(place: Place) -> None:
    """64 MiB go through, both ways, with hashes that agree with the container's own."""
    pieces = [os.urandom(MEBIBYTE) for _ in range(8)] * 8
    content = hashlib.sha256(b"".join(pieces)).hexdigest()
    file = await place.files.open(place.path("file"), WRITE)
    await asyncio.gather(*(file.write(at * MEBIBYTE, piece) for at, piece in enumerate(pieces)))
    await file.close()
    assert (await place.look("sha256sum file")).split()[0] == content
    assert hashlib.sha256(await place.get("file", 256 * 1024)).hexdigest() == content


async def test_random_reads(place: Place) -> None:
    """Any part can be read in any order, also beside a reader who reads on."""
    content = os.urandom(5 * MEBIBYTE + 77)
    path = await place.put("file", content)
    chance = random.Random(5)  # noqa: S311 - which parts, is no secret
    file = await place.files.open(path, READ)
    for _ in range(60):
        offset = chance.randrange(len(content) + 1000)
        length = chance.choice([1, 100, 32 * 1024, 300 * 1024])
        assert await file.read(offset, length) == content[offset : offset + length]
        if chance.random() < 0.3:
            assert await file.read(offset + length, length) == content[offset + length : offset + 2 * length]
    wanted = [(offset, 32 * 1024) for offset in range(0, MEBIBYTE, 32 * 1024)]
    found = await asyncio.gather(*(file.read(offset, length) for offset, length in wanted))
    assert b"".join(found) == content[:MEBIBYTE]
    await file.close()


async def test_reads_mixed(place: Place) -> None:
    """Files that are read at the same time do not get each other's bytes."""
    contents = [os.urandom(3 * MEBIBYTE + number) for number in range(4)]
    for number, content in enumerate(contents):
        await place.put(f"file-{number}", content)
    found = await asyncio.gather(*(place.get(f"file-{number}", 100_000) for number in range(4)))
    assert found == contents


async def test_end(place: Place) -> None:
    """At the end nothing is read, and what is appended meanwhile is read then."""
    path = await place.put("file", b"one")
    file = await place.files.open(path, READ)
    assert await file.read(0, 100) == b"one"
    assert await file.read(3, 100) == b""
    assert await file.read(1000, 100) == b""
    await place.look("printf two >>file")
    assert await file.read(3, 100) == b"two"
    assert await file.read(2, 3) == b"etw"
    await place.look("printf x >file")
    assert await file.read(0, 0) == b""
    await file.close()


async def test_writes_anywhere(place: Place) -> None:
    """Parts are written in any order, and what was not written between them is zeros."""
    content = bytearray(b"\0" * 3_000_000)
    chance = random.Random(6)  # noqa: S311 - which parts, is no secret
    file = await place.files.open(place.path("file"), BOTH)
    end = 0
    for _ in range(25):
        offset = chance.randrange(2_000_000)
        piece = chance.randbytes(chance.choice([1, 5000, 100_000]))
        await file.write(offset, piece)
        content[offset : offset + len(piece)] = piece
        end = max(end, offset + len(piece))
        probe = chance.randrange(end)
        assert await file.read(probe, 1000) == content[probe : min(end, probe + 1000)]
    assert (await file.stat()).size == end
    await file.close()
    assert await place.get("file") == content[:end]


async def test_sparse(place: Place) -> None:
    """A file may be larger than 4 GiB, and its holes cost nothing."""
    far = 5 * 2**30 + 3
    file = await place.files.open(place.path("file"), BOTH)
    await file.write(far, b"end")
    await file.write(0, b"begin")
    assert (await file.stat()).size == far + 3
    assert await file.read(far - 2, 100) == b"\0\0end"
    assert await file.read(0, 6) == b"begin\0"
    await file.change(Changes(size=far + 1))
    assert await file.read(far - 2, 100) == b"\0\0e"
    await file.close()
    assert int((await place.look("du -k file")).split()[0]) < 1024


async def test_modes(place: Place) -> None:
    """A file is opened as asked: made or not, kept or cut, and only for what was asked."""
    files, path = place.files, place.path("file")
    for mode in (READ, PATCH):
        with pytest.raises(FileFailed, match="no such file"):
            await files.open(path, mode)
    created = await files.open(path, Mode(write=True, create=True, exclusive=True))
    await created.write(0, b"12345")
    with pytest.raises(FileFailed) as failed:
        await created.read(0, 1)
    assert failed.value.kind == "permission-denied"
    await created.close()
    for exclusive in (
        Mode(write=True, create=True, exclusive=True),
        Mode(read=True, write=True, create=True, exclusive=True, truncate=True),
    ):
        with pytest.raises(FileFailed, match="already there"):
            await files.open(path, exclusive)
    kept = await files.open(path, Mode(write=True, create=True))
    await kept.write(1, b"x")
    await kept.close()
    assert await place.get("file") == b"1x345"
    read = await files.open(path, READ)
    with pytest.raises(FileFailed) as failed:
        await read.write(0, b"y")
    assert failed.value.kind == "permission-denied"
    await read.close()
    cut = await files.open(path, Mode(read=True, write=True, truncate=True))
    assert await cut.read(0, 10) == b""
    await cut.write(0, b"new")
    assert await cut.read(0, 10) == b"new"
    await cut.close()
    for mode in (Mode(write=True, append=True), Mode(read=True, write=True, append=True, create=True)):
        appending = await files.open(path, mode)
        await appending.write(0, b"+1")
        await appending.write(0, b"+2")
        if mode.read:
            assert await appending.read(0, 100) == b"new+1+2+1+2"
        await appending.close()
    assert await place.get("file") == b"new+1+2+1+2"


async def test_the_same_file(place: Place) -> None:
    """An opened file stays the same one when its name is another's or nobody's."""
    path = await place.put("file", b"old content")
    file = await place.files.open(path, Mode(read=True, write=True))
    await place.files.rename(path, place.path("moved"), overwrite=False)
    await place.put("file", b"new")
    assert await file.read(4, 100) == b"content"
    await place.files.remove(place.path("moved"))
    assert await file.read(0, 3) == b"old"
    await file.write(0, b"OLD")
    await file.change(Changes(permissions=0o600))
    assert await file.read(0, 100) == b"OLD content"
    assert ((await file.stat()).mode, (await file.stat()).links) == (0o100600, 0)
    await file.sync()
    await file.close()
    assert await place.get("file") == b"new"


async def test_closed(place: Place) -> None:
    """A closed file is closed once and for all."""
    file = await place.files.open(place.path("file"), BOTH)
    await file.close()
    await file.close()
    for call in (file.read(0, 1), file.write(0, b"x"), file.stat(), file.sync(), file.change(Changes(size=0))):
        with pytest.raises(FileFailed):
            await call


async def test_what_is_no_file(place: Place) -> None:
    """What is no regular file is not opened: a read of it might never end."""
    await place.look("mkfifo fifo; chmod 666 fifo")
    await place.files.make_directory(place.path("folder"), None)
    for name, words in {"fifo": "regular", "folder": "folder"}.items():
        for mode in (READ, WRITE, PATCH):
            with pytest.raises(FileFailed, match=words):
                await place.files.open(place.path(name), mode)
    with pytest.raises(FileFailed, match="regular"):
        await place.files.open(b"/dev/zero", READ)


async def test_files_of_the_kernel(place: Place) -> None:
    """Files of /proc and /sys have no size, and are read whole, and from any place in them."""
    for path in (b"/proc/self/status", b"/proc/cpuinfo", b"/sys/kernel/mm/transparent_hugepage/enabled"):
        try:
            file = await place.files.open(path, READ)
        except FileFailed as failed:
            assert failed.kind == "no-such-file"  # noqa: PT017 - not every container has a /sys
            continue
        whole = await file.read(0, 100_000)
        assert whole.endswith(b"\n")
        if path == b"/proc/cpuinfo":
            half = whole.splitlines(keepends=True)[0]
            assert (await file.read(len(half), 4000)).split(b":")[0] == whole[len(half) :].split(b":")[0]
            assert await file.read(3, 5) == whole[3:8]
        await file.close()
        file = await place.files.open(path, READ)
        assert (await file.read(5, 100_000)).split()[:1] == whole[5:].split()[:1]
        await file.close()
    with pytest.raises(FileFailed):
        await place.files.open(b"/proc/no-such-thing", WRITE)


async def test_many_open(place: Place) -> None:
    """Sixty-four files are open at once, each its own; one more is refused, until one is closed."""
    files = []
    for number in range(64):
        file = await place.files.open(place.path(f"file-{number}"), BOTH)
        await file.write(0, b"%d" % number)
        files.append(file)
    with pytest.raises(FileFailed, match="too many open files"):
        await place.files.open(place.path("file-0"), READ)
    assert await asyncio.gather(*(file.read(0, 10) for file in files)) == [b"%d" % number for number in range(64)]
    await files.pop().close()
    last = await place.files.open(place.path("file-0"), READ)
    assert await last.read(0, 10) == b"0"
    await asyncio.gather(last.close(), *(file.close() for file in files))
    with pytest.raises(FileFailed, match="no such file"):
        await place.files.open(place.path("missing"), READ)
