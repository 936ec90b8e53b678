"""Find where a path leads to by an engine's archive API, and keep away from what it does not see."""

import stat
from typing import Final

from bastion.errors import FileFailed
from bastion.runtimes import Archive, Look

_MOST_LINKS: Final = 40
_LONGEST_PATH: Final = 4096
HINT: Final = "a toolbox for the stack can"


class Paths:
    """The paths of a container; a relative one is from `home`, and in `unseen` folders nothing is to be touched."""

    def __init__(self, archive: Archive, home: bytes, unseen: tuple[bytes, ...]) -> None:
        self.home = home
        self._archive = archive
        self._unseen = unseen

    async def place(self, path: bytes, *, follow: bool) -> bytes:
        """Return where a path leads to; `follow` goes through a last symbolic link."""
        plain = self._plain(path)
        folder, _, name = plain.rpartition(b"/")
        if follow or name in (b"", b".", b".."):
            return await self._real(plain)
        return self._seen((await self._real(folder or b"/")).rstrip(b"/") + b"/" + name)

    async def folder_of(self, where: bytes) -> None:
        """Refuse a path whose folder is none."""
        if not stat.S_ISDIR((await self.there(where.rpartition(b"/")[0] or b"/")).mode):
            raise FileFailed("not a folder", kind="no-such-file")

    async def there(self, where: bytes) -> Look:
        """Return what is at a place, where something is."""
        found = await self._archive.look(where)
        if found is None:
            raise missing()
        return found

    async def _real(self, path: bytes) -> bytes:
        """Follow every symbolic link, a name at a time: the engine follows them too, but does not say where to."""
        real, links, is_there = b"", 0, True
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                real, is_there = real.rpartition(b"/")[0], True
                continue
            real = self._seen(real + b"/" + name)
            found = await self._archive.look(real) if is_there else None
            is_there = found is not None
            if found is not None and found.target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise FileFailed("too many symbolic links, one after another", kind="no-such-file")
                real = self._seen(found.target.rstrip(b"/"))
        return real or b"/"

    def _seen(self, path: bytes) -> bytes:
        """Return the path when the engine sees the file system it is on.

        Raises:
            FileFailed: it does not, and would take what lies hidden beneath it.
        """
        if any(path == folder or path.startswith(folder + b"/") for folder in self._unseen):
            raise FileFailed("on a file system that the engine's archive API does not see", HINT, kind="unsupported")
        return path

    def _plain(self, path: bytes) -> bytes:
        if b"\0" in path:
            raise FileFailed("a name with a NUL byte is none", kind="no-such-file")
        if len(path) > _LONGEST_PATH:
            raise FileFailed("the name is too long")
        return (path if path.startswith(b"/") else self.home + b"/" + path).rstrip(b"/") or b"/"


def missing() -> FileFailed:
    """Return the failure of a path at which nothing is."""
    return FileFailed("no such file", kind="no-such-file")
