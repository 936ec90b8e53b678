"""What reaches the log and the tables: one line each, harmless, bounded."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bastion import log
from bastion.errors import RuntimeFailed
from bastion.model import Session

HOSTILE = [
    ("a\nb", r"a\nb"),
    ("\x1b[2J", r"\x1b[2J"),
    ("\x9b31m", r"\x9b31m"),
    ("txt\u202egpj.exe", r"txt\u202egpj.exe"),
    ("\u2066x\u2069", r"\u2066x\u2069"),
    ("\udcff", r"\udcff"),
    ("\x00\x7f", r"\x00\x7f"),
    ("\u2028", r"\u2028"),
    ("\U000e0041", r"\U000e0041"),
]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    stream = io.StringIO()
    log.configure("json", "info", stream)
    yield stream
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def written(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def a_session(**changes: object) -> Session:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    fields: dict[str, object] = {
        "uid": "0123456789abcdef",
        "title": "alice in web@mystack",
        "service_name": "web",
        "namespace": None,
        "command": "echo CANARY",
        "deployment_name": None,
        "pod_name": None,
        "container_name": "mystack-web-1",
        "stack": "mystack",
        "user": "alice",
        "state": "terminated",
        "created_at": moment,
        "ended_at": moment,
        "exit_status": 7,
        "client_address": "192.0.2.1",
        "key_fingerprint": "SHA256:x",
        "node": "here",
    }
    return Session.model_validate(fields | changes)


@pytest.mark.parametrize(("raw", "shown"), HOSTILE)
def test_escape_writes_out_what_does_not_print(raw: str, shown: str) -> None:
    """Controls, bidirectional formatting, separators and surrogates are written out; nothing else is changed."""
    assert log.escape(raw) == shown


def test_escape_leaves_printing_text_alone() -> None:
    """Letters of any script, punctuation and spaces stay as they are."""
    assert log.escape("zoë naïve 日本 web-1_x.y \\ 'q'") == "zoë naïve 日本 web-1_x.y \\ 'q'"


@given(st.text(alphabet=st.characters()))
def test_escaped_text_always_prints_and_is_bounded(text: str) -> None:
    """Whatever comes in, what goes out prints, encodes as UTF-8 and is no longer than the limit."""
    shown = log.shorten(text * 40, 300)
    assert shown.isprintable()
    assert len(shown.encode()) <= 300


def test_a_megabyte_is_cut_and_says_so() -> None:
    """A string over the limit is cut to it and ends in a mark."""
    shown = log.shorten("é" * 1_000_000)
    assert len(shown.encode()) <= log.TEXT_LIMIT
    assert shown.endswith(log.CUT)


@pytest.mark.parametrize(("raw", "shown"), HOSTILE)
def test_a_peer_cannot_forge_a_line(lines: io.StringIO, raw: str, shown: str) -> None:
    """A hostile string in the event, a value, a nested value, bytes or an error is one JSON line, escaped."""
    structlog.get_logger().info(
        raw, user=raw, nested={"name": [raw]}, data=raw.encode(errors="surrogateescape"), error=RuntimeFailed(raw)
    )
    (entry,) = written(lines)
    assert entry["event"] == entry["user"] == shown
    assert entry["nested"] == {"name": [shown]}
    assert str(entry["error"]) == f"runtime: {shown}"
    assert all(character.isprintable() for character in lines.getvalue().rstrip("\n"))


def test_console_lines_are_harmless_too(lines: io.StringIO) -> None:
    """The form for eyes escapes as the JSON form does."""
    stream = io.StringIO()
    log.configure("console", "info", stream)
    structlog.get_logger().info("hello", user="\x1b]0;owned\x07\nforged", stack="mystack")
    assert stream.getvalue().count("\n") == 1
    assert r"\x1b]0;owned\x07\nforged" in stream.getvalue()


def test_library_warnings_take_the_same_way(lines: io.StringIO) -> None:
    """Warnings of asyncssh become lines of ours; what it logs below that, packets and commands, becomes nothing."""
    library = logging.getLogger("asyncssh")
    library.info("Command: %s", "echo CANARY")
    library.debug("packet CANARY")
    library.warning("peer said %s", "x\ny\x1b")
    (entry,) = written(lines)
    assert entry["logger"] == "asyncssh"
    assert entry["event"] == r"peer said x\ny\x1b"
    assert entry["level"] == "warning"


def test_an_exception_keeps_the_end_of_its_trace(lines: io.StringIO) -> None:
    """However long the trace, the line is one line and says at its end what was raised."""
    with pytest.raises(RuntimeError) as raised:
        raise RuntimeError("x" * 9000 + " the reason")
    structlog.get_logger().error("internal error", exc_info=raised.value)
    (entry,) = written(lines)
    assert str(entry["exception"]).endswith("the reason")
    assert len(str(entry["exception"]).encode()) <= log.TEXT_LIMIT


def test_a_session_is_one_line_without_its_command(lines: io.StringIO) -> None:
    """The canonical line says all about a session but what was run in it."""
    log.session_line(a_session(), kind="exec", bytes_in=1, bytes_out=2, seconds=0.12345, transcript="x.cast.age")
    (entry,) = written(lines)
    assert "CANARY" not in lines.getvalue()
    expected = {
        "event": "session",
        "uid": "0123456789abcdef",
        "user": "alice",
        "fingerprint": "SHA256:x",
        "address": "192.0.2.1",
        "stack": "mystack",
        "service": "web",
        "kind": "exec",
        "exit": 7,
        "bytes_in": 1,
        "bytes_out": 2,
        "seconds": 0.123,
        "transcript": "x.cast.age",
    }
    assert {name: entry[name] for name in expected} == expected


def test_the_level_is_kept(lines: io.StringIO) -> None:
    """What is below the configured level is not written."""
    stream = io.StringIO()
    log.configure("json", "warning", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [entry["event"] for entry in written(stream)] == ["loud"]


def test_E1_a_line_that_cannot_be_written_ends_nothing() -> None:
    """A full volume loses lines, and the next that is written says how many; a line that cannot be made says so."""

    class Fussy:
        def __str__(self) -> str:
            raise ValueError

    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    good = io.StringIO()
    try:
        with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # it cannot be closed well either
            log.configure("json", "info", full)
            structlog.get_logger().info("lost")
            logging.getLogger("asyncio").warning("lost too")
            good.write("{}\n")
        assert good.getvalue()
        log.configure("json", "info", good)
        structlog.get_logger().info("odd", value=Fussy())
        assert written(good)[-1]["error"] == "ValueError"
    finally:
        structlog.reset_defaults()
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def test_lost_lines_are_counted() -> None:
    """The stream that takes lines again is told how many it has not taken."""

    class Stream(io.StringIO):
        broken = True

        def flush(self) -> None:
            if self.broken:
                self.truncate(0)
                self.seek(0)
                raise OSError(28, "No space left on device")

    stream = Stream()
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    try:
        log.configure("json", "info", stream)
        for _ in range(3):
            structlog.get_logger().info("lost")
        stream.broken = False
        structlog.get_logger().info("back")
        structlog.get_logger().info("next")
    finally:
        structlog.reset_defaults()
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    back, after = written(stream)
    assert (back["lines_lost"], "lines_lost" in after) == (3, False)


def test_E1_what_a_library_repeats_is_one_line(lines: io.StringIO) -> None:
    """A thousand warnings of one kind are one line for some seconds, whatever their values."""
    for number in range(1000):
        logging.getLogger("asyncio").warning("socket %d failed", number)
    logging.getLogger("asyncio").warning("another kind")
    assert [line["event"] for line in written(lines)] == ["socket 0 failed", "another kind"]
