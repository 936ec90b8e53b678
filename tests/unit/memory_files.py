"""The files of a container that are a tree in memory: the port in full, as a user who is not root meets it."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator

from bastion.errors import FileFailed
from bastion.files import Attributes, Changes, Entry, Mode, Space
from tests.unit.memory_nodes import LARGEST_FILE, LONGEST_NAME, MOST_BYTES, Node, Tree, denied, exists, failed, missing

BLOCK = 4096
BATCH = 100
_NAMES = {0: "root", 1000: "app"}


class MemoryOpenFile:
    """One opened file; `piece` is the most that a read gives, as a pipe gives no more than it holds."""

    def __init__(self, files: "MemoryFiles", node: Node, mode: Mode) -> None:
        self._files = files
        self._node = node
        self._mode = mode
        self._closed = False

    async def read(self, offset: int, length: int) -> bytes:
        await self._files.turn()
        assert not self._closed
        if not self._mode.read:
            raise FileFailed("not opened for reading")
        return self._node.content.read(offset, min(length, self._files.piece))

    async def write(self, offset: int, data: bytes) -> None:
        await self._files.turn()
        assert not self._closed
        assert isinstance(data, bytes)
        if not self._mode.write:
            raise FileFailed("not opened for writing")
        self._files.writes.append(len(data))
        if self._mode.append:
            offset = self._node.content.size
        self._files.take_room(self._node, offset + len(data))
        self._node.content.write(offset, data)
        self._node.modified = int(time.time())

    async def stat(self) -> Attributes:
        await self._files.turn()
        assert not self._closed
        return self._node.attributes()

    async def change(self, changes: Changes) -> None:
        await self._files.turn()
        assert not self._closed
        self._files.apply(self._node, changes)

    async def sync(self) -> None:
        await self._files.turn()
        assert not self._closed
        self._files.synced += 1

    async def close(self) -> None:
        await asyncio.sleep(0)
        if not self._closed:
            self._closed = True
            self._files.opened -= 1


class MemoryFiles:
    """A tree of nodes. `room` is how many bytes its files may hold; `opened` counts what was opened and not closed.

    `writes` has the length of every write that was asked for, `listing` how many listings are under way, and
    `tree.read_only` stops every change. `ready` can be cleared to have every call wait but those that close.
    """

    way = "memory"

    def __init__(self, home: bytes = b"/home/app", *, room: int = MOST_BYTES, piece: int = 100_000) -> None:
        self.home = home
        self.tree = Tree(home)
        self.room = room
        self.largest = LARGEST_FILE
        self.piece = piece
        self.ready = asyncio.Event()
        self.ready.set()
        self.opened = 0
        self.listing = 0
        self.synced = 0
        self.writes: list[int] = []
        self.folder(home)
        self.folder(b"/tmp").mode = stat.S_IFDIR | 0o777

    # What a test lays out before, and looks at afterwards.

    def folder(self, path: bytes) -> Node:
        """Return a folder, made with what is above it where it is not there."""
        return self.tree.folder(path)

    def put(self, path: bytes, content: bytes = b"", permissions: int = 0o644) -> Node:
        """Lay a file down."""
        above, _, name = path.rpartition(b"/")
        node = Node(stat.S_IFREG | permissions, links=1)
        node.content.write(0, content)
        self.folder(above).children[name] = node
        return node

    def content(self, path: bytes) -> bytes:
        """Return what a file holds."""
        node = self.tree.find(path, follow=True)
        return node.content.read(0, node.content.size)

    async def turn(self) -> None:
        """Let others work, and wait while the container does."""
        await asyncio.sleep(0)
        await self.ready.wait()

    # The port.

    async def real_path(self, path: bytes) -> bytes:
        await self.turn()
        return self.tree.walk(path, follow=True)[1]

    async def stat(self, path: bytes, *, follow: bool) -> Attributes:
        await self.turn()
        return self.tree.find(path, follow=follow).attributes()

    async def list(self, path: bytes) -> AsyncIterator[list[Entry]]:
        node = self.tree.find(path, follow=True)
        if not stat.S_ISDIR(node.mode):
            raise failed("not a directory", kind="no-such-file")
        if not node.mode & stat.S_IRUSR:
            raise denied()
        found = [(b".", node), (b"..", node), *node.children.items()]
        self.listing += 1
        try:
            for start in range(0, len(found), BATCH):
                await self.turn()
                yield [_entry(name, each) for name, each in found[start : start + BATCH]]
        finally:
            self.listing -= 1

    async def open(self, path: bytes, mode: Mode) -> MemoryOpenFile:
        await self.turn()
        node, real = self.tree.walk(path, follow=not mode.exclusive)
        if node is None:
            if not mode.create:
                raise missing()
            node = Node(stat.S_IFREG | (0o644 if mode.permissions is None else mode.permissions & 0o777))
            self.tree.attach(real, node)
        else:
            if mode.create and mode.exclusive:
                raise exists()
            self._may_open(node, mode)
        if mode.truncate:
            node.content.resize(0)
        self.opened += 1
        return MemoryOpenFile(self, node, mode)

    async def make_directory(self, path: bytes, permissions: int | None) -> None:
        await self.turn()
        node, real = self.tree.walk(path, follow=False)
        if node is not None:
            raise exists()
        self.tree.attach(real, Node(stat.S_IFDIR | (0o755 if permissions is None else permissions & 0o777)))

    async def remove(self, path: bytes) -> None:
        await self.turn()
        node, real = self.tree.there(path, follow=False)
        if stat.S_ISDIR(node.mode):
            raise failed("is a directory")
        self.tree.detach(real)

    async def remove_directory(self, path: bytes) -> None:
        await self.turn()
        node, real = self.tree.there(path, follow=False)
        if not stat.S_ISDIR(node.mode):
            raise failed("not a directory", kind="no-such-file")
        if node.children:
            raise failed("directory not empty")
        self.tree.detach(real)

    async def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        await self.turn()
        moved, source = self.tree.there(old, follow=False)
        replaced, place = self.tree.walk(new, follow=False)
        if replaced is moved:
            return
        if place.startswith(source + b"/"):
            raise failed("invalid argument")
        if replaced is not None:
            if not overwrite:
                raise exists()
            if stat.S_ISDIR(replaced.mode) != stat.S_ISDIR(moved.mode):
                raise failed("is a directory" if stat.S_ISDIR(replaced.mode) else "not a directory")
            if replaced.children:
                raise failed("directory not empty")
            self.tree.detach(place)
        self.tree.detach(source)
        self.tree.attach(place, moved)

    async def read_link(self, path: bytes) -> bytes:
        await self.turn()
        node = self.tree.find(path, follow=False)
        if node.target is None:
            raise failed("invalid argument")
        return node.target

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self.turn()
        node, real = self.tree.walk(path, follow=False)
        if node is not None:
            raise exists()
        self.tree.attach(real, Node(stat.S_IFLNK | 0o777, target=target))

    async def hard_link(self, old: bytes, new: bytes) -> None:
        await self.turn()
        node = self.tree.find(old, follow=False)
        if stat.S_ISDIR(node.mode):
            raise denied()
        there, real = self.tree.walk(new, follow=False)
        if there is not None:
            raise exists()
        self.tree.attach(real, node)

    async def change(self, path: bytes, changes: Changes, *, follow: bool) -> None:
        await self.turn()
        self.apply(self.tree.find(path, follow=follow), changes)

    async def space(self, path: bytes) -> Space:
        await self.turn()
        self.tree.find(path, follow=True)
        free = (self.room - self.tree.used()) // BLOCK
        return Space(BLOCK, BLOCK, self.room // BLOCK, free, free, 1000, 900, 7, self.tree.read_only, LONGEST_NAME)

    # What an opened file needs of the whole.

    def take_room(self, node: Node, size: int) -> None:
        """See to it that a file may grow to a size."""
        if size > self.largest:
            raise failed("file too large")
        if self.tree.used() + max(0, size - node.content.size) > self.room:
            raise failed("no space left on device")

    def apply(self, node: Node, changes: Changes) -> None:
        """Change a node, all of it or nothing."""
        if self.tree.read_only:
            raise failed("read-only file system")
        if changes.owner is not None and changes.owner != (node.user, node.group):
            raise denied()
        if changes.size is not None:
            if stat.S_ISDIR(node.mode):
                raise failed("is a directory")
            if changes.size > self.largest:
                raise failed("file too large")
            node.content.resize(changes.size)
        if changes.permissions is not None:
            node.mode = stat.S_IFMT(node.mode) | changes.permissions
        if changes.times is not None:
            node.accessed, node.modified = changes.times

    def _may_open(self, node: Node, mode: Mode) -> None:
        if stat.S_ISDIR(node.mode):
            raise failed("is a directory")
        if mode.write and self.tree.read_only:
            raise failed("read-only file system")
        if (mode.write and not node.mode & stat.S_IWUSR) or (mode.read and not node.mode & stat.S_IRUSR):
            raise denied()


def _entry(name: bytes, node: Node) -> Entry:
    return Entry(name, node.attributes(), _NAMES.get(node.user, str(node.user)), _NAMES.get(node.group, ""))
