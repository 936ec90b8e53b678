"""The port to the files of one container, whatever it has to reach them by; a ladder of ways stands beside it.

Contract, proved by tests/files over every way:

- Paths are bytes as the container has them, without NUL; a relative one is taken from `home`.
- Everything is done inside the container, as the session's user; nothing is read from the bastion's own file system.
- What a hostile container answers is bounded and checked, and what it never answers runs into a limit.
- A failure is a `FileFailed` whose words fit behind the path; a broken way to the container is a `RuntimeFailed`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` says of a file: its type and permissions as in st_mode, sizes in bytes, times in seconds."""

    mode: int
    size: int
    user: int
    group: int
    accessed: int
    modified: int
    links: int = 1


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed about a file; None leaves it as it is. `permissions` are the lower twelve bits."""

    size: int | None = None
    permissions: int | None = None
    owner: tuple[int, int] | None = None
    times: tuple[int, int] | None = None  # accessed, modified


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder; `user` and `group` are names, or numbers where the container knows none."""

    name: bytes
    attributes: Attributes
    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """A file system, as statvfs(3) says it, in blocks of `fragment` bytes."""

    block: int
    fragment: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    identifier: int
    read_only: bool
    longest_name: int


@dataclass(frozen=True, slots=True)
class Mode:
    """How a file is to be opened. `append` writes at the end whatever the offset; `permissions` are a new file's."""

    read: bool = False
    write: bool = False
    append: bool = False
    create: bool = False
    truncate: bool = False
    exclusive: bool = False
    permissions: int | None = None


class OpenFile(Protocol):
    """An opened file: it stays the same one when its name is given to another."""

    async def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes, at least one, or b"" at the end of the file.

        Reading on where the last read ended is fast: more is asked of the container ahead of time.
        """
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of it; when this returns the container has taken it. Large pieces, one after another, are fast."""
        ...

    async def stat(self) -> Attributes:
        """Return what it is now."""
        ...

    async def change(self, changes: Changes) -> None:
        """Change it, not what has its name now."""
        ...

    async def sync(self) -> None:
        """Have it written to the disk."""
        ...

    async def close(self) -> None:
        """Let go of it; the second call does nothing."""
        ...


class Files(Protocol):
    """The files of one container, as one session sees them. Every method may raise FileFailed and RuntimeFailed.

    `way` says in words how they are reached; `home` is the absolute folder that relative paths start from.
    """

    way: str
    home: bytes

    async def real_path(self, path: bytes) -> bytes:
        """Return the absolute path without symbolic links, `.` and `..`; what is not there is taken as written."""
        ...

    async def stat(self, path: bytes, *, follow: bool) -> Attributes:
        """Return what a path is; `follow` goes through a last symbolic link."""
        ...

    def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        """Give what a folder holds, `.` and `..` too, in batches; following no entry that is a symbolic link.

        Other calls may come between two batches, and the rest may never be asked for.
        """
        ...

    async def open(self, path: bytes, mode: Mode) -> OpenFile:
        """Open a file."""
        ...

    async def make_directory(self, path: bytes, permissions: int | None) -> None:
        """Make a folder."""
        ...

    async def remove(self, path: bytes) -> None:
        """Remove a file or a symbolic link, and no folder."""
        ...

    async def remove_directory(self, path: bytes) -> None:
        """Remove an empty folder."""
        ...

    async def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        """Rename; without `overwrite` a `new` that is there is a failure."""
        ...

    async def read_link(self, path: bytes) -> bytes:
        """Return what a symbolic link says."""
        ...

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link at `path` that says `target`."""
        ...

    async def hard_link(self, old: bytes, new: bytes) -> None:
        """Give a file a second name."""
        ...

    async def change(self, path: bytes, changes: Changes, *, follow: bool) -> None:
        """Change size, permissions, owner or times."""
        ...

    async def space(self, path: bytes) -> Space:
        """Return what the file system of a path has."""
        ...
