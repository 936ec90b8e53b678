"""What the globs of a command line stand for, looked up in the container without a shell."""

import fnmatch
import re
from collections.abc import AsyncIterator
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Files
from bastion.files.scp.command import Word
from bastion.files.scp.wire import LONGEST_PATH

MOST_BYTES: Final = 2 * 1024 * 1024  # of paths; a kernel takes no more as arguments, either

_GLOB: Final = re.compile(rb"[*?[]")
_ESCAPED: Final = re.compile(rb"\[([*?[])\]")


async def expand(files: Files, word: Word) -> list[bytes]:
    """Return the paths that a word stands for, sorted; a pattern that fits nothing stands for itself.

    Raises:
        FileFailed: it stands for too many.
    """
    as_written = (files.home if word.at_home else b"") + word.written
    if word.pattern is None:
        return [as_written]
    found, is_there = [files.home if word.at_home else b""], True
    for part in re.split(rb"(/+)", word.pattern):
        if part and _is_pattern(part):
            found, is_there = await _fitting(files, found, part), True
        elif part:
            found, is_there = [path + _ESCAPED.sub(rb"\1", part) for path in found], False
    return sorted(found if is_there else [path for path in found if await _is_there(files, path)]) or [as_written]


def _is_pattern(part: bytes) -> bool:
    return _GLOB.search(_ESCAPED.sub(b"", part)) is not None


async def _fitting(files: Files, folders: list[bytes], pattern: bytes) -> list[bytes]:
    fitting: list[bytes] = []
    length = 0
    for folder in folders:
        async for name in _names(files, folder):
            if len(folder) + len(name) <= LONGEST_PATH and _fits(name, pattern):
                fitting.append(folder + name)
                length += len(fitting[-1])
            if length > MOST_BYTES:
                raise FileFailed("stands for too many files", "copy the folder with -r")
    return fitting


async def _names(files: Files, folder: bytes) -> AsyncIterator[bytes]:
    try:
        async for entries in files.list(folder or b"."):
            for entry in entries:
                yield entry.name
    except FileFailed:
        return  # what cannot be listed holds nothing that fits, as in a shell


def _fits(name: bytes, pattern: bytes) -> bool:
    if name in {b".", b".."} or (name.startswith(b".") and not pattern.startswith(b".")):
        return False
    return b"/" not in name and fnmatch.fnmatchcase(name, pattern)


async def _is_there(files: Files, path: bytes) -> bool:
    try:
        await files.stat(path, follow=False)
    except FileFailed:
        return False
    return True
