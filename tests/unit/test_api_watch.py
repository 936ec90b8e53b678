"""Watching by the API: a bounded ring for each watcher, streams that end as they should, and nobody slowed."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import bastion.api.watch
from bastion.cli.watching import Screen
from bastion.errors import BastionError, LimitReached
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Resize
from bastion.sessions.watching import MOST_BYTES, MOST_FRAMES, MOST_WATCHERS, Lost, Watchers
from tests.unit.api_house import UID, ApiHouse, serving


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


async def test_a_watcher_gets_what_is_shown_and_nothing_that_is_typed() -> None:
    """Output and sizes come in order; input and its end do not; then the end."""
    watchers = Watchers()
    shown: list[Data | Resize] = [Data(STDOUT, b"a"), Resize(80, 24), Data(STDERR, b"b")]
    with watchers.watch() as watcher:
        watchers.publish(Data(STDIN, b"secret"))
        for event in shown:
            watchers.publish(event)
        watchers.publish(Eof())
        watchers.end()
        assert [await watcher.take() for _ in range(4)] == [*shown, None]
    with watchers.watch() as late:
        assert await late.take() is None


@pytest.mark.parametrize("size", [1, 4096, 2 * MOST_BYTES])
async def test_a_slow_watcher_loses_the_oldest_and_is_told_how_many(size: int) -> None:
    """The ring holds so many frames and bytes at most; what is left is the newest, after the number lost."""
    watchers = Watchers()
    number = 3 * MOST_FRAMES
    with watchers.watch() as slow:
        for count in range(number):
            watchers.publish(Data(STDOUT, bytes([count % 256]) * size))
        held = slow._frames  # noqa: SLF001 - how much it holds
        assert len(held) <= MOST_FRAMES
        assert len(held) == 1 or sum(len(frame.payload) for frame in held if isinstance(frame, Data)) <= MOST_BYTES
        kept = len(held)
        assert await slow.take() == Lost(number - kept)
        rest = [await slow.take() for _ in range(kept)]
        last = rest[-1]
        assert isinstance(last, Data)
        assert last.payload[0] == (number - 1) % 256


async def test_only_so_many_watch_one_session() -> None:
    """One more is refused until one has left."""
    watchers = Watchers()
    with ExitStack() as watching:
        for _ in range(MOST_WATCHERS):
            watching.enter_context(watchers.watch())
        with pytest.raises(LimitReached), watchers.watch():
            pytest.fail("it watches")
    with watchers.watch():
        pass


class Stream:
    """The raw stream of a watched session, read as slowly as a test likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, house: ApiHouse, header: str = "") -> "Stream":
        reader, writer = await asyncio.open_unix_connection(str(house.socket), limit=2**24)
        writer.write(f"GET /api/sessions/{UID}/watch HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        stream = cls(reader, writer)
        assert (await stream.line()).startswith("HTTP/1.1 200")
        return stream

    async def line(self) -> str:
        return (await asyncio.wait_for(self.reader.readline(), 20)).decode()

    async def event(self) -> tuple[str, dict[str, object]]:
        while not (line := await self.line()).startswith("event: "):
            assert line
        return line.removeprefix("event: ").strip(), json.loads((await self.line()).removeprefix("data: "))


async def test_a_stream_tells_its_user_and_ends_with_the_session(house: ApiHouse) -> None:
    """Text split within a character is put together; the user reads one line; the last event says why."""
    async with house.live() as session:
        told: list[str] = []
        session.tell = told.append
        stream = await Stream.open(house)
        kind, data = await stream.event()
        assert (kind, data["terminal"]) == ("session", None)
        assert len(told) == 1
        assert told[0].startswith("bastion: note: ")
        for payload in ("é".encode()[:1], "é".encode()[1:]):
            session.publish(Data(STDOUT, payload))
        assert await stream.event() == ("output", {"stream": 1, "text": "é"})
        session.publish(Resize(132, 43))
        assert await stream.event() == ("resize", {"columns": 132, "rows": 43})
        session.update(reason="the program ended")
    assert await stream.event() == ("end", {"reason": "the program ended"})
    stream.writer.close()
    async with asyncio.timeout(20):
        while '"event":"watch ended"' not in house.ledger():
            await asyncio.sleep(0.02)


async def test_a_watcher_that_stops_reading_holds_nothing_up(house: ApiHouse) -> None:
    """However much is shown meanwhile, publishing goes on, and the watcher reads that it lost frames."""
    async with house.live() as session:
        stream = await Stream.open(house)
        await stream.event()
        stream.reader._transport.pause_reading()  # type: ignore[attr-defined] # noqa: SLF001 - it stops reading
        for _ in range(4096):
            session.publish(Data(STDOUT, b"x" * 4096))
            await asyncio.sleep(0)
        stream.reader._transport.resume_reading()  # type: ignore[attr-defined] # noqa: SLF001
        while (event := await stream.event())[0] == "output":
            pass
        assert event[0] == "lost"
        assert isinstance(event[1]["frames"], int)
        stream.writer.close()


async def test_a_watcher_that_takes_nothing_is_left(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time the connection is cut and the end of watching is in the ledger."""
    monkeypatch.setattr(bastion.api.watch, "SEND_SECONDS", 0.2)
    async with house.live() as session:
        stream = await Stream.open(house)
        await stream.event()
        stream.reader._transport.pause_reading()  # type: ignore[attr-defined] # noqa: SLF001 - it stops reading
        async with asyncio.timeout(30):
            while '"event":"watch ended"' not in house.ledger():
                session.publish(Data(STDOUT, b"x" * 65536))
                await asyncio.sleep(0.005)
        stream.writer.close()


async def test_a_token_that_is_revoked_watches_no_longer(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends soon after, also while nothing is shown."""
    monkeypatch.setattr(bastion.api.watch, "CHECK_SECONDS", 0.1)
    header = house.token("audit:read", name="auditor")["Authorization"]
    async with house.live():
        stream = await Stream.open(house, f"Authorization: {header}\r\n")
        assert (await stream.event())[0] == "session"
        house.tokens.revoke("auditor")
        assert await stream.event() == ("end", {"reason": "the token is no longer good"})
        stream.writer.close()


@pytest.mark.parametrize(
    "data", [{}, {"stream": 9, "text": "x"}, {"stream": 1, "text": 3}, {"stream": 1, "text": None}]
)
def test_a_screen_takes_no_nonsense(data: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """What is no event of a bastion's is an error in words."""
    screen = Screen(sys.stdout, lambda _line: None)
    with pytest.raises(BastionError, match="cannot be read"):
        screen.show("output", data)
    assert capsys.readouterr().out == ""


def session_event(terminal: dict[str, int] | None) -> dict[str, object]:
    return {"session": {"user": "a\x1b]0;x\x07", "service_name": "web", "stack": "mystack"}, "terminal": terminal}


def test_a_screen_shows_what_is_harmless_and_starts_anew_after_a_loss() -> None:
    """Escape sequences that act on a terminal are left out, also in pieces; what was cut off hides nothing."""
    out, said = io.StringIO(), list[str]()
    screen = Screen(out, said.append)
    screen.show("session", session_event({"columns": 80, "rows": 24}))
    for text in ("a\x1b]52;c;Y2Fu", "YXJ5\x07b\x1b[6", "nc\x1b[1md", "\x1b]0;cut"):
        screen.show("output", {"stream": 1, "text": text})
    screen.show("lost", {"frames": 3})
    screen.show("output", {"stream": 1, "text": "e"})
    screen.show("end", {"reason": "over"})
    assert out.getvalue() == "abc\x1b[1md\r\n… 3 frames lost …\r\ne\r\n"
    screen.restore()
    assert out.getvalue().endswith("\x1b[r\x0f")
    assert said[-1] == "watching has ended: over"


def test_a_screen_leaves_the_terminal_alone_where_the_session_has_none() -> None:
    """Output of a command has its lines as a file has, and nothing is put right at the end."""
    out = io.StringIO()
    screen = Screen(out, lambda _line: None)
    screen.show("session", session_event(None))
    screen.show("output", {"stream": 2, "text": "a\r\nb\n"})
    screen.show("end", {"reason": "over"})
    screen.restore()
    assert out.getvalue() == "a\nb\n"
