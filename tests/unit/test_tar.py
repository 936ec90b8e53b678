"""Tar as it comes from an engine: what is read is what was written, and what is no tar is a failure in words."""

import io
import stat
import tarfile
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import FileFailed
from bastion.files import Attributes
from bastion.files.tar import Header, TarReader, one_entry

NAMES = st.binary(min_size=1, max_size=300).map(lambda name: b"x" + name.replace(b"\0", b"").replace(b"/", b""))


async def cut(content: bytes, piece: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), piece):
        yield content[start : start + piece]


async def read(content: bytes, piece: int = 1000, most: int | None = None) -> list[tuple[Header, bytes]]:
    reader = TarReader(cut(content, piece), most)
    found = []
    while (header := await reader.header()) is not None:
        body = bytearray()
        while part := await reader.body():
            body += part
        found.append((header, bytes(body)))
    return found


def made(entries: list[tuple[str, bytes]], form: int) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form, errors="surrogateescape") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mtime, info.mode = len(content), 3_000_000, 1_700_000_000.5, 0o4640
            if form == tarfile.GNU_FORMAT:
                info.mtime = 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


@given(name=NAMES, content=st.binary(max_size=2000), piece=st.integers(1, 3000))
async def test_one_entry(name: bytes, content: bytes, piece: int) -> None:
    """What is written of a file of any name is read back, by us and by Python's own reader, however it is cut."""
    attributes = Attributes(stat.S_IFREG | 0o640, len(content), 1000, 12, 1_700_000_000, 1_700_000_000)
    written = b"".join(one_entry(name, attributes, content=memoryview(content)))
    assert await read(written, piece) == [(Header(name, attributes), content)]
    with tarfile.open(fileobj=io.BytesIO(written), errors="surrogateescape") as archive:
        (info,) = archive.getmembers()
        assert info.name.encode("utf-8", "surrogateescape") == name
        assert (info.size, info.uid, info.gid, info.mode) == (len(content), 1000, 12, 0o640)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@given(names=st.lists(NAMES, min_size=1, max_size=5))
async def test_many_entries(form: int, names: list[bytes]) -> None:
    """Entries of both of today's forms are read, one after another, with long and odd names and large numbers."""
    content = made([(name.decode("utf-8", "surrogateescape"), name * 7) for name in names], form)
    found = await read(content)
    assert [(header.name, body) for header, body in found] == [(name, name * 7) for name in names]
    assert {header.attributes.user for header, _ in found} == {3_000_000}
    assert {header.attributes.modified for header, _ in found} == {1_700_000_000}
    assert {header.attributes.mode for header, _ in found} == {stat.S_IFREG | 0o4640}


async def test_bodies_are_skipped() -> None:
    """A header is found past a body that nobody read, or only a part of."""
    reader = TarReader(cut(made([("a", b"x" * 5000), ("b", b"y" * 700), ("c", b"")], tarfile.PAX_FORMAT), 512))
    names = []
    while (header := await reader.header()) is not None:
        names.append(header.name)
        if header.name == b"b":
            assert (await reader.body()).startswith(b"y")
    assert names == [b"a", b"b", b"c"]


@given(at=st.integers(0, 5000))
async def test_a_tar_that_is_cut_off(at: int) -> None:
    """A tar without its end is a failure, wherever it was cut."""
    content = made([("a", b"x" * 1000), ("b", b"y")], tarfile.PAX_FORMAT)
    end = content.rindex(b"y") + 512
    with pytest.raises(FileFailed):
        await read(content[: min(at, end - end % 512 - 1)])


@given(content=st.binary(max_size=3000), start=st.booleans())
async def test_what_is_no_tar(content: bytes, *, start: bool) -> None:
    """Bytes of any kind are read to an end or to a failure in words, and to nothing else."""
    before = made([("a", b"x")], tarfile.PAX_FORMAT)[:-9216] if start else b""
    try:
        await read(before + content)
    except FileFailed as failure:
        if not failure.public:
            raise


@given(at=st.integers(0, 511), value=st.integers(0, 255))
async def test_a_header_that_lies(at: int, value: int) -> None:
    """A header whose fields are anything, with a sum that is right, is read within bounds or refused."""
    content = bytearray(made([("a", b"x" * 600)], tarfile.GNU_FORMAT))
    content[at] = value
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    try:
        found = await read(bytes(content))
    except FileFailed:
        return
    for header, _ in found:
        assert header.attributes.size >= 0
        assert 0 <= header.attributes.user < 2**32
        assert 0 <= header.attributes.group < 2**32


async def test_no_more_is_read_than_is_to_be() -> None:
    """A reader with a bound fails when more comes."""
    content = made([("a", b"x" * 10_000)], tarfile.PAX_FORMAT)
    assert len(await read(content, most=len(content))) == 1
    with pytest.raises(FileFailed, match="more in the folder"):
        await read(content, most=5000)
