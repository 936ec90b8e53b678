"""Clients and servers that break the protocol, or try to pass what is not on record: the reading ends, and says so."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bastion.config import SessionsSettings
from bastion.errors import Malformed
from bastion.files import sftp_wire as wire
from bastion.files.observed import Observed
from bastion.files.observer import MOST_HANDLES, MOST_PENDING, Observer
from bastion.files.sftp_wire import Kind, Status
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Event, Exit, FileOperation, Recorded
from bastion.sessions import Sessions
from tests.unit.observer.conversation import IDENTITY, REQUEST, TARGET, operations

INIT = wire.packet(Kind.INIT, wire.number(3))
VERSION = wire.packet(Kind.VERSION, wire.number(3))
NO_ATTRIBUTES = wire.number(0)
ODD_ANSWERS = [
    wire.answer(Kind.HANDLE, 1, wire.string(b"h")),
    wire.data(1, [b"x"]),
    wire.answer(Kind.NAME, 1, wire.number(0)),
    wire.answer(Kind.ATTRS, 1, NO_ATTRIBUTES),
    wire.answer(Kind.EXTENDED_REPLY, 1),
]


def _open(number: int, path: bytes, flags: int = wire.READ) -> bytes:
    return wire.answer(Kind.OPEN, number, wire.string(path), wire.number(flags), NO_ATTRIBUTES)


def _read(number: int, handle: bytes, offset: int) -> bytes:
    return wire.answer(Kind.READ, number, wire.string(handle), wire.longs(offset), wire.number(10))


def _write(number: int, handle: bytes, offset: int, content: bytes) -> bytes:
    return wire.answer(Kind.WRITE, number, wire.string(handle), wire.longs(offset), wire.string(content))


def _close(number: int, handle: bytes) -> bytes:
    return wire.answer(Kind.CLOSE, number, wire.string(handle))


def _handle(number: int, handle: bytes) -> bytes:
    return wire.answer(Kind.HANDLE, number, wire.string(handle))


def _begun(*opened: bytes, flags: int = wire.READ | wire.WRITE) -> Observer:
    """Return an observer of a conversation with these files open, each under its own name as a handle."""
    observer = Observer()
    observer.client(INIT)
    observer.server(VERSION)
    for name in opened:
        observer.client(_open(1, name, flags))
        observer.server(_handle(1, name))
    return observer


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n",
        wire.packet(Kind.VERSION, wire.number(3)),
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        INIT + INIT,
        INIT + wire.answer(Kind.STATUS, 1, wire.number(0)),
        INIT + wire.packet(99, wire.number(1)),
        INIT + wire.packet(Kind.OPEN),
        INIT + wire.answer(Kind.OPEN, 1, wire.number(100), b"short"),
        INIT + _write(1, b"unknown", 0, b"smuggled"),
        INIT + _write(1, b"h" * 300, 0, b""),
        INIT + wire.answer(Kind.WRITE, 1, wire.string(b"h"), wire.longs(0), wire.number(5), b"123456"),
        INIT + _read(1, b"h", 0) * 2,
    ],
)
def test_a_client_that_speaks_something_else_is_cut(said: bytes) -> None:
    """Bytes of a client that are no SFTP, or contents for what is not open, are not to be delivered."""
    with pytest.raises(Malformed):
        Observer().client(said)


def test_contents_of_another_length_than_said_are_cut() -> None:
    """A WRITE and a DATA have to have as many bytes as they say."""
    with pytest.raises(Malformed):
        _begun(b"h").client(wire.answer(Kind.WRITE, 1, wire.string(b"h"), wire.longs(0), wire.number(5), b"123456"))
    observer = _begun(b"h")
    observer.client(_read(1, b"h", 0))
    with pytest.raises(Malformed):
        observer.server(wire.answer(Kind.DATA, 1, wire.number(5), b"1234"))


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (_open(1, b"f"), 0),
        (wire.answer(Kind.OPENDIR, 1, wire.string(b"f")), 0),
        (_read(1, b"h", 0), 1),
        (wire.answer(Kind.READLINK, 1, wire.string(b"f")), 2),
        (wire.answer(Kind.STAT, 1, wire.string(b"f")), 3),
        (wire.answer(Kind.REMOVE, 1, wire.string(b"f")), None),
        (_close(1, b"h"), None),
        (_write(1, b"h", 0, b"x"), None),
    ],
)
def test_an_answer_of_the_wrong_kind_is_cut(request_: bytes, allowed: int | None) -> None:
    """A server answers a request by what belongs to it, so that nothing passes under another name."""
    for number, answer in enumerate(ODD_ANSWERS):
        observer = _begun(b"h")
        observer.client(request_)
        if number == allowed:
            observer.server(answer.replace(b"\x01h", b"\x01g"))
            continue
        with pytest.raises(Malformed):
            observer.server(answer)


@pytest.mark.parametrize(
    "said",
    [
        b"Welcome!\n",
        wire.packet(Kind.VERSION, wire.number(6)),
        wire.status(1, Status.OK),
        VERSION + wire.status(1, Status.OK),
        VERSION + wire.data(7, [b"smuggled"]),
        VERSION + VERSION,
    ],
)
def test_a_server_that_speaks_something_else_is_cut(said: bytes) -> None:
    """Bytes of a server that are no SFTP version 3, or answer nothing, are not to be delivered."""
    observer = Observer()
    observer.client(INIT)
    with pytest.raises(Malformed):
        observer.server(said)


def test_handles_that_lie_are_cut() -> None:
    """A handle that is open already, an overly long one, and one to no file that could be are not taken."""
    for handle, path in ((b"h", b"f"), (b"x" * 257, b"f"), (b"g", b"f" * 5000)):
        observer = _begun(b"h")
        observer.client(_open(1, path))
        with pytest.raises(Malformed):
            observer.server(_handle(1, handle))
    observer = _begun(b"h")
    observer.client(_open(1, b"f"))
    with pytest.raises(Malformed):
        observer.server(wire.status(1, Status.OK))


def test_what_is_open_and_asked_is_bounded() -> None:
    """Neither more than 1024 files, nor requests or paths without end, are remembered."""
    observer = _begun(*(b"%d" % number for number in range(MOST_HANDLES)))
    observer.client(_open(1, b"one more"))
    with pytest.raises(Malformed, match="more than 1024 files"):
        observer.server(_handle(1, b"more"))
    for ask in (lambda number: _close(number, b""), lambda number: _open(number, b"x" * 200_000)):
        observer = _begun()
        _fill(observer, ask)
        assert observer.is_behind
        with pytest.raises(Malformed):
            _fill(observer, ask, start=100_000)


def _fill(observer: Observer, ask: Callable[[int], bytes], start: int = 0) -> None:
    """Ask until the observer is behind, or goes on no longer; from a later start, as often again as it can bear."""
    for number in range(start, start + 40 * MOST_PENDING):
        if observer.is_behind and not start:
            return
        observer.client(ask(number))


def test_answers_in_another_order_are_summed_up_at_the_last() -> None:
    """A file is summed up when it is closed and all that was asked before is answered, in whatever order."""
    observer = _begun(b"h")
    observer.client(_read(1, b"h", 0) + _read(2, b"h", 3) + _close(3, b"h"))
    assert operations(observer.server(wire.status(3, Status.OK) + wire.data(2, [b"def"]))) == []
    noted = operations(observer.server(wire.data(1, [b"abc"])))
    assert noted == [
        FileOperation(
            "read", b"h", size=6, sha256=hashlib.sha256(b"defabc").hexdigest(), stream=3, note="not in the file's order"
        )
    ]
    assert observer.finish() == []


def test_failures_are_told_of_what_passed() -> None:
    """A read or write that fails is the result of the whole; the end of the file is none."""
    observer = _begun(b"h")
    observer.client(_write(1, b"h", 0, b"abc") + _write(2, b"h", 3, b"") + _read(3, b"h", 0) + _close(4, b"h"))
    noted = observer.server(
        wire.status(1, Status.FAILURE) + wire.status(2, Status.PERMISSION_DENIED)
        + wire.status(3, Status.EOF) + wire.status(4, Status.OK)
    )  # fmt: skip
    empty, written = (hashlib.sha256(content).hexdigest() for content in (b"", b"abc"))
    assert noted == [
        FileOperation("read", b"h", size=0, sha256=empty, stream=3),
        FileOperation("write", b"h", "failure", size=3, sha256=written, stream=4),
    ]


def test_what_is_appended_is_in_order_whatever_the_offset() -> None:
    """A file opened for appending is written in the order of its pieces."""
    observer = _begun(b"h", flags=wire.WRITE | wire.APPEND)
    observer.client(_write(1, b"h", 0, b"a") + _write(2, b"h", 0, b"b") + _close(3, b"h"))
    noted = operations(observer.server(b"".join(wire.status(number, Status.OK) for number in (1, 2, 3))))
    assert [(each.size, each.note) for each in noted] == [(2, "")]


def test_what_was_open_at_the_end_is_cut_off() -> None:
    """When a conversation ends, files that are open and requests without an answer are noted as cut off, once."""
    observer = _begun(b"h", b"g")
    observer.client(
        _write(1, b"h", 0, b"abc") + _close(2, b"h") + wire.answer(Kind.REMOVE, 3, wire.string(b"gone")) + b"\0\0"
    )
    noted = operations(observer.finish())
    assert {(each.operation, each.path, each.result, each.size) for each in noted} == {
        ("remove", b"gone", "cut off", None),
        ("write", b"h", "cut off", 3),
        ("write", b"g", "cut off", 0),
    }
    assert observer.finish() == []


def test_what_was_done_before_it_broke_is_noted() -> None:
    """What a server had done is on record, although the bytes that tell it go on with what is no SFTP."""
    observer = _begun()
    observer.client(wire.answer(Kind.REMOVE, 1, wire.string(b"f")))
    with pytest.raises(Malformed):
        observer.server(wire.status(1, Status.OK) + b"\0\0\0\0")
    assert observer.finish() == [FileOperation("remove", b"f")]


def test_extensions_are_noted_by_what_they_do() -> None:
    """Renames, links and changes by an extension are noted as such, a copy as a write, and unknown ones by name."""
    observer = _begun(b"h", b"g")
    noted: list[Recorded] = []
    two = (wire.string(b"a"), wire.string(b"b"))
    for number, parts in enumerate(
        (
            (b"posix-rename@openssh.com", *two),
            (b"hardlink@openssh.com", *two),
            (b"lsetstat@openssh.com", wire.string(b"a"), wire.number(1), wire.longs(5)),
            (b"copy-data", wire.string(b"h"), wire.longs(0, 0), wire.string(b"g"), wire.longs(0)),
            (b"statvfs@openssh.com", wire.string(b"a")),
            (b"check-file", wire.string(b"a")),
        )
    ):
        observer.client(wire.answer(Kind.EXTENDED, number, wire.string(parts[0]), *parts[1:]))
        noted += observer.server(wire.status(number, Status.OK))
    assert noted == [
        FileOperation("rename", b"a", other=b"b"),
        FileOperation("link", b"a", other=b"b"),
        FileOperation("change", b"a", note="size 5"),
        FileOperation("write", b"g", other=b"h", note="copied inside the container"),
        FileOperation("extension", b"check-file"),
    ]


PACKETS = (
    INIT, VERSION, _open(1, b"f"), _read(2, b"h", 0), _write(3, b"h", 0, b"abc"), _close(4, b"h"), _handle(1, b"g"),
    wire.data(2, [b"abc"]), wire.status(3, Status.OK), wire.status(4, Status.OK),
)  # fmt: skip


@given(some.lists(some.tuples(some.booleans(), some.sampled_from(PACKETS) | some.binary(max_size=9))), some.booleans())
def test_no_bytes_break_the_reading(pieces: list[tuple[bool, bytes]], begun: bool) -> None:  # noqa: FBT001 - hypothesis'
    """Whatever either side sends is taken or refused as malformed, and what was open is summed up."""
    observer = _begun(b"h") if begun else Observer()
    noted: list[Recorded] = []
    try:
        for is_clients, payload in pieces:
            noted += observer.client(payload) if is_clients else observer.server(payload)
    except Malformed:
        pass
    noted += observer.finish()
    assert sum(each.operation in {"read", "write"} for each in operations(noted)) >= begun


async def test_a_client_far_ahead_of_the_answers_waits() -> None:
    """A client that asks without end is held back, and goes on when it was answered, which nothing holds back."""
    recorded: list[Recorded] = []

    async def record(event: Recorded) -> None:
        recorded.append(event)

    live = Sessions(SessionsSettings(), "node").open(IDENTITY, REQUEST, TARGET)
    async with live as session, Observed(session, record) as observed:
        await observed.record(Data(STDIN, INIT))
        await observed.record(Data(STDOUT, VERSION))
        asked = b"".join(wire.answer(Kind.LSTAT, number, wire.string(b"")) for number in range(MOST_PENDING + 1))
        await observed.record(Data(STDIN, asked))
        waiting = asyncio.create_task(observed.record(Data(STDIN, _open(9999, b"f"))))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await observed.record(Data(STDOUT, wire.status(0, Status.NO_SUCH_FILE)))
        await asyncio.wait_for(waiting, 5)
        for event in (Data(STDERR, b"words"), Eof(), Exit(1)):
            await observed.record(event)
    cut = FileOperation("open", b"f", "cut off", note="read")
    assert recorded == [Data(STDERR, b"words"), Eof(), cut, Exit(1)]


async def test_watchers_read_words_and_no_packets() -> None:
    """Who watches is shown each operation as a line, and nothing of the protocol."""
    shown: list[Event] = []

    async def record(event: Recorded) -> None:
        await asyncio.sleep(0)

    async with Sessions(SessionsSettings(), "node").open(IDENTITY, REQUEST, TARGET) as session:
        session.publish = shown.append  # type: ignore[method-assign,assignment]
        async with Observed(session, record) as observed:
            for event in (Data(STDIN, INIT), Data(STDOUT, VERSION), Data(STDIN, _open(1, b"f"))):
                await observed.record(event)
                observed.publish(event)
            await observed.record(Data(STDOUT, wire.status(1, Status.NO_SUCH_FILE)))
            observed.publish(Data(STDERR, b"words"))
    assert shown == [Data(STDOUT, b"open f: no such file (read)\r\n"), Data(STDERR, b"words")]
