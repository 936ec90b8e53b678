"""Read tar as it comes, and write one entry of it: what an engine's archive API speaks."""

import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Attributes

BLOCK: Final = 512

_PIECE: Final = 256 * 1024
_LONGEST: Final = 1024 * 1024  # bytes of a header's extension
_TYPES: Final = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_FURTHEST: Final = 2**63 - 1
_LARGEST_ID: Final = 2**32 - 1
_LONG_NAME: Final = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a tar says of one file; `link` is what a symbolic link says, or the earlier name of a file with several."""

    name: bytes
    attributes: Attributes
    link: bytes = b""
    is_second_name: bool = False


class TarReader:
    """A tar that is read from its beginning to its end; at most `most` bytes of it."""

    def __init__(self, pieces: AsyncIterator[bytes], most: int | None = None) -> None:
        self._pieces = pieces
        self._left = most
        self._held = bytearray()
        self._body = 0
        self._padding = 0

    async def header(self) -> Header | None:
        """Return the next header, past what is left of the body before it; None at the end.

        Raises:
            FileFailed: it is no tar, is cut off, or has more than was to be read.
        """
        while await self.body():
            pass
        await self._take(self._padding)
        said: dict[bytes, bytes] = {}
        while True:
            block = await self._take(BLOCK)
            if not any(block):
                return None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError) as error:
                raise _senseless() from error
            if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, *_LONG_NAME):
                text = await self._extension(info.size)
                if info.type in _LONG_NAME:
                    said[_LONG_NAME[info.type]] = text.rstrip(b"\0")
                elif info.type == tarfile.XHDTYPE:
                    said |= _records(text)
                continue
            return self._entry(info, said)

    async def body(self) -> bytes:
        """Return what comes next of the body behind the last header; b"" at its end."""
        if not self._body:
            return b""
        while not self._held:
            await self._more()
        piece = bytes(self._held[: min(self._body, _PIECE)])
        del self._held[: len(piece)]
        self._body -= len(piece)
        return piece

    def _entry(self, info: tarfile.TarInfo, said: dict[bytes, bytes]) -> Header:
        size = _number(said, b"size", info.size, _FURTHEST)
        is_file = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        self._body = size if is_file else 0
        self._padding = -self._body % BLOCK
        modified = _number(said, b"mtime", int(info.mtime), _FURTHEST)
        attributes = Attributes(
            mode=_TYPES.get(info.type, stat.S_IFREG) | info.mode & 0o7777,
            size=size if is_file else 0,
            user=_number(said, b"uid", info.uid, _LARGEST_ID),
            group=_number(said, b"gid", info.gid, _LARGEST_ID),
            accessed=modified,
            modified=modified,
        )
        link = said.get(b"linkpath", _bytes(info.linkname))
        if info.type == tarfile.SYMTYPE:
            attributes = replace(attributes, size=len(link))
        return Header(said.get(b"path", _bytes(info.name)), attributes, link, info.type == tarfile.LNKTYPE)

    async def _extension(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST:
            raise _senseless()
        text = await self._take(size)
        await self._take(-size % BLOCK)
        return text

    async def _take(self, size: int) -> bytes:
        while len(self._held) < size:
            await self._more()
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    async def _more(self) -> None:
        piece = await anext(self._pieces, b"")
        if not piece:
            raise FileFailed("the engine broke off before the end of it", "try again")
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise FileFailed("more in the folder than can be read through to list it")
        self._held += piece


def one_entry(
    name: bytes, attributes: Attributes, *, link: bytes = b"", content: memoryview | None = None
) -> "OneEntry":
    """Return a tar of one file, folder or symbolic link."""
    info = tarfile.TarInfo(_text(name))
    types = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    info.type = types[stat.S_IFMT(attributes.mode)]
    info.mode = attributes.mode & 0o7777
    info.uid, info.gid, info.mtime = attributes.user, attributes.group, attributes.modified
    info.linkname = _text(link)
    info.size = len(content) if content is not None else 0
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return OneEntry(head, content if content is not None else memoryview(b""))


@dataclass(frozen=True, slots=True)
class OneEntry:
    """A tar with one entry, in pieces."""

    head: bytes
    content: memoryview

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for start in range(0, len(self.content), _PIECE):
            yield bytes(self.content[start : start + _PIECE])
        yield bytes(-len(self.content) % BLOCK + 2 * BLOCK)


def _records(text: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header: each `LENGTH KEY=VALUE` and a newline, all of it as long as it says."""
    found = {}
    while text:
        length, space, _ = text[:24].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(text):
            raise _senseless()
        record, text = text[len(length) + 1 : int(length)], text[int(length) :]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _senseless()
        found[key] = value[:-1]
    return found


def _number(said: dict[bytes, bytes], key: bytes, otherwise: int, most: int) -> int:
    text = said.get(key)
    try:
        number = otherwise if text is None else int(text.partition(b".")[0][:24])
    except ValueError as error:
        raise _senseless() from error
    if not (key == b"mtime" or number >= 0) or abs(number) > most:
        raise _senseless()
    return number


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _senseless() -> FileFailed:
    return FileFailed("the engine's answer makes no sense")
