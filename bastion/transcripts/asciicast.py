"""Turn a session's events into asciicast v3 lines, exactly, and so that players show nothing false."""

import binascii
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic_core import to_json

from bastion.model import (
    FIRST_FILE,
    STDERR,
    STDIN,
    STDOUT,
    Data,
    Eof,
    Exit,
    FileOperation,
    Recorded,
    Request,
    Resize,
    Session,
    Signal,
    Target,
)
from bastion.transcripts.file_events import encode

Input = Literal["all", "no-tty", "none"]

_PIECE: Final = 64 * 1024  # bounds a line: JSON needs at most six bytes for one
_REPORT: Final = 64 * 2**20
_LONGEST_COMMAND: Final = 128 * 1024  # bytes: Linux's MAX_ARG_STRLEN; what is longer is never run
_NAMES: Final = {STDIN: "stdin", STDOUT: "stdout", STDERR: "stderr"}
_CODES: Final = {STDIN: "i", STDOUT: "o", STDERR: "o"}
_INCOMPLETE: Final = 3
_WINDOW: Final = 256  # bytes at the end that are looked at first
_VALID: Final = re.compile("[^\udc80-\udcff]*")  # no byte that surrogateescape (PEP 383) stands for
_TWO, _THREE, _FOUR = 0xC2, 0xE0, 0xF0  # the least first byte of a character of so many bytes


@dataclass(slots=True)
class _Stream:
    kept: bool
    size: int = 0
    pending: bytes = b""
    reported: int = 0
    digest: Any = field(default_factory=hashlib.sha256)  # hashlib does not name its type


class Lines:
    """Encodes one session's events, in order; `count` is the number of lines so far, the header included."""

    __slots__ = (
        "_files",
        "_input",
        "_last",
        "_limit",
        "_origin",
        "_shown",
        "_streams",
        "_totals",
        "_tty",
        "_uploads",
        "count",
    )

    def __init__(self, keep_input: Input, stream_limit: int, *, tty: bool) -> None:
        self._input = keep_input == "all" or (keep_input == "no-tty" and not tty)
        self._uploads = keep_input != "none"
        self._limit = stream_limit
        self._tty = tty
        self._origin = time.monotonic_ns()
        self._last = 0
        self._shown = STDOUT
        self._streams: dict[int, _Stream] = {}
        self._files: dict[int, int] = {}  # how much of each opened file passed; a session may open any number
        self._totals = False
        self.count = 0

    def header(self, session: Session, request: Request, target: Target, recipients: str) -> bytes:
        """Return the first line; `recipients` is the digest of the list the file is encrypted to."""
        self.count = 1
        terminal = request.terminal
        size = (
            {"cols": terminal.columns, "rows": terminal.rows, "type": terminal.term}
            if terminal
            else {"cols": 80, "rows": 24}
        )
        about = session.model_dump(mode="json") | {
            "kind": request.kind,
            "tty": terminal is not None,
            "container_id": target.container_id,
            "image": target.image,
            "image_digest": target.image_digest,
            "recipients": recipients,
        }
        if (command := request.command_bytes) is not None:
            command = command[:_LONGEST_COMMAND]
            about["command"] = command.decode(errors="replace")
            if about["command"].encode() != command:
                about["command_base64"] = binascii.b2a_base64(command, newline=False).decode()
        header = {
            "version": 3,
            "term": size,
            "timestamp": int(session.created_at.timestamp()),
            **({"command": about["command"]} if command is not None else {}),
            "title": session.title,
            "bastion": about,
        }
        return json.dumps(header, separators=(",", ":")).encode() + b"\n"

    def event(self, event: Recorded) -> bytes:
        """Return the lines for one event: none where it is not kept, or waits for the rest of a character."""
        match event:
            case Data(stream, payload):
                return self._data(stream, payload) if stream < FIRST_FILE else self._contents(stream, payload)
            case Resize(columns, rows):
                return self._line("r", f"{columns}x{rows}")
            case Signal(name):
                return self.mark(f"signal {name}")
            case Eof():
                return self._flush(STDIN) + self.mark("stdin ended")
            case FileOperation():
                return self._file(event)
            case Exit(status, signal):
                return (
                    self.totals()
                    + (self.mark(f"ended by signal {signal}") if signal else b"")
                    + self._line("x", str(status))
                )

    def mark(self, text: str) -> bytes:
        """Return a marker line; words that we use for the streams themselves are quoted."""
        quoted = f"'{text}'" if text in _NAMES.values() else text
        return self._line("m", quoted.encode("utf-8", "backslashreplace").decode())

    def totals(self) -> bytes:
        """Return, once, the unfinished characters and a marker for each stream with its bytes and their SHA-256."""
        if self._totals:
            return b""
        self._totals = True
        flushed = b"".join(self._flush(number, switch=True) for number in self._streams)
        return flushed + b"".join(self._report(number, "in all ") for number in sorted(self._streams))

    def provisional(self) -> bytes:
        """Return the unfinished characters as the lines they become when nothing more follows."""
        lines = []
        shown = self._shown
        for number, stream in self._streams.items():
            if stream.pending:
                if number not in (STDIN, shown) and not self._tty:
                    shown = number
                    lines.append(_line(0, "m", _name(number)))
                lines.append(_twins(0, number, stream.pending))
        return b"".join(lines)

    def _file(self, operation: FileOperation) -> bytes:
        if operation.stream is not None and operation.operation in {"read", "write"}:
            self._files.pop(operation.stream, None)
        return self._line("f", encode(operation))

    def _contents(self, number: int, payload: bytes) -> bytes:
        if not self._uploads and (number - FIRST_FILE) % 2:
            return b""
        before = self._files.get(number, 0)
        self._files[number] = before + len(payload)
        if before > self._limit:
            return b""
        kept = payload[: self._limit - before]
        lines = [self._binary(number, kept[start : start + _PIECE]) for start in range(0, len(kept), _PIECE)]
        if before + len(payload) > self._limit:
            lines.append(self.mark(f"{_name(number)} is over {self._limit} bytes: from here on only counted"))
        return b"".join(lines)

    def _data(self, number: int, payload: bytes) -> bytes:
        stream = self._streams.get(number)
        if stream is None:
            stream = self._streams[number] = _Stream(kept=self._input if number == STDIN else True)
        before = stream.size
        stream.size += len(payload)
        if not stream.kept:
            return b""
        stream.digest.update(payload)
        if before >= self._limit:
            if stream.size - stream.reported < _REPORT:
                return b""
            stream.reported = stream.size
            return self._report(number, "so far ")
        switch = self._switch(number)
        kept = payload[: self._limit - before]
        lines = [self._text(number, stream, kept[start : start + _PIECE]) for start in range(0, len(kept), _PIECE)]
        if stream.size >= self._limit:
            stream.reported = stream.size
            lines += [
                self._flush(number),
                self.mark(f"{_name(number)} is over {self._limit} bytes: from here on only counted"),
            ]
        return switch + b"".join(lines)

    def _switch(self, number: int) -> bytes:
        if self._tty or number in (STDIN, self._shown):
            return b""
        self._shown = number
        return self._line("m", _name(number))

    def _text(self, number: int, stream: _Stream, payload: bytes) -> bytes:
        """Return the lines for a piece: text, then one `b` event and its twin from the first invalid byte to the last.

        A hostile program may alternate between text and invalid bytes: a `b` event for each run of invalid bytes would
        cost 27 bytes for one, and no `o` event beside them would hide the rest from players (threats E10). Pinned by
        test_E10_a_packet_costs_a_bounded_number_of_bytes.
        """
        data = stream.pending + payload if stream.pending else payload
        cut = len(data) - _unfinished(data)
        stream.pending, data = data[cut:], data[:cut]
        if not data:
            return b""
        try:
            return self._line(_CODES[number], data.decode())
        except UnicodeDecodeError as error:
            start = error.start
        end = len(data) - _valid_at_end(data)
        before = self._line(_CODES[number], data[:start].decode()) if start else b""
        between = self._twins(number, data[start:end])
        return before + between + (self._line(_CODES[number], data[end:].decode()) if end < len(data) else b"")

    def _flush(self, number: int, *, switch: bool = False) -> bytes:
        stream = self._streams.get(number)
        if stream is None or not stream.pending:
            return b""
        pending, stream.pending = stream.pending, b""
        return (self._switch(number) if switch else b"") + self._twins(number, pending)

    def _report(self, number: int, words: str) -> bytes:
        stream = self._streams[number]
        # what was typed at a terminal is not hashed either: a password is short enough to be guessed from its digest
        digest = f", sha256 {stream.digest.hexdigest()}" if stream.kept else ", not kept"
        return self._line("m", f"{_name(number)}: {words}{stream.size} bytes{digest}")

    def _line(self, code: str, data: str) -> bytes:
        self.count += 1
        return _line(self._interval(), code, data)

    def _binary(self, number: int, payload: bytes) -> bytes:
        self.count += 1
        return _binary(self._interval(), b"%d" % number, payload)

    def _twins(self, number: int, payload: bytes) -> bytes:
        self.count += 2
        return _twins(self._interval(), number, payload)

    def _interval(self) -> float:
        elapsed = (time.monotonic_ns() - self._origin) // 1000
        interval, self._last = elapsed - self._last, elapsed
        return interval / 1e6


def _line(interval: float, code: str, data: str) -> bytes:
    return bytes(to_json([interval, code, data])) + b"\n"


def _binary(interval: float, stream: bytes, payload: bytes) -> bytes:
    return b'[%.6f,"b","%s:%s"]\n' % (interval, stream, binascii.b2a_base64(payload, newline=False))


def _twins(interval: float, number: int, payload: bytes) -> bytes:
    """Return a `b` event and its twin (docs/transcripts.md)."""
    code = _CODES[number]
    return _binary(interval, f"{number}{code}".encode(), payload) + _line(0, code, payload.decode(errors="replace"))


def _name(number: int) -> str:
    return _NAMES.get(number, f"stream {number}")


def _valid_at_end(data: bytes) -> int:
    """Return how many bytes at the end, behind the last invalid one, are UTF-8; there is an invalid one."""
    size = _WINDOW
    while True:
        window = data[-size:]
        begin = 0
        while size < len(data) and begin < _INCOMPLETE and window[begin] & 0xC0 == 0x80:  # noqa: PLR2004 - 10xxxxxx
            begin += 1
        try:
            window[begin:].decode()
        except UnicodeDecodeError:
            backwards = window.decode(errors="surrogateescape")[::-1]
            match = _VALID.match(backwards)
            return len(backwards[: match.end()].encode()) if match else 0
        size *= 4  # most packets of text have few invalid bytes, and most others one near the end


def _unfinished(data: bytes) -> int:
    """Return how many bytes at the end begin a character that the next packet may finish (RFC 3629 §3)."""
    for size in range(1, min(_INCOMPLETE, len(data)) + 1):
        byte = data[-size]
        if byte >= _TWO:
            wanted = 2 if byte < _THREE else 3 if byte < _FOUR else 4
            return size if size < wanted else 0
        if byte < 0x80:  # noqa: PLR2004 - ASCII ends there
            return 0
    return 0
