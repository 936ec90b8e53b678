"""What the tree of files in memory is made of: nodes, and contents that may be sparse."""

import stat
import time
from dataclasses import dataclass, field
from typing import Literal

from bastion.errors import FileFailed
from bastion.files import Attributes

MOST_BYTES = 1 << 40
LARGEST_FILE = 1 << 44
PAGE = 64 * 1024
LONGEST_NAME = 255
_LONGEST_PATH = 4096
_LINKS_FOLLOWED = 40
_SIZE_OF_A_FOLDER = 4096

Kind = Literal["no-such-file", "permission-denied", "unsupported", "failure"]


def failed(words: str, *, kind: Kind = "failure") -> FileFailed:
    """Return a failure in the words of the C library, which fit behind a path."""
    return FileFailed(words, kind=kind)


def missing() -> FileFailed:
    """Return the failure of a path that leads to nothing."""
    return failed("no such file or directory", kind="no-such-file")


def denied() -> FileFailed:
    """Return the failure of what the user may not do."""
    return failed("permission denied", kind="permission-denied")


def exists() -> FileFailed:
    """Return the failure of what needs a free name."""
    return failed("file exists")


class Content:
    """Bytes in pages, of which only those that were written are held."""

    def __init__(self) -> None:
        self.size = 0
        self._pages: dict[int, bytearray] = {}

    @property
    def held(self) -> int:
        """How much room it takes."""
        return len(self._pages) * PAGE

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there, b"" at the end."""
        end = min(self.size, offset + length)
        pieces = []
        while offset < end:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, end - offset)
            page = self._pages.get(number)
            pieces.append(bytes(page[start : start + count]) if page is not None else bytes(count))
            offset += count
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Put data there, behind a hole where it begins after the end."""
        view = memoryview(data)
        self.size = max(self.size, offset + len(view) if view else 0)
        while view:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, len(view))
            self._pages.setdefault(number, bytearray(PAGE))[start : start + count] = view[:count]
            view, offset = view[count:], offset + count

    def resize(self, size: int) -> None:
        """Cut it off, or let it go on in zeros."""
        last, kept = divmod(size, PAGE)
        for number in [number for number in self._pages if number > last or (number == last and not kept)]:
            del self._pages[number]
        if last in self._pages:
            self._pages[last][kept:] = bytes(PAGE - kept)
        self.size = size


@dataclass(eq=False)
class Node:
    """A file, a folder or a symbolic link, owned by the session's user."""

    mode: int
    user: int = 1000
    group: int = 1000
    links: int = 0
    target: bytes | None = None
    content: Content = field(default_factory=Content)
    children: "dict[bytes, Node]" = field(default_factory=dict)
    accessed: int = field(default_factory=lambda: int(time.time()))
    modified: int = field(default_factory=lambda: int(time.time()))

    def attributes(self) -> Attributes:
        """Return what stat says."""
        size = _SIZE_OF_A_FOLDER if stat.S_ISDIR(self.mode) else len(self.target or b"") or self.content.size
        return Attributes(self.mode, size, self.user, self.group, self.accessed, self.modified, self.links)


class Tree:
    """Nodes by their paths, with links followed; `home` is where relative paths start."""

    def __init__(self, home: bytes) -> None:
        self.home = home
        self.root = Node(stat.S_IFDIR | 0o755)
        self.read_only = False

    def folder(self, path: bytes) -> Node:
        """Return a folder, made with what is above it where it is not there."""
        node = self.root
        for name in path.split(b"/"):
            if name:
                node = node.children.setdefault(name, Node(stat.S_IFDIR | 0o755, links=1))
        return node

    def used(self) -> int:
        """Return how much room the files take, each counted once."""
        folders, seen = [self.root], set[Node]()
        while folders:
            for node in folders.pop().children.values():
                if stat.S_ISDIR(node.mode):
                    folders.append(node)
                seen.add(node)
        return sum(node.content.held for node in seen)

    def find(self, path: bytes, *, follow: bool) -> Node:
        """Return what is at a path, which has to be there."""
        return self.there(path, follow=follow)[0]

    def there(self, path: bytes, *, follow: bool) -> tuple[Node, bytes]:
        """Return what is at a path, which has to be there, and its real path."""
        node, real = self.walk(path, follow=follow)
        if node is None:
            raise missing()
        return node, real

    def walk(self, path: bytes, *, follow: bool) -> tuple[Node | None, bytes]:
        """Return what is at a path, None where nothing is, and its real path."""
        assert b"\0" not in path
        if len(path) >= _LONGEST_PATH:
            raise failed("file name too long")
        todo = [name for name in (path if path.startswith(b"/") else self.home + b"/" + path).split(b"/") if name]
        trail: list[tuple[bytes, Node | None]] = [(b"", self.root)]
        followed = 0
        while todo:
            name, node = todo.pop(0), trail[-1][1]
            if name == b".":
                continue
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            if len(name) > LONGEST_NAME:
                raise failed("file name too long")
            if node is not None and not stat.S_ISDIR(node.mode):
                raise failed("not a directory", kind="no-such-file")
            below = node.children.get(name) if node is not None else None
            if below is not None and below.target is not None and (todo or follow):
                followed += 1
                if followed > _LINKS_FOLLOWED:
                    raise failed("too many levels of symbolic links", kind="no-such-file")
                todo[:0] = [part for part in below.target.split(b"/") if part]
                trail = trail[:1] if below.target.startswith(b"/") else trail
            else:
                trail.append((name, below))
        return trail[-1][1], b"/".join(name for name, _ in trail) or b"/"

    def _above(self, real: bytes) -> tuple[Node, bytes]:
        above, _, name = real.rpartition(b"/")
        node, _ = self.walk(above or b"/", follow=False)
        if node is None or not name:
            raise missing()
        if self.read_only:
            raise failed("read-only file system")
        if not node.mode & stat.S_IWUSR:
            raise denied()
        return node, name

    def attach(self, real: bytes, node: Node) -> None:
        """Give a node a free name."""
        above, name = self._above(real)
        above.children[name] = node
        node.links += 1

    def detach(self, real: bytes) -> None:
        """Take a name away."""
        above, name = self._above(real)
        above.children.pop(name).links -= 1
