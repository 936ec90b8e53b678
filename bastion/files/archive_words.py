"""Say what an engine says of files in the words that we have for it."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files.words import Kind, known
from bastion.runtimes import Archive, Bounds, Look

_ITS_OWN: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("too many links in ", "no-such-file", "too many symbolic links, one after another"),
    ("cannot overwrite directory ", "failure", "a folder"),
    ("cannot overwrite non-directory ", "failure", "not a folder"),
)


class InWords:
    """An archive whose failures fit behind a path; see the port."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def bounds(self) -> Bounds:
        """Return what there is to know; see the port."""
        return await self._archive.bounds()

    async def look(self, path: bytes) -> Look | None:
        """Return what is at a path; see the port."""
        with _in_words():
            return await self._archive.look(path)

    @asynccontextmanager
    async def get(self, path: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read as a tar; see the port."""
        with _in_words():
            async with self._archive.get(path) as pieces:
                yield pieces

    async def put(self, folder: bytes, tar: Iterable[bytes]) -> None:
        """Unpack a tar; see the port."""
        with _in_words():
            await self._archive.put(folder, tar)

    async def over(self) -> RuntimeFailed:
        """Wait until the container ends; see the port."""
        return await self._archive.over()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except FileFailed as error:
        if error.kind != "failure" or not error.detail:
            raise
        for said, kind, words in _ITS_OWN:
            if said in error.detail:
                raise FileFailed(words, detail=error.detail, kind=kind) from error
        if (failure := known(error.detail)) is not None:
            raise failure from error
        raise
