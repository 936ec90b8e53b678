"""The one matcher of all patterns: it is what its regular expression is, and costs one step a character."""

import fnmatch
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.command_patterns import CommandPattern
from bastion.patterns import MAX_TEXT_CHARACTERS, Matcher, glob_matcher, name_matcher, path_matcher
from tests.steps import steps

TEXTS = st.text(alphabet="ab/-[]\n.é", max_size=12)
PATTERNS = st.lists(st.sampled_from(["a", "b", "/", "-", "[", "]", "é", "*", "**", "?", "."]), max_size=8).map("".join)
GLOBS = st.text(alphabet="ab-]![*?é\n", max_size=10).map(str.encode)
NAMES = st.binary(max_size=8).map(lambda name: name.replace(b"/", b"a")) | st.text(alphabet="ab-]!é\n").map(str.encode)


@given(PATTERNS, TEXTS)
def test_name_pattern_is_its_expression(pattern: str, text: str) -> None:
    """In names `*` and `?` stand for any character, a slash and a line's end too; a bracket is a bracket."""
    meaning = {"*": ".*", "?": "."}
    expression = "".join(meaning.get(character, re.escape(character)) for character in pattern)
    assert name_matcher(pattern).fits(text) is (re.fullmatch(expression, text, re.DOTALL) is not None)


@given(GLOBS, NAMES)
def test_glob_is_that_of_a_shell(pattern: bytes, name: bytes) -> None:
    """A glob with brackets fits exactly the names that fnmatch lets through, whatever bytes they have."""
    matcher = glob_matcher(pattern)
    assert matcher is not None
    assert matcher.fits(name.decode("latin-1")) is fnmatch.fnmatchcase(name, pattern)


def test_glob_longer_than_any_name_fits_none() -> None:
    """A glob that asks for more characters than a name can have is not compiled."""
    assert glob_matcher(b"[!x]" * 256) is None
    matcher = glob_matcher(b"*" * 10_000 + b"?" * 255)
    assert matcher is not None
    assert matcher.fits("a" * 255)
    assert not matcher.fits("a" * 254)


def test_text_has_a_limit() -> None:
    """A text longer than any path or name is compared with nothing but what takes all of it."""
    long = "/" + "a" * MAX_TEXT_CHARACTERS
    assert not path_matcher("/*a").fits(long)
    assert path_matcher("/**").fits(long)


ATTACKS: dict[str, tuple[Callable[[str], Matcher | CommandPattern], str, str]] = {
    "blanks": (CommandPattern, "rsync * * *", " "),
    "words": (CommandPattern, "rsync * * * **", " a"),
    "word": (CommandPattern, "rsync *a*a*a*a*b", "a"),
    "slashes": (CommandPattern, "rsync /**/**/**/**/b", "/a"),
    "dots": (CommandPattern, "rsync **", ".."),
    "quotes": (CommandPattern, "rsync **", "''"),
    "one quote": (CommandPattern, "rsync **", " '"),
    "name": (name_matcher, "*a*a*a*a*a*b", "a"),
    "path": (path_matcher, "/**a*/**a*/**b", "a/"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_E3_work_grows_as_the_text(attack: str) -> None:
    """Twice the text takes at most twice the steps, with many wildcards too: no text makes the comparison try again."""
    make, pattern, piece = ATTACKS[attack]
    matcher = make(pattern)
    first = {CommandPattern: "rsync ", name_matcher: "", path_matcher: "/"}[make]

    def cost(pieces: int) -> int:
        return steps(lambda: matcher.fits(first + piece * pieces))

    costs = [cost(pieces) for pieces in (250, 500, 1000, 2000)]
    overhead = cost(0) + 60
    assert all(more <= 2 * less + overhead for less, more in pairwise(costs)), costs
    assert costs[-1] <= 20 * 2000 * len(piece) + overhead


def test_E3_work_does_not_grow_with_the_wildcards() -> None:
    """Thirty wildcards cost what three do."""
    text = "a" * 2000
    few, many = name_matcher("*a" * 3 + "b"), name_matcher("*a" * 30 + "b")
    assert steps(lambda: many.fits(text)) <= steps(lambda: few.fits(text)) + 60
