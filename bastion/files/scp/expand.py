"""What the globs of a command line stand for, looked up in the container without a shell."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Entry, Files
from bastion.files.scp.command import Word
from bastion.files.scp.wire import LONGEST_PATH
from bastion.patterns import glob_matcher

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
    matcher = glob_matcher(pattern)
    if matcher is None:
        return fitting
    with_dot = pattern.startswith(b".")
    for folder in folders:
        with suppress(FileFailed):  # what cannot be listed holds nothing that fits, as in a shell
            async with listed(files, folder or b".") as batches:
                async for entries in batches:
                    found = [
                        folder + entry.name
                        for entry in entries
                        if _may_stand(entry.name, with_dot=with_dot) and matcher.fits(entry.name.decode("latin-1"))
                    ]
                    fitting += [path for path in found if len(path) <= LONGEST_PATH]
                    length += sum(map(len, found))
                    if length > MOST_BYTES:
                        break
        if length > MOST_BYTES:
            raise FileFailed("stands for too many files", "copy the folder with -r")
    return fitting


@asynccontextmanager
async def listed(files: Files, path: bytes) -> AsyncIterator[AsyncIterator[list[Entry]]]:
    """Give what a folder holds, in batches; leaving it ends the listing, wherever it is."""
    batches = files.list(path)
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


def _may_stand(name: bytes, *, with_dot: bool) -> bool:
    """Tell whether a glob may stand for the name at all: for a hidden one only where it writes the dot itself."""
    return name not in {b".", b".."} and (with_dot or not name.startswith(b".")) and b"/" not in name


async def _is_there(files: Files, path: bytes) -> bool:
    try:
        await files.stat(path, follow=False)
    except FileFailed:
        return False
    return True
