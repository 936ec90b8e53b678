"""Match a client's command against a grant's patterns, word by word, so that the shell runs the command as matched.

The command runs as `sh -c COMMAND`. A wildcard therefore stands only for characters that have no meaning to any shell,
within one word, and for no path that leads elsewhere. sudoers(5) matches a whole line at once, and warns of the
consequence: `cat /var/log/*` then allows `cat /var/log/x /etc/shadow` (threats E4). docs/configuration.md has the
rules for operators; tests/unit/test_policy_commands.py has the attacks.
"""

import re
from itertools import pairwise, zip_longest
from typing import Final

from bastion.patterns import MAX_PATTERN_CHARACTERS, Matcher, Notation, parse

MAX_COMMAND_CHARACTERS: Final = 8192  # of a command that is matched against wildcards

# Characters without a meaning to any shell. ASCII only: a locale may make a non-ASCII character a blank.
PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=,@%+-")
_WORDS: Final = Notation(allowed=PLAIN, barriers=frozenset("/"))
_NAME: Final = PLAIN - frozenset("./:=,@%+-")
WILDCARDS: Final = frozenset("*?")
_REST: Final = "**"
# A program follows these words of a pattern, and assignments may precede a program.
RESERVED: Final = frozenset({"coproc", "do", "elif", "else", "if", "then", "time", "until", "while"})
_VARIABLE: Final = re.compile(r"\$[A-Za-z0-9_]*[*?]")
_MISLEADING: Final = {
    "~": "would let the caller name a home",
    "\\": "is a wildcard all the same: nothing escapes it",
}


class CommandPattern:
    """One pattern of a grant's `command`.

    A pattern without a wildcard matches one command line, character for character. Any other pattern is split at
    single blanks into words:

    - `*` and `?` match within a word, but no slash;
    - `**` within a word matches slashes too;
    - `**` as the last word matches the rest of the line.

    Raises:
        ValueError: the pattern could not work as written; the message continues "PATTERN …".
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._is_literal = not WILDCARDS & set(text)
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise ValueError(f"is longer than {MAX_PATTERN_CHARACTERS} characters")
        if _VARIABLE.search(text):
            raise ValueError("has a wildcard in a variable's name, which would let the caller name another")
        words = text.split(" ") if not self._is_literal else []
        self._takes_rest = words[-1:] == [_REST]
        fixed = words[:-1] if self._takes_rest else words
        if self._takes_rest and not fixed:
            raise ValueError("alone bounds nothing: leave command out")
        if _REST in fixed:
            raise ValueError("has ** in a place other than the end: within a line it stands in a word, as in /app/**")
        if "" in fixed:
            raise ValueError("has a blank too many: one stands between two words")
        self._words = [_Word(word) for word in fixed]
        self._may_unquote = set(text) <= PLAIN | WILDCARDS | {" "}

    def fits(self, command: str) -> bool:
        """Tell whether the command fits the pattern, in time linear in the command's length."""
        if self._is_literal:
            return command == self.text
        if len(command) > MAX_COMMAND_CHARACTERS:
            return False
        words = command.split(" ")
        if len(words) < len(self._words) or (len(words) > len(self._words) and not self._takes_rest):
            return False
        if self._may_unquote:
            words = [_unquoted(word) for word in words]
        may_assign = True
        for pattern, word in zip_longest(self._words, words):
            if pattern is None:
                is_fit, writes_assignment, leads_program = _is_plain_rest(word), False, False
            else:
                is_fit, writes_assignment, leads_program = (
                    pattern.fits(word),
                    pattern.is_assignment,
                    pattern.leads_program,
                )
            if not is_fit or (may_assign and "=" in word and not writes_assignment):
                return False
            may_assign = leads_program or (may_assign and writes_assignment)
        return True


class _Word:
    """One word of a pattern, raw: quotes and every other character special to a shell stand for themselves."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._matcher = Matcher(tuple(parse(text)), _WORDS)
        self._is_literal = not WILDCARDS & set(text)
        literal = text[: min((text.find(wildcard) for wildcard in "*?" if wildcard in text), default=len(text))]
        self.is_assignment = "=" in literal
        self.leads_program = not set(text) <= PLAIN | WILDCARDS or text in RESERVED
        self._start = literal.rfind("/") + 1
        self._is_deep = "**" in text
        self._has_brace = "{" in text
        # A wildcard at the beginning of a word, or behind a character that may begin a word for a shell: a quote, ….
        self._before = {before for before, now in pairwise(text) if now in WILDCARDS} - PLAIN - WILDCARDS
        for before in sorted(self._before & _MISLEADING.keys()):
            raise ValueError(f"has a wildcard behind {before}, which {_MISLEADING[before]}")
        if not self._is_literal and not self._is_straight(re.sub(r"[*?]+", "x", text[self._start :])):
            raise ValueError("fits nothing: no name behind a wildcard may be empty, . or ..")

    def fits(self, word: str) -> bool:
        """Tell whether a word of the command fits, as the command spells that word."""
        if self._is_literal:
            return word == self._text
        if self._text[0] in WILDCARDS and word.startswith("-"):
            return False
        if any(f"{before}-" in word for before in self._before) or (
            self._before and "=" in word and not self.is_assignment
        ):
            return False
        # brace expansion: bash makes several words of {a,b} and {1..9}
        if self._has_brace and (("," in word and "," not in self._text) or (".." in word and ".." not in self._text)):
            return False
        return self._matcher.fits(word) and self._is_straight(word[self._start :])

    def _is_straight(self, rest: str) -> bool:
        """Tell whether `rest`, the text behind the last slash before any wildcard, cannot lead out of its folder."""
        if _leads_up(rest):
            return False
        *above, last = rest.split("/")
        if above and not last and self._text.endswith("/"):
            *above, last = above
        for place, name in enumerate((*above, last)):
            is_root = place == 0 and bool(above) and self._start == 0
            if not name and not is_root and (place == len(above) or not self._is_deep):
                return False
            is_whole = self._start == 0 and not above
            if name.strip("\"'") == "." and not is_whole:
                return False
        return True


def _is_plain_rest(word: str) -> bool:
    return bool(word) and set(word) <= PLAIN and not _leads_up(word)


def _leads_up(text: str) -> bool:
    """Tell whether some `..` may be a path component: each may, except before a letter, a digit or `_` (`a..b`)."""
    at = text.find("..")
    while at >= 0:
        if text[at + 2 : at + 3] not in _NAME:
            return True
        at = text.find("..", at + 1)
    return False


def _unquoted(word: str) -> str:
    """Return a word without its quotes, as a shell would, if the quoted text is plain; else the word unchanged."""
    parts: list[str] = []
    at = 0
    while at < len(word):
        quote = word[at]
        if quote in "'\"":
            end = word.find(quote, at + 1)
            if end < 0:
                return word
            parts.append(word[at + 1 : end])
            at = end + 1
        else:
            parts.append(quote)
            at += 1
    text = "".join(parts)
    return text if set(text) <= PLAIN else word
