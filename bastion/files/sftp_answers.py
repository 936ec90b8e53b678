"""One request of SFTP version 3 is carried out and answered; the requests of OpenSSH's extensions stand beside it."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Changes, Files
from bastion.files import sftp_wire as wire
from bastion.files.sftp_handles import Handles
from bastion.files.sftp_listing import names, one_name
from bastion.files.sftp_wire import Fields, Kind, Status

LONGEST_PATH: Final = 4096
LAST_BYTE: Final = 2**63 - 1  # no file system has more

_PROBES = frozenset((Kind.STAT, Kind.LSTAT, Kind.REALPATH, Kind.READLINK, Kind.OPENDIR))


@dataclass(slots=True)
class Asked:
    """One request: its number, what is left of its contents, and what it is about, for the words when it fails.

    `is_probe` says that its sender wants only to see whether something is there: its failure is worth no words.
    """

    number: int
    fields: Fields
    about: bytes = b""
    is_probe: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_probe = self.fields.kind in _PROBES

    def path(self, *, empty: bytes = b"") -> bytes:
        """Take a path, checked; `empty` is what none at all stands for."""
        path = self.fields.string() or empty
        self.about = self.about + b" to " + path if self.about else path
        if b"\0" in path:
            raise FileFailed("the path has a NUL byte")
        if len(path) > LONGEST_PATH:
            raise FileFailed("file name too long")
        if not path:
            raise FileFailed("no such file or directory", kind="no-such-file")
        return path

    def handle(self, handles: Handles) -> bytes:
        """Take a handle, which need not be one."""
        handle = self.fields.string()
        self.about = handles.name(handle)
        return handle

    def done(self) -> bytes:
        """Return the answer that all went well."""
        return wire.status(self.number, Status.OK)


Answer = Callable[[Asked], Awaitable[bytes]]


class Answers:
    """Carries out single requests on the files of one container."""

    def __init__(self, files: Files, handles: Handles, *, links_as_drafted: bool) -> None:
        self._files = files
        self._links_as_drafted = links_as_drafted
        self._handles = handles
        self.by_kind: Mapping[int, Answer] = {
            Kind.OPEN: self._open,
            Kind.CLOSE: self._close,
            Kind.READ: self._read,
            Kind.LSTAT: self._lstat,
            Kind.FSTAT: self._fstat,
            Kind.SETSTAT: self._setstat,
            Kind.FSETSTAT: self._fsetstat,
            Kind.OPENDIR: self._opendir,
            Kind.READDIR: self._readdir,
            Kind.REMOVE: self._remove,
            Kind.MKDIR: self._mkdir,
            Kind.RMDIR: self._rmdir,
            Kind.REALPATH: self._realpath,
            Kind.STAT: self._stat,
            Kind.RENAME: self._rename,
            Kind.READLINK: self._readlink,
            Kind.SYMLINK: self._symlink,
        }

    async def _open(self, asked: Asked) -> bytes:
        path, flags, changes = asked.path(), asked.fields.number(), asked.fields.changes()
        handle = await self._handles.open_file(path, wire.mode(flags, changes.permissions))
        return wire.answer(Kind.HANDLE, asked.number, wire.string(handle))

    async def _close(self, asked: Asked) -> bytes:
        await self._handles.close(asked.handle(self._handles))
        return asked.done()

    async def _read(self, asked: Asked) -> bytes:
        opened = self._handles.readable(asked.handle(self._handles))
        offset, wanted = asked.fields.long(), min(asked.fields.number(), wire.LONGEST_DATA)
        check_offset(offset + wanted)
        pieces, got = [], 0
        while got < wanted:  # some clients take a short answer for the end of the file, others for an error
            piece = await opened.file.read(offset + got, wanted - got)
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
        return wire.data(asked.number, pieces) if pieces else wire.status(asked.number, Status.EOF, "end of file")

    async def _lstat(self, asked: Asked) -> bytes:
        found = await self._files.stat(asked.path(), follow=False)
        return wire.answer(Kind.ATTRS, asked.number, wire.attributes(found))

    async def _stat(self, asked: Asked) -> bytes:
        found = await self._files.stat(asked.path(), follow=True)
        return wire.answer(Kind.ATTRS, asked.number, wire.attributes(found))

    async def _fstat(self, asked: Asked) -> bytes:
        found = await self._handles.file(asked.handle(self._handles)).file.stat()
        return wire.answer(Kind.ATTRS, asked.number, wire.attributes(found))

    async def _setstat(self, asked: Asked) -> bytes:
        path, changes = asked.path(), checked(asked.fields.changes())
        await self._files.change(path, changes, follow=True)
        return asked.done()

    async def _fsetstat(self, asked: Asked) -> bytes:
        handle, changes = asked.handle(self._handles), checked(asked.fields.changes())
        await self._handles.file(handle).file.change(changes)
        return asked.done()

    async def _opendir(self, asked: Asked) -> bytes:
        handle = await self._handles.open_folder(asked.path())
        return wire.answer(Kind.HANDLE, asked.number, wire.string(handle))

    async def _readdir(self, asked: Asked) -> bytes:
        folder = self._handles.folder(asked.handle(self._handles))
        await folder.fill()
        if not folder.waiting:
            return wire.status(asked.number, Status.EOF, "end of the folder")
        return names(asked.number, folder.waiting, time.time())

    async def _remove(self, asked: Asked) -> bytes:
        await self._files.remove(asked.path())
        return asked.done()

    async def _mkdir(self, asked: Asked) -> bytes:
        path, changes = asked.path(), asked.fields.changes()
        try:
            await self._files.make_directory(path, changes.permissions)
        except FileFailed:
            with suppress(FileFailed):  # of one that is there, as of each that is copied again, nobody wants to hear
                await self._files.stat(path, follow=True)
                asked.is_probe = True
            raise
        return asked.done()

    async def _rmdir(self, asked: Asked) -> bytes:
        await self._files.remove_directory(asked.path())
        return asked.done()

    async def _realpath(self, asked: Asked) -> bytes:
        return one_name(asked.number, await self._files.real_path(asked.path(empty=b".")))

    async def _rename(self, asked: Asked) -> bytes:
        old, new = asked.path(), asked.path()
        await self._files.rename(old, new, overwrite=False)
        return asked.done()

    async def _readlink(self, asked: Asked) -> bytes:
        return one_name(asked.number, await self._files.read_link(asked.path()))

    async def _symlink(self, asked: Asked) -> bytes:
        target, path = asked.path(), asked.path()  # as OpenSSH has them: nearly everybody does
        if self._links_as_drafted:
            target, path = path, target
        await self._files.symlink(target, path)
        return asked.done()


def check_offset(offset: int) -> None:
    """See that a place in a file is one that a file can have."""
    if offset > LAST_BYTE:
        raise FileFailed("file too large")


def checked(changes: Changes) -> Changes:
    """Return changes whose size is one that a file can have."""
    check_offset(changes.size or 0)
    return changes
