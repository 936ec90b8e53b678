"""Whatever bytes a client sends: an answer to each request or an end in words, and nothing left open or running."""

import asyncio
from dataclasses import dataclass
from typing import Final

from hypothesis import event, given, settings
from hypothesis import strategies as st

from bastion.errors import Malformed
from bastion.files import sftp_wire as wire
from bastion.files.sftp import serve_sftp
from bastion.files.sftp_wire import Kind, PacketReader
from bastion.model import STDIN, Data, Eof
from tests.unit.memory_files import MemoryFiles
from tests.unit.sftp.talker import HELLO, MemoryChannel

SECONDS = 20
ANSWERS: Final = frozenset((Kind.STATUS, Kind.HANDLE, Kind.DATA, Kind.NAME, Kind.ATTRS, Kind.EXTENDED_REPLY))
EXTENSIONS: Final = (
    b"posix-rename@openssh.com", b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"hardlink@openssh.com",
    b"fsync@openssh.com", b"lsetstat@openssh.com", b"limits@openssh.com", b"expand-path@openssh.com", b"copy-data",
    b"home-directory", b"none@example.com",
)  # fmt: skip

paths = st.sampled_from(
    [b"/app/a", b"/app/b", b"/app", b"/", b".", b"", b"link", b"ring", b"/app/../tmp/x", b"a\0b", b"/" + b"z" * 5000]
) | st.binary(max_size=40)
handles = st.integers(0, 8).map(lambda number: number.to_bytes(8, "big")) | st.binary(max_size=20)
sizes = st.integers(0, 200_000) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1])
words = st.integers(0, 2**32 - 1) | st.integers(0, 70_000) | st.integers(0, 63)

string, number = st.binary(max_size=300).map(wire.string), words.map(wire.number)
path, handle, long = paths.map(wire.string), handles.map(wire.string), sizes.map(wire.longs)
changed = st.one_of(
    st.just(wire.number(0)),
    st.builds(lambda a, b: wire.number(1 | 4) + wire.longs(a) + wire.number(b), sizes, words),
    st.builds(lambda a, b, c, d: wire.number(2 | 8) + b"".join(map(wire.number, (a, b, c, d))), *[words] * 4),
    st.builds(lambda a, b: wire.number(1 << 31) + wire.number(1) + a + b, string, string),
    st.binary(max_size=30),
)


def request(kind: int, *fields: "st.SearchStrategy[bytes]") -> "st.SearchStrategy[tuple[int, bytes]]":
    """Give requests of a kind without their numbers."""
    return st.tuples(st.just(kind), st.tuples(*fields).map(b"".join))


requests = st.one_of(
    request(Kind.OPEN, path, st.integers(0, 63).map(wire.number), changed),
    request(Kind.OPEN, path, st.just(wire.number(wire.READ | wire.WRITE | wire.CREATE)), st.just(wire.number(0))),
    request(Kind.OPENDIR, path),
    request(Kind.CLOSE, handle),
    request(Kind.READ, handle, long, number),
    request(Kind.WRITE, handle, long, st.integers(0, 40_000).map(lambda length: wire.string(bytes(length)))),
    request(Kind.READDIR, handle),
    request(Kind.FSTAT, handle),
    request(Kind.FSETSTAT, handle, changed),
    request(Kind.SETSTAT, path, changed),
    request(Kind.MKDIR, path, changed),
    *(request(kind, path) for kind in (Kind.LSTAT, Kind.STAT, Kind.REMOVE, Kind.RMDIR, Kind.REALPATH, Kind.READLINK)),
    *(request(kind, path, path) for kind in (Kind.RENAME, Kind.SYMLINK)),
    st.sampled_from(EXTENSIONS).flatmap(
        lambda name: st.one_of(
            request(Kind.EXTENDED, st.just(wire.string(name)), path, path),
            request(Kind.EXTENDED, st.just(wire.string(name)), handle, long, long, handle, long),
            request(Kind.EXTENDED, st.just(wire.string(name)), path, changed),
        )
    ),
    request(Kind.EXTENDED, path),
    st.tuples(st.integers(0, 255), st.binary(max_size=100)),
)


@dataclass(frozen=True)
class Ended:
    """How a conversation ended, and the numbers of the requests that were answered."""

    malformed: bool
    answered: list[int]


async def converse(stream: bytes, cut: int, *, says_end: bool) -> Ended:
    """Send a stream in pieces to a server of its own; nothing but what the contract allows comes of it."""
    files = MemoryFiles(room=1 << 20)
    files.largest = 1 << 20
    files.put(b"/app/a", b"content" * 1000)
    files.put(b"/app/b", b"", 0o400)
    await files.symlink(b"/app/a", b"link")
    await files.symlink(b"ring", b"ring")
    channel = MemoryChannel()
    for start in range(0, len(stream), cut):
        channel.coming.put_nowait(Data(STDIN, stream[start : start + cut]))
    channel.coming.put_nowait(Eof() if says_end else None)
    malformed = False
    try:
        async with asyncio.timeout(SECONDS):
            await serve_sftp(channel, files)
    except Malformed:
        malformed = True
    assert (files.opened, files.listing) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    answers, answered = PacketReader(), list[int]()
    while not channel.going.empty():
        answers.feed(channel.going.get_nowait())
    while (answer := answers.take()) is not None:
        if answer.kind == Kind.VERSION:
            assert not answered
        else:
            assert answer.kind in ANSWERS
            answered.append(answer.number())
    assert answers.is_between
    return Ended(malformed, answered)


def conversation(asked: list[tuple[int, bytes]]) -> bytes:
    """Return a conversation of these requests, numbered from 1."""
    numbered = enumerate(asked, start=1)
    return HELLO + b"".join(wire.packet(kind, wire.number(number), body) for number, (kind, body) in numbered)


@given(asked=st.lists(requests, max_size=25), cut=st.integers(1, 70_000))
@settings(max_examples=300)
def test_each_request_is_answered_in_its_turn(asked: list[tuple[int, bytes]], cut: int) -> None:
    """Any requests, in any order, with any fields: one answer for each in order, up to one that cannot be read."""
    ended = asyncio.run(converse(conversation(asked), cut, says_end=True))
    event("malformed" if ended.malformed else "whole")
    assert ended.answered == list(range(1, len(ended.answered) + 1))
    assert ended.malformed or len(ended.answered) == len(asked)


@given(
    asked=st.lists(requests, min_size=1, max_size=12),
    changes=st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=6), st.integers(0, 6)), max_size=6),
    left=st.integers(0, 2**20) | st.none(),
    cut=st.integers(1, 5000),
    says_end=st.booleans(),
)
@settings(max_examples=300)
def test_a_mangled_conversation_ends(
    asked: list[tuple[int, bytes]], changes: list[tuple[int, bytes, int]], left: int | None, cut: int, *, says_end: bool
) -> None:
    """Bytes changed, put in, taken out or cut off at the end: it is over, in words where it was no SFTP."""
    stream = bytearray(conversation(asked))
    for place, put_in, taken_out in changes:
        start = place % len(stream)
        stream[start : start + taken_out] = put_in
        if not stream:
            return
    asyncio.run(converse(bytes(stream[: None if left is None else left % len(stream)]), cut, says_end=says_end))


@given(stream=st.binary(max_size=2000), cut=st.integers(1, 300), says_end=st.booleans(), greets=st.booleans())
@settings(max_examples=200)
def test_noise_ends(stream: bytes, cut: int, *, says_end: bool, greets: bool) -> None:
    """Noise is no conversation, with a proper greeting before it or without."""
    asyncio.run(converse((HELLO if greets else b"") + stream, cut, says_end=says_end))


@given(length=st.integers(52, 2**32 - 1), kind=st.integers(0, 255))
def test_lengths_that_lie_end_it(length: int, kind: int) -> None:
    """A packet that says it is longer than what follows is waited for until the client has ended, and is no SFTP."""
    stream = HELLO + wire.number(length) + bytes([kind]) + bytes(50)
    assert asyncio.run(converse(stream, 64, says_end=True)) == Ended(malformed=True, answered=[])
