"""The requests beyond the draft of SFTP version 3 that OpenSSH's clients and those who follow it make."""

from collections.abc import Mapping
from typing import Final

from bastion.errors import FileFailed
from bastion.files import Files, Space
from bastion.files import sftp_wire as wire
from bastion.files.sftp_answers import LAST_BYTE, Answer, Asked, check_offset, checked
from bastion.files.sftp_handles import MOST_HANDLES, Handles
from bastion.files.sftp_listing import one_name
from bastion.files.sftp_wire import Kind, Status

COPY_PIECE: Final = 1024 * 1024

_ANNOUNCED_PACKET = 256 * 1024  # what OpenSSH's server says; ours takes a little more
_READ_ONLY = 1


class Extensions:
    """Carries out the requests of extensions on the files of one container."""

    def __init__(self, files: Files, handles: Handles) -> None:
        self._files = files
        self._handles = handles
        self._by_name: Mapping[bytes, tuple[int, Answer]] = {
            b"posix-rename@openssh.com": (1, self._posix_rename),
            b"statvfs@openssh.com": (2, self._statvfs),
            b"fstatvfs@openssh.com": (2, self._fstatvfs),
            b"hardlink@openssh.com": (1, self._hardlink),
            b"fsync@openssh.com": (1, self._fsync),
            b"lsetstat@openssh.com": (1, self._lsetstat),
            b"limits@openssh.com": (1, self._limits),
            b"expand-path@openssh.com": (1, self._expand_path),
            b"copy-data": (1, self._copy_data),
            b"home-directory": (1, self._home_directory),
        }

    def version(self) -> bytes:
        """Return the answer to INIT: the version of the protocol, and every extension with its own."""
        names = [wire.string(part) for name, (version, _) in self._by_name.items() for part in (name, b"%d" % version)]
        return wire.packet(Kind.VERSION, wire.number(wire.VERSION), *names)

    async def answer(self, asked: Asked) -> bytes:
        """Carry out a request of an extension."""
        found = self._by_name.get(asked.fields.string())
        if found is None:
            raise FileFailed("this extension is not served", kind="unsupported")
        return await found[1](asked)

    async def _posix_rename(self, asked: Asked) -> bytes:
        old, new = asked.path(), asked.path()
        await self._files.rename(old, new, overwrite=True)
        return asked.done()

    async def _statvfs(self, asked: Asked) -> bytes:
        return _space(asked.number, await self._files.space(asked.path()))

    async def _fstatvfs(self, asked: Asked) -> bytes:
        return _space(asked.number, await self._files.space(self._handles.any(asked.handle(self._handles)).path))

    async def _hardlink(self, asked: Asked) -> bytes:
        old, new = asked.path(), asked.path()
        await self._files.hard_link(old, new)
        return asked.done()

    async def _fsync(self, asked: Asked) -> bytes:
        await self._handles.file(asked.handle(self._handles)).file.sync()
        return asked.done()

    async def _lsetstat(self, asked: Asked) -> bytes:
        path, changes = asked.path(), checked(asked.fields.changes())
        await self._files.change(path, changes, follow=False)
        return asked.done()

    async def _limits(self, asked: Asked) -> bytes:
        limits = wire.longs(_ANNOUNCED_PACKET, wire.LONGEST_DATA, wire.LONGEST_DATA, MOST_HANDLES)
        return wire.answer(Kind.EXTENDED_REPLY, asked.number, limits)

    async def _expand_path(self, asked: Asked) -> bytes:
        path = asked.path(empty=b".")
        name, slash, rest = path.partition(b"/")
        if name == b"~":
            path = self._files.home + slash + rest
        elif name.startswith(b"~"):
            raise FileFailed("the homes of other users are not known")
        return one_name(asked.number, await self._files.real_path(path))

    async def _home_directory(self, asked: Asked) -> bytes:
        if asked.fields.string():
            raise FileFailed("the homes of other users are not known", "ask for the home of no name")
        return one_name(asked.number, self._files.home)

    async def _copy_data(self, asked: Asked) -> bytes:
        source, start, wanted = asked.handle(self._handles), asked.fields.long(), asked.fields.long()
        target, place = asked.handle(self._handles), asked.fields.long()
        check_offset(start + wanted)
        check_offset(place + wanted)
        readable, writable = self._handles.readable(source), self._handles.writable(target)
        if readable.path == writable.path:
            raise FileFailed("a file is not copied into itself")
        # Up to its end means the end that it has now: it may be the one that grows, under another name.
        end = wanted or max(0, (await readable.file.stat()).size - start) or LAST_BYTE - max(start, place)
        copied = 0
        while copied < end:
            piece = await readable.file.read(start + copied, min(COPY_PIECE, end - copied))
            if not piece:
                break
            await writable.file.write(place + copied, piece)
            copied += len(piece)
        return wire.status(asked.number, Status.EOF, "end of file") if copied < wanted else asked.done()


def _space(request: int, space: Space) -> bytes:
    return wire.answer(
        Kind.EXTENDED_REPLY,
        request,
        wire.longs(
            space.block,
            space.fragment,
            space.blocks,
            space.free,
            space.available,
            space.files,
            space.files_free,
            space.files_free,
            space.identifier,
            _READ_ONLY if space.read_only else 0,
            space.longest_name,
        ),
    )
