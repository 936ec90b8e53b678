"""Cuts up one direction of an SFTP conversation for whoever reads along: heads whole, contents as they come."""

from collections.abc import Callable, Iterator
from typing import Final

from bastion.errors import Malformed
from bastion.files.sftp_wire import LONGEST_PACKET, Fields, Kind

LONGEST_HANDLE: Final = 256

_LENGTH: Final = 4
_KIND: Final = 5  # bytes, up to and with what it is
_REQUEST: Final = 9  # up to and with the request's number
_COUNT: Final = 13  # up to and with the number behind it, the length of a string


class Contents:
    """A piece of a file's contents, of the packet whose head came last; `left` bytes of it are still to come."""

    __slots__ = ("left", "payload")

    def __init__(self, payload: bytes, left: int) -> None:
        self.payload = payload
        self.left = left


class Cutter:
    """Takes bytes in any pieces. `head` tells from a packet's length and first bytes how many belong to its head.

    Of a packet whose contents are nobody's concern the head is all that is given. No more than a head is held.
    """

    def __init__(self, head: Callable[[int, bytearray], int]) -> None:
        self._head_of = head
        self._head = bytearray()
        self._needed = _LENGTH
        self._length = 0  # of the packet, with its length
        self._left = 0  # of the contents
        self._given = False  # whether the contents are given

    @property
    def is_between(self) -> bool:
        """Whether no packet has begun."""
        return not self._head and not self._left

    @property
    def left(self) -> int:
        """How many bytes of the packet whose head came last are still to come."""
        return self._left

    def cut(self, data: bytes) -> Iterator[Fields | Contents]:
        """Give what the bytes complete.

        Raises:
            Malformed: they are no SFTP.
        """
        start = 0
        while start < len(data):
            if self._left:
                end = min(start + self._left, len(data))
                self._left -= end - start
                if self._given:
                    yield Contents(data[start:end], self._left)
            else:
                end = min(start + self._needed - len(self._head), len(data))
                self._head += data[start:end]
                if len(self._head) == self._needed and self._is_whole():
                    yield from self._take_head()
            start = end

    def _is_whole(self) -> bool:
        """Tell whether the head is there; else note how much of it is needed next."""
        if self._needed == _LENGTH:
            length = int.from_bytes(self._head, "big")
            if not 0 < length <= LONGEST_PACKET:
                raise Malformed(f"an SFTP packet says that it has {length} bytes")
            self._length = _LENGTH + length
            self._needed = _KIND
            return False
        self._needed = self._head_of(self._length, self._head)
        if self._needed > self._length:
            raise Malformed("an SFTP packet ends before it says what it is about")
        return self._needed == len(self._head)

    def _take_head(self) -> Iterator[Fields | Contents]:
        kind, body = self._head[_LENGTH], bytes(self._head[_KIND:])
        self._left = self._length - len(self._head)
        self._given = kind in {Kind.WRITE, Kind.DATA}
        self._head.clear()
        self._needed = _LENGTH
        yield Fields(kind, memoryview(body))
        if self._given and not self._left:
            yield Contents(b"", 0)


def request_head(length: int, head: bytearray) -> int:
    """Return how much of a client's packet is its head: up to the contents in a WRITE, all of any other."""
    if head[_LENGTH] != Kind.WRITE:
        return length
    if len(head) < _COUNT:
        return _COUNT
    handle = int.from_bytes(head[_REQUEST:_COUNT], "big")
    if handle > LONGEST_HANDLE:
        raise Malformed("an SFTP handle is overly long")
    return _COUNT + handle + 12  # the offset, and the length of the contents


def answer_head(length: int, head: bytearray) -> int:
    """Return how much of a server's packet is its head: up to the contents of DATA, and of lists just the number."""
    kind = head[_LENGTH]
    if kind == Kind.DATA:
        return _COUNT
    if kind in {Kind.NAME, Kind.ATTRS, Kind.EXTENDED_REPLY}:
        return _REQUEST
    if kind == Kind.STATUS:
        return _COUNT  # its words are the container's
    return min(length, _COUNT + LONGEST_HANDLE) if kind == Kind.HANDLE else min(length, _REQUEST)
