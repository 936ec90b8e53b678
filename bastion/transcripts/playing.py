"""Play a transcript on a terminal, without the escape sequences that answer back, reach outside the screen, or hurt."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Final, TextIO

from bastion.model import STDERR, STDOUT
from bastion.transcripts.file_events import decode, one_line
from bastion.transcripts.parsing import read_binary, read_event, read_header

_SAFE_FINALS: Final = frozenset("@ABCDEFGHIJKLMPSTXZ`adefghlmr")
_SAFE_MODES: Final = frozenset({"?7", "?25", "?47", "?1047", "?1048", "?1049", "4"})
_PARAMETERS: Final = re.compile(r"[0-9;:]{0,64}")
_LARGEST_NUMBER: Final = 9999
_SAFE_ESCAPES: Final = frozenset("78DEHM=>")
_CHARSETS: Final = frozenset("()*+")
_SAFE_CONTROLS: Final = frozenset("\b\t\n\v\f\r\x0e\x0f")
_STRINGS: Final = frozenset("]PX^_")  # OSC, DCS, SOS, PM, APC
_C1: Final = {"\x9b": "[", "\x9d": "]", "\x90": "P", "\x98": "X", "\x9e": "^", "\x9f": "_"}
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
RESTORE: Final = "\x1b[0m\x1b[?25h\x1b[?7h\x1b[4l\x1b[r\x0f"
_MOST_PARAMETERS: Final = 64
_LONGEST_WAIT: Final = 60.0
_PIECE: Final = 64 * 1024  # characters that are stripped at a time: each may be an object of its own


class Stripper:
    """Passes text through, and of escape sequences only those on an allow-list; keeps its place between calls."""

    def __init__(self) -> None:
        self._state: Callable[[str], str] = self._ground
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what of `text`, and of what was held back before, is harmless."""
        result = []
        position = 0
        while position < len(text):
            if self._state == self._ground and (plain := _PLAIN.match(text, position)):
                result.append(plain[0])
                position = plain.end()
            else:
                result.append(self._state(text[position]))
                position += 1
        return "".join(result)

    def _ground(self, character: str) -> str:
        if character == "\x1b":
            self._state = self._escape
        elif character in _C1:
            return self._begin(_C1[character])
        elif character in _SAFE_CONTROLS or _PLAIN.match(character):
            return character
        return ""

    def _begin(self, kind: str) -> str:
        self._held = ""
        self._state = self._string if kind in _STRINGS else self._control
        return ""

    def _escape(self, character: str) -> str:
        self._state = self._ground
        if character == "[" or character in _STRINGS:
            return self._begin(character)
        if character in _CHARSETS:
            self._held = character
            self._state = self._charset
        elif " " <= character <= "/":
            self._state = self._intermediate
        elif character in _SAFE_ESCAPES:
            return "\x1b" + character
        elif character == "\x1b":
            self._state = self._escape
        elif character in "\r\n":
            return character
        return ""

    def _charset(self, character: str) -> str:
        self._state = self._ground if character != "\x1b" else self._escape
        return f"\x1b{self._held}{character}" if character in "AB0" else ""

    def _intermediate(self, character: str) -> str:
        if character == "\x1b":
            self._state = self._escape
        elif not " " <= character <= "/":
            self._state = self._ground
        return ""

    def _control(self, character: str) -> str:
        if " " <= character <= "?":
            self._held = (self._held + character)[: _MOST_PARAMETERS + 1]
            return ""
        if character == "\x1b":
            self._state = self._escape
            return ""
        if character < " ":  # terminals act on these within a sequence
            return character if character in _SAFE_CONTROLS else ""
        self._state = self._ground
        return f"\x1b[{self._held}{character}" if _is_safe(self._held, character) else ""

    def _string(self, character: str) -> str:
        if character == "\x1b":
            self._state = self._string_end
        elif character in "\x07\x9c\x18\x1a":
            self._state = self._ground
        return ""

    def _string_end(self, character: str) -> str:
        self._state = self._ground
        return "" if character == "\\" else self._escape(character)


def play(lines: Iterable[str], out: TextIO, speed: float = 1.0, *, idle_limit: float = 2.0, raw: bool = False) -> None:
    """Write a transcript's output, and a line for each thing done with a file, at `speed` times its pace.

    Speed 0 does not wait at all. No pause is longer than `idle_limit` seconds. `raw` leaves the escape sequences in.
    Output that is not UTF-8 shows with U+FFFD, also of transcripts from before its events had twins (threats E10).

    Raises:
        TranscriptError: a line is no asciicast v3.
    """
    rows = iter(lines)
    tty = read_header(next(rows, ""))["tty"]
    stripper = Stripper()
    try:
        for number, row in enumerate(rows, 2):
            interval, code, data = read_event(number, row)
            if speed > 0 and interval > 0:
                time.sleep(min(min(interval, idle_limit, _LONGEST_WAIT) / speed, _LONGEST_WAIT))
            text = _shown(number, code, data)
            if code != "f" and not raw:
                pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
                text = "".join(map(stripper.feed, pieces))
            if text:
                out.write(text if tty else text.replace("\r\n", "\n").replace("\n", "\r\n" if out.isatty() else "\n"))
                out.flush()
    finally:
        if tty and not raw:
            out.write(RESTORE)
            out.flush()


def _shown(number: int, code: str, data: str) -> str:
    """Return what an event shows: nothing where it is neither output nor about a file."""
    if code == "o":
        return data
    if code == "f":
        return f"{one_line(decode(data))}\r\n"
    if code == "b":
        stream, twin, payload = read_binary(number, data)
        return payload.decode(errors="replace") if stream in {STDOUT, STDERR} and not twin else ""
    return ""


def _is_safe(parameters: str, final: str) -> bool:
    if final not in _SAFE_FINALS:
        return False
    if final in "hl":
        private = parameters[:1] == "?"
        modes = parameters.removeprefix("?").split(";")
        return all((f"?{mode}" if private else mode) in _SAFE_MODES for mode in modes)
    if _PARAMETERS.fullmatch(parameters) is None:
        return False
    numbers = [number for number in re.split("[;:]", parameters) if number]
    if any(len(number) > 4 or int(number) > _LARGEST_NUMBER for number in numbers):  # noqa: PLR2004 - as many digits
        return False
    return final != "T" or len(numbers) <= 1  # with more it is mouse tracking
