"""Wildcard patterns, matched in one pass over the text, without backtracking, even on hostile text.

A pattern is a nondeterministic finite automaton. Its states are the positions in the pattern, and the set of states
reachable by the text so far is one integer, a bit per state. Each character of the text costs one step, so 2,000 blanks
against `* * *` cost 2,000 steps; the former regular expression took 52 s (threats E3; tests/unit/test_patterns.py).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import takewhile
from typing import Final

MAX_TEXT_CHARACTERS: Final = 32 * 1024  # a longer text fits no pattern; Linux's paths end at 4,096 bytes
MAX_PATTERN_CHARACTERS: Final = 4096
_MAX_FILE_NAME_BYTES: Final = 255  # Linux's NAME_MAX
_CACHED_PATTERNS: Final = 4096
_PART: Final = re.compile(r"\*\*+|.", re.DOTALL)


class Wildcard(Enum):
    """A pattern item that matches characters which the pattern does not name."""

    ONE = "?"
    MANY = "*"
    DEEP = "**"


Item = frozenset[str] | Wildcard  # one character of these, or a wildcard


@dataclass(frozen=True, slots=True)
class Notation:
    """The characters that wildcards match: `**` those `allowed` (None: all), `*` and `?` those but `barriers`."""

    allowed: frozenset[str] | None = None
    barriers: frozenset[str] = frozenset()


NAMES: Final = Notation()
PATHS: Final = Notation(barriers=frozenset("/"))


class Matcher:
    """A compiled pattern."""

    def __init__(self, items: Sequence[Item], notation: Notation) -> None:
        literal = [next(iter(item)) for item in takewhile(_is_character, items) if isinstance(item, frozenset)]
        self.prefix = "".join(literal)
        self._allowed, self._barriers = notation.allowed, notation.barriers
        self._characters: dict[str, int] = {}
        self._any_one = self._loops = self._deep_loops = 0
        state = 1
        for item in items[len(literal) :]:
            if item is Wildcard.MANY:
                self._loops |= state
            elif item is Wildcard.DEEP:
                self._deep_loops |= state
            else:
                if item is Wildcard.ONE:
                    self._any_one |= state
                for character in item if isinstance(item, frozenset) else ():
                    self._characters[character] = self._characters.get(character, 0) | state
                state <<= 1
        self._end = state
        loops = self._deep_loops | (self._loops if not notation.barriers else 0)
        self._takes_any_rest = state == 1 and loops != 0 and notation.allowed is None
        ending = [next(iter(item)) for item in takewhile(_is_character, reversed(items)) if isinstance(item, frozenset)]
        self._suffix = "".join(reversed(ending))

    def fits(self, text: str) -> bool:
        """Tell whether the pattern matches the whole text, in one step per character; case-sensitive."""
        if not text.startswith(self.prefix) or not text.endswith(self._suffix):
            return False
        if self._takes_any_rest:
            return True
        if len(text) > MAX_TEXT_CHARACTERS:
            return False
        states = 1
        for character in text[len(self.prefix) :]:
            is_allowed = self._allowed is None or character in self._allowed
            is_within = is_allowed and character not in self._barriers
            moves = self._characters.get(character, 0) | (self._any_one if is_within else 0)
            loops = (self._loops if is_within else 0) | (self._deep_loops if is_allowed else 0)
            states = (states & moves) << 1 | states & loops
            if not states:
                return False
        return states & self._end != 0


def parse(pattern: str) -> Iterator[Item]:
    """Yield the items of a pattern: `*`, `**` and `?` are wildcards, every other character stands for itself."""
    for part in _PART.findall(pattern):
        if part.startswith("**"):
            yield Wildcard.DEEP
        else:
            yield Wildcard(part) if part in "*?" else frozenset(part)


@lru_cache(maxsize=_CACHED_PATTERNS)
def name_matcher(pattern: str) -> Matcher:
    """Return the matcher of a user's, stack's or service's name or an address; `*` and `?` match any character."""
    return Matcher(tuple(parse(pattern)), NAMES)


def path_matcher(pattern: str) -> Matcher:
    """Return the matcher of an absolute path: `*` and `?` match no slash, `**` matches every character."""
    return Matcher(tuple(parse(pattern)), PATHS)


def glob_matcher(pattern: bytes) -> Matcher | None:
    """Return the matcher of a file's name by a shell's glob; None if the glob only fits names above NAME_MAX.

    Texts are names decoded as Latin-1, a character per byte. Brackets are as in fnmatch(3): `[!…]` matches every
    character but these, a leading `]` is literal, and an unclosed `[` is literal. No name has a slash.
    """
    items = tuple(_parse_glob(pattern.decode("latin-1")))
    if sum(item is not Wildcard.MANY for item in items) > _MAX_FILE_NAME_BYTES:
        return None
    return Matcher(items, NAMES)


def _is_character(item: Item) -> bool:
    return isinstance(item, frozenset) and len(item) == 1


def _parse_glob(pattern: str) -> Iterator[Item]:
    at = 0
    last_bracket = pattern.rfind("]")
    while at < len(pattern):
        character, at = pattern[at], at + 1
        if character == "[" and at < last_bracket:
            first = at + (pattern[at] == "!")
            end = pattern.find("]", first + 1)
            if end > 0:
                yield _bracket(pattern[first:end], negated=first > at)
                at = end + 1
                continue
        yield Wildcard.MANY if character == "*" else Wildcard.ONE if character == "?" else frozenset(character)


def _bracket(listed: str, *, negated: bool) -> frozenset[str]:
    characters: set[str] = set()
    at = 0
    while at < len(listed):
        if listed[at + 1 : at + 2] == "-" and at + 2 < len(listed):
            characters.update(map(chr, range(ord(listed[at]), ord(listed[at + 2]) + 1)))
            at += 3
        else:
            characters.add(listed[at])
            at += 1
    return frozenset(set(map(chr, range(256))) - characters if negated else characters)
