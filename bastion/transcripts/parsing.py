"""Parse the asciicast lines of a transcript that may be hostile: linear time, bounded memory, typed errors.

json.loads would build whatever a line holds: 4 MiB of `[{},{},…` become 100 MiB of objects. An event is taken apart
without building anything but its two strings, and a header is parsed only when it has as few values as one of ours.
"""

import binascii
import json
import re
from typing import Any, Final

from bastion.errors import TranscriptError

LONGEST_HEADER: Final = 2 * 2**20  # characters; a command has 128 KiB, in JSON up to six times that, and is in it twice
LONGEST_EVENT: Final = 2 * 2**20  # characters; 64 KiB of output have up to six times that in JSON, a path more
MAX_SESSION_SECONDS: Final = 1e9
_MAX_VALUES: Final = 1000
_VERSION: Final = 3
_SPACE: Final = r"[ \t\r\n]*"
_EVENT: Final = re.compile(
    rf"{_SPACE}\[{_SPACE}([0-9]{{1,20}}(?:\.[0-9]{{1,20}})?(?:[eE][+-]?[0-9]{{1,4}})?){_SPACE},"
    rf'{_SPACE}"([^"\\]{{1,16}})"{_SPACE},{_SPACE}"'
)
_EVENT_END: Final = re.compile(rf"{_SPACE}\]{_SPACE}")
_LABEL: Final = re.compile(r"([0-9]{1,9})([io]?):")
_DECODER: Final = json.JSONDecoder()
_NOT_ASCII: Final = re.compile(r"[^ -~]+")
_STRUCTURE: Final = re.compile(r'["\[{,]')
_NO_HEADER: Final = "the transcript has no header"
_VERIFY: Final = "bastion transcripts verify tells what is wrong with it"
_FOREIGN: Final = "it was not written by a bastion"


def read_header(row: str) -> dict[str, Any]:
    """Return what a transcript's first line says of its session; `tty` is among it.

    Raises:
        TranscriptError: it is no header of ours.
    """
    header = read_whole_header(row)
    session: dict[str, Any] = header["bastion"]
    return {**session, "tty": bool(session.get("tty"))}


def read_whole_header(row: str) -> dict[str, Any]:
    """Return a transcript's first line; its member `bastion` is an object.

    Raises:
        TranscriptError: it is no header of ours.
    """
    try:
        header = load_small(row) if len(row) <= LONGEST_HEADER else None
    except (ValueError, RecursionError) as error:
        raise TranscriptError(_NO_HEADER, _VERIFY) from error
    if not isinstance(header, dict) or not isinstance(header.get("bastion"), dict):
        raise TranscriptError(_NO_HEADER, _VERIFY)
    if header.get("version") != _VERSION:
        raise TranscriptError("this is no asciicast v3", _VERIFY)
    return header


def read_event(number: int, row: str) -> tuple[float, str, str]:
    """Return the seconds since the event before, the code and the text of a transcript's line of that number.

    Raises:
        TranscriptError: it is no event.
    """
    if len(row) <= LONGEST_EVENT and (begin := _EVENT.match(row)) is not None:
        interval = float(begin[1])
        try:
            data, end = _DECODER.raw_decode(row, begin.end() - 1)  # at a quote, so that a string is all it can be
        except ValueError as error:
            raise _no_event(number) from error
        if interval < MAX_SESSION_SECONDS and _EVENT_END.fullmatch(row, end) is not None:
            return interval, begin[2], data
    raise _no_event(number)


def load_small(text: str) -> Any:
    """Return what json.loads makes of the text.

    Raises:
        ValueError: it is no JSON, or holds more than 1000 values, of which a character each may become an object.
        RecursionError: it is nested too deep.
    """
    position = count = 0
    while (mark := _STRUCTURE.search(text, position)) is not None:
        position = mark.end()
        if mark[0] == '"':
            _, position = _DECODER.raw_decode(text, mark.start())
        elif (count := count + 1) > _MAX_VALUES:
            raise ValueError("too many values")
    return json.loads(text)


def read_binary(number: int, data: str) -> tuple[int, str, bytes]:
    """Return the stream, the code of the twin (or "" where there is none) and the bytes of a `b` event's text.

    Raises:
        TranscriptError: it is of another form.
    """
    if (label := _LABEL.match(data)) is None:
        raise TranscriptError(f"line {number} holds no bytes of a stream", _FOREIGN)
    try:
        return int(label[1]), label[2], binascii.a2b_base64(data[label.end() :], strict_mode=True)
    except ValueError as error:
        raise TranscriptError(f"line {number} holds no bytes of a stream", _FOREIGN) from error


def in_ascii(row: str) -> str:
    """Return the same JSON without the characters that a terminal may act on: C1 controls, bidirectional marks …."""
    return _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], row)


def _no_event(number: int) -> TranscriptError:
    return TranscriptError(f"line {number} is no asciicast event", _FOREIGN)
