"""The files of a container by helper shells in it: one for everything, and further ones when much is open at once."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from bastion.errors import FileFailed, RuntimeFailed
from bastion.files import Attributes, Changes, Entry, Mode, Space, stat_lines
from bastion.files.changing import change
from bastion.files.helper import Helper, Start, started
from bastion.files.helper_script import SLOTS
from bastion.files.shell_file import ShellFile

MOST_OPEN: Final = 64

_LISTING: Final = 32 * 2**20  # bytes of a listing that wait for their reader while others use the helper
_MOST_LISTED: Final = 192 * 2**20  # of 200 000 of the longest names
_LONG: Final = 600.0  # seconds: a rename may be a copy from one file system to another
_LONGEST_PATH: Final = 64 * 1024  # bytes; the kernel takes 4096


class ShellFiles:
    """The files as one session sees them; see the port. `first` is there already, and its maker ends it.

    As a context manager it ends the helpers that it starts beside it.
    """

    def __init__(self, start: Start, first: Helper) -> None:
        self.way = "a shell in a toolbox beside the container" if first.root else "a shell in the container"
        self.home = first.home
        self.tools = first.tools
        self._start = start
        self._first = first
        self._helpers = [first]
        self._number = 0
        self._open = 0
        self._growing = asyncio.Lock()
        self._stacks: list[AsyncExitStack] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(stack.aclose() for stack in self._stacks), return_exceptions=True)

    async def real_path(self, path: bytes) -> bytes:
        """Return the absolute path without symbolic links; see the port."""
        found = await self._first.do("real", paths=[self._plain(path)])
        if not found.startswith(b"/") or b"\0" in found or len(found) > _LONGEST_PATH:
            raise FileFailed("the container's shell says no path")
        return found

    async def stat(self, path: bytes, *, follow: bool) -> Attributes:
        """Return what a path is; see the port."""
        return stat_lines.attributes(await self._first.do("stat", int(follow), paths=[self._plain(path)]))

    async def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        """Give what a folder holds; see the port."""
        answer = await self._first.ask("list", paths=[self._plain(path)], keep=_LISTING, most=_MOST_LISTED)
        try:
            while (part := await answer.part()) is not None:
                if answer.is_cut:
                    raise FileFailed("more names in the folder than can be listed")
                yield stat_lines.entries(part)
        finally:
            answer.abandon()

    async def open(self, path: bytes, mode: Mode) -> ShellFile:
        """Open a file; see the port."""
        plain = self._plain(path)
        if self._open >= MOST_OPEN:
            raise FileFailed("too many open files", "close some first")
        self._open += 1
        helper, slot = None, 0
        try:
            helper, slot = await self._slot()
            operator, words = _how(mode, helper.umask, strict=self._start.strict)
            await helper.do("open", slot, operator, *words, paths=[plain])
        except BaseException:
            await self._released(helper, slot, close=True)
            raise

        async def release() -> None:
            await self._released(helper, slot, close=False)

        return ShellFile(helper, slot, mode, release)

    async def make_directory(self, path: bytes, permissions: int | None) -> None:
        """Make a folder; see the port."""
        mode = "-" if permissions is None else f"{permissions & 0o7777 & ~self._first.umask:04o}"
        await self._first.do("mkdir", mode, paths=[self._plain(path)])

    async def remove(self, path: bytes) -> None:
        """Remove a file or a symbolic link; see the port."""
        await self._first.do("remove", paths=[self._plain(path)])

    async def remove_directory(self, path: bytes) -> None:
        """Remove an empty folder; see the port."""
        await self._first.do("rmdir", paths=[self._plain(path)])

    async def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        """Rename; see the port. To another file system it is a copy."""
        paths = [self._plain(old), self._plain(new)]
        await self._first.do("rename", "yes" if overwrite else "no", paths=paths, limit=_LONG)

    async def read_link(self, path: bytes) -> bytes:
        """Return what a symbolic link says; see the port."""
        return await self._first.do("readlink", paths=[self._plain(path)])

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link; see the port."""
        if not target or b"\0" in target or len(target) > _LONGEST_PATH:
            raise FileFailed("nothing that a symbolic link can say")
        await self._first.do("symlink", paths=[target, self._plain(path)])

    async def hard_link(self, old: bytes, new: bytes) -> None:
        """Give a file a second name; see the port."""
        await self._first.do("link", paths=[self._plain(old), self._plain(new)])

    async def change(self, path: bytes, changes: Changes, *, follow: bool) -> None:
        """Change size, permissions, owner or times; see the port."""
        await change(self._first, self._plain(path), changes, follow=follow)

    async def space(self, path: bytes) -> Space:
        """Return what the file system of a path has; see the port."""
        plain = self._plain(path)
        said = await self._first.do("space", paths=[plain])
        return stat_lines.space(said, await self.real_path(plain))

    def _plain(self, path: bytes) -> bytes:
        """Return a path as the script takes it: absolute, with no slash more than it needs."""
        if b"\0" in path:
            raise FileFailed("a name with a NUL byte is none", kind="no-such-file")
        if len(path) > _LONGEST_PATH:
            raise FileFailed("the name is too long")
        whole = path if path.startswith(b"/") else self.home + b"/" + path
        return re.sub(rb"/(?:\.?/)+", b"/", whole).rstrip(b"/") or b"/"

    async def _slot(self) -> tuple[Helper, int]:
        """Take a free descriptor of a helper; start one when there is none."""
        async with self._growing:
            self._helpers = [helper for helper in self._helpers if helper is self._first or helper.failure is None]
            free = [helper for helper in self._helpers if helper.slots]
            if not free:
                free = [await self._further()]
            chosen = max(free, key=lambda helper: len(helper.slots))
            return chosen, chosen.slots.pop()

    async def _further(self) -> Helper:
        """Start one more helper."""
        self._number += 1
        stack = AsyncExitStack()
        self._stacks.append(stack)
        try:
            helper = await stack.enter_async_context(started(self._start, number=self._number))
        except RuntimeFailed as error:
            raise FileFailed(
                "too many open files: the container gives no shell to hold more", detail=error.detail or error.public
            ) from error
        self._helpers.append(helper)
        return helper

    async def _released(self, helper: Helper | None, slot: int, *, close: bool) -> None:
        """Give a descriptor back, closed."""
        try:
            if helper is not None and close and helper.failure is None:
                await helper.ask("close", slot)
        except RuntimeFailed:
            return  # with the helper its descriptors are gone
        finally:
            self._open -= 1
            if helper is not None and slot in SLOTS:
                helper.slots.add(slot)


def _how(mode: Mode, umask: int, *, strict: bool) -> tuple[str, tuple[str, ...]]:
    """Return the operator that opens a file, and the words behind it: what is to be done, a new file's umask and mode.

    A shell makes files of 0666 at most, and what is more has to be given them. One that is opened anew after it was
    made is its owner's alone until then.
    """
    if not mode.write:
        operator = "<>" if mode.create else "<"
    elif mode.append and not mode.read:
        operator = ">>"
    elif mode.truncate and not mode.read:
        operator = ">"
    else:
        operator = "<>"
    flags = ("c" if mode.create else "") + ("x" if mode.exclusive and mode.create else "")
    flags += "t" if mode.truncate and mode.write else ""
    wanted = (0o666 if mode.permissions is None else mode.permissions & 0o7777) & ~umask
    is_opened_anew = operator != ">" and ("x" in flags or strict)
    mask = 0o077 if is_opened_anew else ~wanted & 0o777
    is_given = is_opened_anew or wanted & ~0o666
    return operator, (flags or "-", f"{mask:04o}", f"{wanted:04o}" if is_given else "-")
