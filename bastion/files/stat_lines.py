"""Read what `stat -c` and `stat -f -c` print in a container: every field bounded, names matched strictly in order."""

import re
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Attributes, Entry, Space

_NUMBER: Final = rb"(-?[0-9]{1,20})(?:\.[0-9]*)?"  # some say fractions of a second
_ATTRIBUTES: Final = rb"([0-9a-f]{1,8}):([0-9]{1,19}):([0-9]{1,10}):([0-9]{1,10}):" + _NUMBER + b":" + _NUMBER
_ATTRIBUTES_LINE: Final = re.compile(_ATTRIBUTES + rb":([0-9]{1,20})")
_ENTRY: Final = re.compile(_ATTRIBUTES + rb":([0-9]{1,20}):([^:\n]{0,256}):([^:\n]{0,256}):")
_SPACE: Final = re.compile(rb":".join([rb"(-?[0-9]{1,20})"] * 7) + rb":([0-9a-f]{1,16}):([0-9]{1,20})")
_MOST: Final = 2**63 - 1
_LONGEST_NAME: Final = 65535
_NAMELESS: Final = ("", "UNKNOWN")


def attributes(line: bytes) -> Attributes:
    """Return what one line says.

    Raises:
        FileFailed: it is none.
    """
    if not (found := _ATTRIBUTES_LINE.fullmatch(line)):
        raise _senseless()
    return _attributes(found)


def entries(part: bytes) -> list[Entry]:
    """Return what one part of a listing says: names, each with a NUL behind it, an empty one, and lines of stat.

    A name whose line does not come is of a file that has gone, and is left out.

    Raises:
        FileFailed: it is none.
    """
    head, end, text = part.partition(b"\0\0")
    if not end:
        raise _senseless()
    found: list[Entry] = []
    at = 0
    for name in head.split(b"\0"):
        line = _ENTRY.match(text, at)
        if not line or not text.startswith(name + b"\n", line.end()):
            continue
        if not name or b"/" in name:
            raise _senseless()
        at = line.end() + len(name) + 1
        found.append(Entry(name, _attributes(line), _owner(line[8], line[3]), _owner(line[9], line[4])))
    return found


def space(said: bytes, path: bytes) -> Space:
    """Return what `stat -f` says, and behind it a table of mounts for the real path `path`.

    Raises:
        FileFailed: it is none.
    """
    line, _, mounts = said.partition(b"\n")
    if not (found := _SPACE.fullmatch(line)):
        raise _senseless()
    block, fragment, blocks, free, available, files, files_free = (_bounded(int(text)) for text in found.groups()[:7])
    return Space(
        block=block,
        fragment=fragment or block,
        blocks=blocks,
        free=free,
        available=available,
        files=files,
        files_free=files_free,
        identifier=int(found[8], 16),
        read_only=_is_read_only(mounts, path),
        longest_name=min(int(found[9]), _LONGEST_NAME),
    )


def _attributes(found: re.Match[bytes]) -> Attributes:
    mode, size, user, group, accessed, modified, links = found.groups()[:7]
    return Attributes(
        mode=int(mode, 16),
        size=_bounded(int(size)),
        user=min(int(user), 2**32 - 1),
        group=min(int(group), 2**32 - 1),
        accessed=max(-_MOST, min(int(accessed), _MOST)),
        modified=max(-_MOST, min(int(modified), _MOST)),
        links=_bounded(int(links)),
    )


def _owner(name: bytes, number: bytes) -> str:
    text = name.decode(errors="replace")
    return number.decode() if text in _NAMELESS or not text.isprintable() else text


def _is_read_only(mounts: bytes, path: bytes) -> bool:
    """Look for the mount that a path is on: the last with the longest beginning of it."""
    longest, read_only = -1, False
    for line in mounts.splitlines():
        words = line.split(b" ")
        if len(words) < 4:  # noqa: PLR2004 - device, folder, kind, options
            continue
        folder = re.sub(rb"\\([0-7]{3})", lambda code: bytes((int(code[1], 8) & 0xFF,)), words[1])
        is_above = path == folder or path.startswith(folder.rstrip(b"/") + b"/")
        if is_above and len(folder) >= longest:
            longest, read_only = len(folder), b"ro" in words[3].split(b",")
    return read_only


def _bounded(number: int) -> int:
    return max(0, min(number, _MOST))


def _senseless() -> FileFailed:
    return FileFailed("the container's stat says what no stat says")
