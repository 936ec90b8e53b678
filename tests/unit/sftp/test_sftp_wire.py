"""The packets of SFTP: whole again from any pieces, bounded, and nothing taken for granted of what is in them."""

import stat
import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import FileFailed, Malformed
from bastion.files import Attributes, Changes, Entry
from bastion.files import sftp_wire as wire
from bastion.files.sftp_listing import BATCH_BYTES, long_name, names
from bastion.files.sftp_wire import Fields, Kind, PacketReader, Status

NOW = 1_700_000_000.0  # 14 November 2023
DAY = 86400
FILE = Attributes(stat.S_IFREG | 0o644, 12, 0, 1000, 1, int(NOW) - 60)


@given(
    packets=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20_000)), max_size=20),
    cuts=st.lists(st.integers(1, 9000), min_size=1, max_size=30),
)
def test_packets_are_whole_again(packets: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """However a stream is cut, the same packets come out of it, and what is held is what has not come out."""
    stream = b"".join(wire.packet(kind, body) for kind, body in packets)
    reader, found, position, turn = PacketReader(), [], 0, 0
    while position < len(stream):
        length = cuts[turn % len(cuts)]
        reader.feed(stream[position : position + length])
        position, turn = position + length, turn + 1
        while (packet := reader.take()) is not None:
            found.append((packet.kind, bytes(packet._view)))  # noqa: SLF001 - all of it, for once
    assert found == packets
    assert reader.is_between
    assert reader.held == 0


def test_many_small_pieces_are_few() -> None:
    """A sender of single bytes does not make us hold an object for each of them."""
    reader = PacketReader()
    for _ in range(100_000):
        reader.feed(b"x")
    assert reader.held == 100_000
    assert len(reader._pieces) < 50  # noqa: SLF001 - this is what is meant


def test_a_packet_that_came_whole_is_not_copied() -> None:
    """What WRITE brings is a view into the bytes that arrived, when they arrived together."""
    arrived = wire.packet(Kind.WRITE, wire.number(1), wire.string(b"h"), wire.longs(0), wire.string(b"content"))
    reader = PacketReader()
    reader.feed(arrived)
    packet = reader.take()
    assert packet is not None
    assert (packet.number(), packet.string(), packet.long()) == (1, b"h", 0)
    view = packet.view()
    assert bytes(view) == b"content"
    assert view.obj is arrived


@pytest.mark.parametrize("length", [0, wire.LONGEST_PACKET + 1, 2**32 - 1])
def test_impossible_lengths_are_refused(length: int) -> None:
    """A packet of no length, or of more than any has, is refused when its head is there, before it is held."""
    reader = PacketReader()
    reader.feed(struct.pack(">I", length))
    with pytest.raises(Malformed, match=str(length)):
        reader.take()


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x05fou"])
def test_what_is_not_there_is_not_read(body: bytes) -> None:
    """A string or attributes that the packet ends inside of are refused."""
    with pytest.raises(Malformed):
        Fields(1, memoryview(body)).string()
    with pytest.raises(Malformed):
        Fields(1, memoryview(body)).changes()
    with pytest.raises(Malformed):
        Fields(1, memoryview(body)).long()


@pytest.mark.parametrize("body", [b"\0\0\0\x01" + bytes(7), b"\x80\0\0\0\xff\xff\xff\xff" + bytes(4000)])
def test_attributes_end_where_the_packet_does(body: bytes) -> None:
    """Half a size is refused, and so are four thousand million attributes of a vendor."""
    with pytest.raises(Malformed):
        Fields(1, memoryview(body)).changes()


def test_attributes_there_and_back() -> None:
    """Attributes are what was packed; those of vendors are passed over, and what fits no field is the nearest."""
    packed = wire.attributes(Attributes(stat.S_IFREG | 0o4755, 2**40, 1, 2, 3, 4))
    assert Fields(1, memoryview(packed)).changes() == Changes(2**40, 0o4755, (1, 2), (3, 4))
    extended = wire.number(1 << 31 | 4) + wire.number(0o100600) + wire.number(1) + wire.string(b"a") + wire.string(b"b")
    fields = Fields(1, memoryview(extended + b"rest"))
    assert fields.changes() == Changes(permissions=0o600)
    assert fields.left == 4
    lies = wire.attributes(Attributes(2**40, -5, -1, 2**70, -(2**40), 2**33))
    assert Fields(1, memoryview(lies)).changes() == Changes(0, 0o7777, (0, 2**32 - 1), (0, 2**32 - 1))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("no-such-file", Status.NO_SUCH_FILE),
        ("permission-denied", Status.PERMISSION_DENIED),
        ("unsupported", Status.OP_UNSUPPORTED),
        ("failure", Status.FAILURE),
    ],
)
def test_a_failure_keeps_its_words(kind: str, status: Status) -> None:
    """Each kind of failure has its status, with the words and the hint beside it."""
    reader = PacketReader()
    reader.feed(wire.failure(7, FileFailed("it broke", "mend it", kind=kind)))  # type: ignore[arg-type] # one of them
    packet = reader.take()
    assert packet is not None
    assert (packet.kind, packet.number(), packet.number(), packet.string()) == (
        Kind.STATUS, 7, status, b"it broke; mend it",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        (FILE, b"-rw-r--r--    1 root     app            12 Nov 14 22:12 a b"),
        (Attributes(stat.S_IFDIR | 0o1777, 4096, 5, 6, 0, int(NOW) - 200 * DAY, 17),
         b"drwxrwxrwt   17 root     app          4096 Apr 28  2023 a b"),
        (Attributes(stat.S_IFLNK | 0o777, 1 << 40, 5, 6, 0, int(NOW) + DAY),
         b"lrwxrwxrwx    1 root     app      1099511627776 Nov 15  2023 a b"),
        (Attributes(stat.S_IFCHR | 0o4700, 0, 5, 6, 0, -5),
         b"crws------    1 root     app             0 Jan  1  1970 a b"),
        (Attributes(2**50, 0, 5, 6, 0, 2**60),
         b"?---------    1 root     app             0 Feb  7  2106 a b"),
    ],
)  # fmt: skip
def test_long_names_are_those_of_ls(attributes: Attributes, line: bytes) -> None:
    """A change in the last half year has its time of day, any other its year; impossible values do no harm."""
    assert long_name(Entry(b"a b", attributes, "root", "app"), NOW) == line


def test_owners_without_names_are_numbers() -> None:
    """Where the container knows no name the number stands, and a name is not longer than a line bears."""
    assert b" 0        1000    " in long_name(Entry(b"x", FILE), NOW)
    assert len(long_name(Entry(b"x", FILE, "u" * 500, "g" * 500), NOW)) < 150


def test_a_folder_comes_in_packets_that_every_client_takes() -> None:
    """No answer to READDIR is longer than 34000 bytes, whatever the names, and none of them is left out."""
    entries = [Entry(b"%03d" % number + bytes(200), FILE) for number in range(500)]
    waiting, found = deque(entries), list[bytes]()
    while waiting:
        answer = names(1, waiting, NOW)
        assert len(answer) <= BATCH_BYTES + 100 < 34000
        reader = PacketReader()
        reader.feed(answer)
        packet = reader.take()
        assert packet is not None
        assert (packet.kind, packet.number()) == (Kind.NAME, 1)
        for _ in range(packet.number()):
            found.append(packet.string())
            assert packet.string().endswith(found[-1])
            packet.changes()
        assert not packet.left
    assert found == [entry.name for entry in entries]
