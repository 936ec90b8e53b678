"""Tells the command lines that scp clients send from all others, and reads their paths as a shell would."""

from dataclasses import dataclass
from typing import Final

PROGRAMS: Final = ("scp", "/usr/bin/scp", "/bin/scp")
LONGEST: Final = 64 * 1024  # characters; a shell's own limit is of this size

_FLAGS: Final = frozenset("rpdvqtf")
_SPECIAL: Final = frozenset("|&;<>()$`{\n\0")  # these mean more to a shell than a part of a name
_GLOBS: Final = frozenset("*?[")
_CLASSES: Final = ("[:", "[.", "[=")
_ESCAPED_IN_QUOTES: Final = frozenset('$`"\\')


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command line: what is `written`, without its quotes.

    `pattern` is there when it holds globs: the same in the notation of fnmatch, the quoted ones escaped. `at_home` is
    whether a `~` stood before it, which is left out of both.
    """

    written: bytes
    pattern: bytes | None = None
    at_home: bool = False


@dataclass(frozen=True, slots=True)
class ScpCommand:
    """What an scp client asks of the other end: to take files (`-t`, `receives`) or to give them (`-f`)."""

    receives: bool
    paths: tuple[Word, ...]
    recursive: bool = False
    preserve: bool = False
    into_directory: bool = False


class _NotForUs(Exception):
    """The line is one for a shell."""


def parse_scp(command: str) -> ScpCommand | None:
    """Return what an scp client asks for by this command line; None when it is none that such a client sends.

    Characters that stand for bytes which are no UTF-8 (surrogates, PEP 383) become these bytes.
    """
    if not command.startswith(PROGRAMS) or len(command) > LONGEST:
        return None
    try:
        words = _split(command)
    except (_NotForUs, UnicodeEncodeError):
        return None
    program, rest = words[0], words[1:]
    if program.pattern is not None or program.written.decode("ascii", "replace") not in PROGRAMS:
        return None
    flags, paths = _flags(rest)
    if not flags <= _FLAGS or ("t" in flags) == ("f" in flags) or not paths or ("t" in flags and len(paths) > 1):
        return None
    return ScpCommand(
        receives="t" in flags,
        paths=tuple(paths),
        recursive="r" in flags,
        preserve="p" in flags,
        into_directory="d" in flags,
    )


def _flags(words: list[Word]) -> tuple[set[str], list[Word]]:
    flags: set[str] = set()
    for number, word in enumerate(words):
        if word.written == b"--" and word.pattern is None:
            return flags, words[number + 1 :]
        if not word.written.startswith(b"-") or word.written == b"-" or word.at_home:
            return flags, words[number:]
        flags |= set(word.written[1:].decode("ascii", "replace"))
    return flags, []


class _Line:
    """A command line, read character by character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """Return the next character, or "" at the end."""
        return self._text[self._at : self._at + 1]

    def take(self) -> str:
        """Return the next character and go on behind it."""
        character = self.peek()
        if not character or character == "\0":
            raise _NotForUs
        self._at += 1
        return character

    def until(self, quote: str) -> str:
        """Return what stands before the next `quote`, and go on behind it."""
        end = self._text.find(quote, self._at)
        if end < 0:
            raise _NotForUs
        found, self._at = self._text[self._at : end], end + 1
        return found


class _Growing:
    """A word, as far as it was read."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._pattern: list[str] = []
        self._globs = False
        self._bracket = False  # an unquoted "[" may still be closed
        self.at_home = False
        self.begun = False

    def quoted(self, text: str) -> None:
        """Add what only stands for itself."""
        self.begun = True
        if text and (self._bracket or "\0" in text):
            raise _NotForUs  # a quoted "]" or "-" within brackets has no notation in fnmatch
        self._written.append(text)
        self._pattern.append("".join(f"[{c}]" if c in _GLOBS else c for c in text))

    def plain(self, character: str) -> None:
        """Add a character that stood without quotes."""
        self._bracket = (self._bracket or character == "[") and character not in "]/"
        is_negation = character == "^" and self._written[-1:] == ["["] and self._pattern[-1] == "["
        self.begun = True
        self._globs = self._globs or character in _GLOBS
        self._written.append(character)
        self._pattern.append("!" if is_negation else character)

    def finished(self) -> Word:
        """Return the word."""
        pattern = "".join(self._pattern)
        if self._globs and any(name in pattern for name in _CLASSES):
            raise _NotForUs
        return Word(_bytes("".join(self._written)), _bytes(pattern) if self._globs else None, self.at_home)


def _split(command: str) -> list[Word]:
    line, words, word = _Line(command), list[Word](), _Growing()
    while character := line.peek():
        line.take()
        if character in " \t":
            if word.begun:
                words.append(word.finished())
            word = _Growing()
        elif character in _SPECIAL or (character == "#" and not word.begun):
            raise _NotForUs
        elif character == "~" and not word.begun:
            if line.peek() not in ("", "/", " ", "\t"):
                raise _NotForUs
            word.at_home = word.begun = True
        else:
            _add(word, character, line)
    if word.begun:
        words.append(word.finished())
    return words


def _add(word: _Growing, character: str, line: _Line) -> None:
    if character == "'":
        word.quoted(line.until("'"))
    elif character == '"':
        word.quoted(_in_double_quotes(line))
    elif character == "\\":
        escaped = line.take()
        word.quoted("" if escaped == "\n" else escaped)
    else:
        word.plain(character)


def _in_double_quotes(line: _Line) -> str:
    text: list[str] = []
    while (character := line.take()) != '"':
        if character in "$`":
            raise _NotForUs
        if character == "\\" and line.peek() in _ESCAPED_IN_QUOTES:
            character = line.take()
        elif character == "\\" and line.peek() == "\n":
            line.take()
            continue
        text.append(character)
    return "".join(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
