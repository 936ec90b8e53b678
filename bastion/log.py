"""The server's own log: one line per event on standard error, as JSON or text, every foreign string made harmless.

Logging never raises, even when the log's volume is full or its reader is gone. The next line that is written has in
`lines_lost` the number of lines that were not.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bastion.errors import BastionError
from bastion.model import Session

TEXT_LIMIT: Final = 4096
"""The longest string in a log line, in bytes of UTF-8; what is longer ends in `CUT`."""

CUT: Final = "…(cut)"
_ITEMS_LIMIT: Final = 64
_DEPTH_LIMIT: Final = 4
_REPEAT_SECONDS: Final = 10.0
_KINDS_LIMIT: Final = 256
_LIBRARIES: Final = ("asyncssh", "docker", "urllib3", "uvicorn", "httpx", "httpcore", "asyncio")


def escape(text: str) -> str:
    r"""Return the text with everything that does not print as itself written as `\n`, `\x1b`, `\u202e` ….

    That is every C0 and C1 control, bidirectional and zero-width formatting, line separators, surrogates and unassigned
    characters, so that a terminal or a line-wise reader shows what is there and obeys nothing.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Escape the text and cut it to at most `limit` bytes of UTF-8, `CUT` at its end saying so."""
    escaped = escape(text[:limit]).encode()
    if len(text) <= limit and len(escaped) <= limit:
        return escaped.decode()
    return escaped[: limit - len(CUT.encode())].decode(errors="ignore") + CUT


def configure(style: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Send this process's log to `stream` (standard error), and the libraries' warnings with it.

    Args:
        style: `json`, one object a line, or `console`, for eyes.
        level: the lowest level written: debug, info, warning or error. The libraries' is never below warning:
            asyncssh's debug lines hold whole packets.
        stream: where to, when not standard error.
    """
    out = stream or sys.stderr
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    lines = _Lines(out)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _harmless,
        *([_rename_stack] if style == "console" else []),
        lines.add_lost,
        renderer,
    ]
    structlog.configure(
        processors=[_Unfailing(processors)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(threshold, logging.WARNING))
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))


def session_line(
    session: Session, *, kind: str, bytes_in: int, bytes_out: int, seconds: float, transcript: str | None
) -> None:
    """Write the one canonical line that says all about one session; its command is in the transcript, not here.

    Args:
        session: as it was when it ended.
        kind: shell, exec or subsystem.
        bytes_in: bytes from the client to the program.
        bytes_out: bytes from the program to the client, standard error included.
        seconds: how long it lasted.
        transcript: the transcript's path, None when none was opened.
    """
    structlog.get_logger().info(
        "session",
        uid=session.uid,
        user=session.user,
        fingerprint=session.key_fingerprint,
        address=session.client_address,
        stack=session.stack,
        service=session.service_name,
        container=session.container_name,
        kind=kind,
        exit=session.exit_status,
        reason=session.reason,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        seconds=round(seconds, 3),
        transcript=transcript,
        node=session.node,
    )


class Repeated:
    """Bounds how often one kind of line is written: the first line at once, later lines as a number.

    Args:
        seconds: the least time between two lines.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._unreported = 0
        self._reported_at = -seconds

    def count(self) -> int:
        """Count one more line; return the number of lines to report now, 0 before the interval is over."""
        self._unreported += 1
        if (now := time.monotonic()) - self._reported_at < self._seconds:
            return 0
        number, self._unreported, self._reported_at = self._unreported, 0, now
        return number


class _Unfailing:
    """Runs structlog's processors; if one of them raises, the line is replaced by a line about that failure."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> Any:
        line: Any = event
        try:
            for process in self._processors:
                line = process(logger, method, line)
        except Exception as error:  # noqa: BLE001 - a line is never worth the process
            return json.dumps({"event": "log line failed", "level": "error", "error": type(error).__name__})
        return line


class _Lines:
    """structlog's logger factory and logger: writes lines to one stream, from any thread, and never raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._turn = threading.Lock()
        self._lost = 0

    def __call__(self, *_arguments: object) -> "_Lines":
        return self

    def add_lost(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Note in the event how many lines before it could not be written."""
        if self._lost:
            event["lines_lost"] = self._lost
        return event

    def msg(self, line: str) -> None:
        """Write one line."""
        with self._turn:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
                self._lost = 0
            except (OSError, ValueError):  # ValueError: the stream is closed
                self._lost += 1

    debug = info = warning = warn = error = err = critical = fatal = failure = log = exception = msg


class _Bridge(logging.Handler):
    """Passes libraries' records of the standard library's logging to the same processors, each kind of line bounded.

    asyncio logs a traceback for each accept without a descriptor, and a warning for each write to a lost connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, str], Repeated] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.name, str(record.msg)[:TEXT_LIMIT].partition("\n")[0]
        if kind not in self._kinds and len(self._kinds) >= _KINDS_LIMIT:
            self._kinds.clear()
        number = self._kinds.setdefault(kind, Repeated(_REPEAT_SECONDS)).count()
        if not number:
            return
        facts: dict[str, Any] = {"repeated": number} if number > 1 else {}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, **facts)


def _harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if len(trace := str(event.get("exception", ""))) > TEXT_LIMIT // 2:
        event["exception"] = "…" + trace[-TEXT_LIMIT // 2 :]  # a traceback says what happened at its end
    return {shorten(str(key), 64): _clean(value, _DEPTH_LIMIT) for key, value in event.items()}


def _rename_stack(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "stack" in event:  # structlog's console would print it as a call stack, on lines of its own
        event["in_stack"] = event.pop("stack")
    return event


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, Mapping):
        return {shorten(str(key), 64): _clean(item, depth - 1) for key, item in list(value.items())[:_ITEMS_LIMIT]}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, depth - 1) for item in list(value)[:_ITEMS_LIMIT]]
    return shorten(_text(value))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value[: TEXT_LIMIT + 1].decode(errors="backslashreplace")
    if isinstance(value, BastionError):
        return f"{value.code}: {value.public}" + (f" ({value.detail})" if value.detail else "")
    return str(value)
