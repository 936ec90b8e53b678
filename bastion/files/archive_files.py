"""The files of a container by its engine's archive API: read, listed, made and replaced, as root, and never removed."""

import asyncio
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from bastion.errors import BastionError, FileFailed
from bastion.files import Attributes, Changes, Entry, Mode, Space
from bastion.files.archive_file import ReadFile, Room, WrittenFile, changed, refuse_owner
from bastion.files.archive_paths import HINT, Paths, missing
from bastion.files.tar import TarReader, one_entry
from bastion.runtimes import Archive
from bastion.tasks import background

_UMASK: Final = 0o022  # a container's, where nobody can be asked for it
_MOST_OPEN: Final = 8
_LONGEST_PATH: Final = 4096
_LISTED: Final = 512 * 1024 * 1024  # bytes of all that is in a folder, which are read through for its names
_LISTING: Final = 60.0  # seconds
_MOST_NAMES: Final = 50_000
_NAMES_SIZE: Final = 8 * 1024 * 1024
_BATCH: Final = 200
_REMEMBERED: Final = 4096
_PIECE: Final = 256 * 1024
_NOT_POSSIBLE: Final = "not possible by the engine's archive API"


class ArchiveFiles:
    """The files as one session sees them; see the port. `owner` is whose what it makes is: the session's user.

    Only what this session has put is changed by its path, by writing it anew: of another file a program may hold the
    old one open, and would go on with it.
    """

    def __init__(self, archive: Archive, home: bytes, owner: tuple[int, int], unseen: tuple[bytes, ...]) -> None:
        self.way = "the engine's archive API, by which the container's own permissions are not applied"
        self.home = home
        self._archive = archive
        self._owner = owner
        self._paths = Paths(archive, home, unseen)
        self._room = Room()
        self._open = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._put: OrderedDict[bytes, Attributes] = OrderedDict()

    async def real_path(self, path: bytes) -> bytes:
        """Return the absolute path without symbolic links; see the port."""
        return await self._paths.place(path, follow=True)

    async def stat(self, path: bytes, *, follow: bool) -> Attributes:
        """Return what a path is; see the port. Who read it last, and how many names it has, nobody says."""
        return await self._stat(await self._paths.place(path, follow=follow))

    async def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        """Give what a folder holds; see the port. All that is in it is read through, so that there are limits."""
        where = await self._paths.place(path, follow=True)
        if not stat.S_ISDIR((await self._paths.there(where)).mode):
            raise FileFailed("not a folder", kind="no-such-file")
        above = await self._stat(where.rpartition(b"/")[0] or b"/")
        found = {b"..": above}
        size = 0
        again = []
        try:
            async with asyncio.timeout(_LISTING), self._archive.get(where.rstrip(b"/") + b"/.") as pieces:
                reader = TarReader(pieces, most=_LISTED)
                while (header := await reader.header()) is not None:
                    name = header.name.removeprefix(b"./").rstrip(b"/") or b"."
                    if b"/" in name or name == b"..":
                        continue
                    found[name] = header.attributes
                    size += len(name)
                    if header.is_second_name:
                        again.append(name)
                    if len(found) > _MOST_NAMES or size > _NAMES_SIZE:
                        raise _too_much()
        except TimeoutError as error:
            raise _too_much() from error
        for name in again:  # not before: the engine keeps the container locked while it reads
            found[name] = await self._stat(where.rstrip(b"/") + b"/" + name)
        entries = [Entry(name, each, str(each.user), str(each.group)) for name, each in found.items()]
        for start in range(0, len(entries), _BATCH):
            yield entries[start : start + _BATCH]

    async def open(self, path: bytes, mode: Mode) -> ReadFile | WrittenFile:
        """Open a file; see the port. What is written is there when it is closed, and replaces what was there."""
        where = await self._paths.place(path, follow=not (mode.create and mode.exclusive))
        found = await self._archive.look(where)
        if found is None and not mode.create:
            raise missing()
        if found is not None and mode.create and mode.exclusive:
            raise FileFailed("already there")
        if found is not None and not stat.S_ISREG(found.mode):
            raise FileFailed("a folder" if stat.S_ISDIR(found.mode) else "not a regular file")
        if found is None or mode.write:
            return await self._writing(where, mode, is_new=found is None)
        return await self._reading(where)

    async def make_directory(self, path: bytes, permissions: int | None) -> None:
        """Make a folder; see the port."""
        where = await self._new(path)
        await self._make(where, self._made(stat.S_IFDIR, 0o777 if permissions is None else permissions))

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link; see the port."""
        if not target or b"\0" in target or len(target) > _LONGEST_PATH:
            raise FileFailed("nothing that a symbolic link can say")
        where = await self._new(path)
        attributes = replace(self._made(stat.S_IFLNK, 0o777), mode=stat.S_IFLNK | 0o777)
        if b".." in target.split(b"/"):  # it must not lead out of the folder that is unpacked in
            await self._archive.put(b"/", one_entry(where[1:], attributes, link=target))
        else:
            await self._make(where, attributes, link=target)

    async def read_link(self, path: bytes) -> bytes:
        """Return what a symbolic link says; see the port."""
        where = await self._paths.place(path, follow=False)
        if not stat.S_ISLNK((await self._paths.there(where)).mode):
            raise FileFailed("not a symbolic link")
        async with self._archive.get(where) as pieces:
            header = await TarReader(pieces).header()
        if header is None or not stat.S_ISLNK(header.attributes.mode):
            raise FileFailed(_NOT_POSSIBLE, kind="unsupported")
        return header.link

    async def change(self, path: bytes, changes: Changes, *, follow: bool) -> None:
        """Change a folder, a file that this session has put, or the size of any file; see the port."""
        where = await self._paths.place(path, follow=follow)
        before = await self._stat(where)
        refuse_owner(before, changes)
        changes = replace(changes, owner=None)
        if changes == Changes():
            return
        if stat.S_ISDIR(before.mode) and changes.size is None and where != b"/":
            await self._make(where, changed(before, changes))
        elif stat.S_ISREG(before.mode) and (before == self._put.get(where) or changes == Changes(size=changes.size)):
            file = await self._writing(where, Mode(write=True), is_new=False)
            try:
                await file.change(changes)
            finally:
                await file.close()
        else:
            raise FileFailed(f"{_NOT_POSSIBLE} for what this session has not put", HINT, kind="unsupported")

    async def remove(self, path: bytes) -> None:
        """Refuse; see the port."""
        raise await self._impossible(path)

    async def remove_directory(self, path: bytes) -> None:
        """Refuse; see the port."""
        raise await self._impossible(path)

    async def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:  # noqa: ARG002 - the port's
        """Refuse; see the port."""
        raise await self._impossible(old)

    async def hard_link(self, old: bytes, new: bytes) -> None:  # noqa: ARG002 - the port's
        """Refuse; see the port."""
        raise await self._impossible(old)

    async def space(self, path: bytes) -> Space:
        """Refuse; see the port."""
        raise await self._impossible(path)

    async def _impossible(self, path: bytes) -> FileFailed:
        await self._paths.there(await self._paths.place(path, follow=False))
        return FileFailed(_NOT_POSSIBLE, HINT, kind="unsupported")

    async def _reading(self, where: bytes) -> ReadFile:
        self._opened(1)
        file = ReadFile(self._archive, where, lambda: self._opened(-1))
        try:
            await file.begin()
        except BaseException:
            await file.close()
            raise
        return file

    async def _writing(self, where: bytes, mode: Mode, *, is_new: bool) -> WrittenFile:
        """Open a file to be written; what it holds is held from now on, unless it is to be cut off."""
        content = bytearray()
        if is_new:
            await self._paths.folder_of(where)
            attributes = self._made(stat.S_IFREG, 0o666 if mode.permissions is None else mode.permissions)
        else:
            attributes = await self._stat(where)
        is_kept = not is_new and not (mode.truncate and mode.write)
        held = attributes.size if is_kept else 0
        self._room.take(held)
        self._opened(1)
        try:
            if is_kept:
                content += await self._content(where, held)
        except BaseException:
            self._room.take(-held)
            self._opened(-1)
            raise

        async def put(now: Attributes, data: memoryview) -> None:
            putting = background(self._make(where, now, content=data), name="archive put", expected=(BastionError,))
            self._putting.add(putting)
            putting.add_done_callback(self._putting.discard)
            await asyncio.shield(putting)  # what is cut off half-way would be half there
            self._put[where] = replace(now, accessed=now.modified)
            self._put.move_to_end(where)
            while len(self._put) > _REMEMBERED:
                self._put.popitem(last=False)

        return WrittenFile(
            mode,
            attributes,
            content,
            room=self._room,
            put=put,
            released=lambda: self._opened(-1),
            is_changed=not is_kept,
        )

    def _opened(self, more: int) -> None:
        if more > 0 and self._open >= _MOST_OPEN:
            raise FileFailed("too many open files", "close some first")
        self._open += more

    async def _content(self, where: bytes, size: int) -> bytes:
        """Return all of a file that has this size."""
        file = await self._reading(where)
        content = bytearray()
        try:
            while piece := await file.read(len(content), _PIECE):
                content += piece
                if len(content) > size:
                    break
        finally:
            await file.close()
        if len(content) != size:
            raise FileFailed("changed while it was read")
        return bytes(content)

    def _made(self, kind: int, permissions: int) -> Attributes:
        """Return what something new is: the session user's."""
        now = int(time.time())
        return Attributes(kind | permissions & 0o7777 & ~_UMASK, 0, *self._owner, accessed=now, modified=now)

    async def _make(
        self, where: bytes, attributes: Attributes, *, link: bytes = b"", content: memoryview | None = None
    ) -> None:
        folder, _, name = where.rpartition(b"/")
        await self._archive.put(folder or b"/", one_entry(name, attributes, link=link, content=content))

    async def _new(self, path: bytes) -> bytes:
        """Return where something is to be made, where nothing is yet."""
        where = await self._paths.place(path, follow=False)
        await self._paths.folder_of(where)
        if await self._archive.look(where) is not None:
            raise FileFailed("already there")
        return where

    async def _stat(self, where: bytes) -> Attributes:
        await self._paths.there(where)
        async with self._archive.get(where) as pieces:
            header = await TarReader(pieces).header()
        if header is None:
            raise FileFailed("of a kind or a name that the engine's archive API does not give", kind="unsupported")
        return header.attributes


def _too_much() -> FileFailed:
    return FileFailed("more in the folder than can be read through to list it", HINT)
