"""The packets of SFTP version 3, taken apart and put together (draft-ietf-secsh-filexfer-02, and OpenSSH's own).

It serves both ends: the server here, and whoever reads another's conversation along. A packet's contents are handed
out as views into the bytes that arrived; only one that came in pieces is put together, once.
"""

from collections import deque
from enum import IntEnum
from struct import Struct
from typing import Final

from bastion.errors import FileFailed, Malformed
from bastion.files import Attributes, Changes, Mode

VERSION: Final = 3
LONGEST_PACKET: Final = 256 * 1024 + 1024
LONGEST_DATA: Final = 255 * 1024

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
"""The flags of OPEN."""

_SMALL_PIECE = 4096
_SIZE, _OWNER, _PERMISSIONS, _TIMES, _EXTENDED = 1, 2, 4, 8, 1 << 31
_ALL = _SIZE | _OWNER | _PERMISSIONS | _TIMES
_U32, _U64 = Struct(">I"), Struct(">Q")
_HEAD = Struct(">IB")
_ANSWER = Struct(">IBI")
_COUNTED = Struct(">IBII")
_ATTRIBUTES = Struct(">IQIIIII")
_MOST_U32, _MOST_U64 = 2**32 - 1, 2**64 - 1


class Kind(IntEnum):
    """What a packet is."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


_STATUSES: Final = {
    "no-such-file": Status.NO_SUCH_FILE,
    "permission-denied": Status.PERMISSION_DENIED,
    "unsupported": Status.OP_UNSUPPORTED,
    "failure": Status.FAILURE,
}


class Fields:
    """What is left of a packet's contents, taken from the front; every method raises Malformed where it is not there.

    `kind` is the packet's type, which may be one that nobody knows.
    """

    __slots__ = ("_position", "_view", "kind")

    def __init__(self, kind: int, view: memoryview) -> None:
        self.kind = kind
        self._view = view
        self._position = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._view) - self._position

    def rewind(self) -> None:
        """Begin again at the front."""
        self._position = 0

    def number(self) -> int:
        """Take 32 bits."""
        return self._unpack(_U32)

    def long(self) -> int:
        """Take 64 bits."""
        return self._unpack(_U64)

    def view(self) -> memoryview:
        """Take a string, without copying it."""
        length = self.number()
        start = self._position
        self._position += length
        if self._position > len(self._view):
            raise Malformed("an SFTP packet ends inside a string")
        return self._view[start : self._position]

    def string(self) -> bytes:
        """Take a string."""
        return bytes(self.view())

    def changes(self) -> Changes:
        """Take attributes as what is to be changed; those of vendors are passed over."""
        flags = self.number()
        size = self.long() if flags & _SIZE else None
        owner = (self.number(), self.number()) if flags & _OWNER else None
        permissions = self.number() & 0o7777 if flags & _PERMISSIONS else None
        times = (self.number(), self.number()) if flags & _TIMES else None
        for _ in range(2 * self.number() if flags & _EXTENDED else 0):
            self.view()
        return Changes(size, permissions, owner, times)

    def _unpack(self, form: Struct) -> int:
        start = self._position
        self._position += form.size
        if self._position > len(self._view):
            raise Malformed("an SFTP packet ends inside a number")
        value: int = form.unpack_from(self._view, start)[0]
        return value


class PacketReader:
    """Bytes in any pieces become packets; `held` bytes wait to be taken."""

    def __init__(self, longest: int = LONGEST_PACKET) -> None:
        self._longest = longest
        self._pieces: deque[bytes] = deque()
        self._position = 0  # in the first piece
        self._length: int | None = None  # of the packet whose head has been taken
        self.held = 0

    @property
    def is_between(self) -> bool:
        """Whether no part of a packet is held."""
        return not self.held and self._length is None

    def feed(self, data: bytes) -> None:
        """Take what arrived; small pieces become one, so that no sender can make many of few bytes."""
        if not data:
            return
        self.held += len(data)
        if self._pieces and len(data) < _SMALL_PIECE and len(self._pieces[-1]) < _SMALL_PIECE:
            self._pieces[-1] += data
        else:
            self._pieces.append(data)

    def take(self) -> Fields | None:
        """Return the next packet, or None while it is not whole.

        Raises:
            Malformed: it says that it is longer than any packet may be, or of no length at all.
        """
        if self._length is None:
            if self.held < _U32.size:
                return None
            length: int = _U32.unpack(self._pull(_U32.size))[0]
            if not 0 < length <= self._longest:
                raise Malformed(f"an SFTP packet says that it has {length} bytes")
            self._length = length
        if self.held < self._length:
            return None
        body = self._pull(self._length)
        self._length = None
        return Fields(body[0], body[1:])

    def _pull(self, count: int) -> memoryview:
        """Take bytes that are held."""
        self.held -= count
        found = []
        while True:
            piece, start = self._pieces[0], self._position
            end = start + count
            if end < len(piece):
                self._position = end
                found.append(memoryview(piece)[start:end])
                break
            found.append(memoryview(piece)[start:])
            self._pieces.popleft()
            self._position = 0
            count = end - len(piece)
            if not count:
                break
        return found[0] if len(found) == 1 else memoryview(b"".join(found))


def mode(flags: int, permissions: int | None) -> Mode:
    """Return how OPEN wants a file opened; one that is neither read nor written is read."""
    write = bool(flags & WRITE)
    return Mode(
        read=bool(flags & READ) or not write,
        write=write,
        append=write and bool(flags & APPEND),
        create=bool(flags & CREATE),
        truncate=bool(flags & TRUNCATE),
        exclusive=bool(flags & EXCLUSIVE),
        permissions=permissions,
    )


def packet(kind: int, *parts: bytes) -> bytes:
    """Return a packet of these parts."""
    return b"".join((_HEAD.pack(1 + sum(map(len, parts)), kind), *parts))


def string(value: bytes) -> bytes:
    """Return bytes with their length before them."""
    return _U32.pack(len(value)) + value


def number(value: int) -> bytes:
    """Return 32 bits."""
    return _U32.pack(value)


def longs(*values: int) -> bytes:
    """Return 64 bits for each value; one that does not fit becomes the nearest that does."""
    return b"".join(_U64.pack(min(max(value, 0), _MOST_U64)) for value in values)


def attributes(value: Attributes | None) -> bytes:
    """Return attributes, none of them for None; a value that does not fit becomes the nearest that does."""
    if value is None:
        return bytes(4)
    words = (value.user, value.group, value.mode, value.accessed, value.modified)
    size = min(max(value.size, 0), _MOST_U64)
    return _ATTRIBUTES.pack(_ALL, size, *(min(max(word, 0), _MOST_U32) for word in words))


def answer(kind: Kind, request: int, *parts: bytes) -> bytes:
    """Return the packet that answers a request by its number."""
    return b"".join((_ANSWER.pack(5 + sum(map(len, parts)), kind, request), *parts))


def data(request: int, pieces: list[bytes]) -> bytes:
    """Return the answer to READ."""
    length = sum(map(len, pieces))
    return b"".join((_COUNTED.pack(9 + length, Kind.DATA, request, length), *pieces))


def status(request: int, code: Status, words: str = "") -> bytes:
    """Return the answer that says how a request ended."""
    return answer(Kind.STATUS, request, number(code), string(words.encode(errors="replace")), string(b"en"))


def failure(request: int, error: FileFailed) -> bytes:
    """Return the answer to a request that failed, in words."""
    words = f"{error.public}; {error.hint}" if error.hint else error.public
    return status(request, _STATUSES[error.kind], words)
