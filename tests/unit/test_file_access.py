"""Patterns of paths: what fits them, what leads to them, and that nothing else is let through."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.files.access import Judge
from bastion.model import FileAccess

PIECES = st.lists(st.sampled_from(["/", "a", "b", "[", "é", "\udcff", "\n", "\\"]), max_size=12).map("".join)
PATTERNS = st.lists(st.sampled_from(["/", "a", "b", "[", "é", "*", "**", "?", "\n", "\\"]), max_size=8).map("".join)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def reads(*patterns: str) -> Judge:
    return Judge(FileAccess(read=patterns))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/**", "/", True),
        ("/**", "/etc/shadow", True),
        ("/app/log/**", "/app/log/web.log", True),
        ("/app/log/**", "/app/log/old/web.log", True),
        ("/app/log/**", "/app/log", True),
        ("/app/log/**", "/app/logs", False),
        ("/app/log/**", "/app", False),
        ("/app/log/**", "/x/app/log/y", False),
        ("/app/log/*", "/app/log/web.log", True),
        ("/app/log/*", "/app/log/old/web.log", False),
        ("/app/log/*", "/app/log", False),
        ("/app/log/*.log", "/app/log/.log", True),
        ("/app/log/*.log", "/app/log/web.log\n", False),
        ("/app/log/*.log", "/app/log/a\nb.log", True),
        ("/app/lo?", "/app/log", True),
        ("/app/lo?", "/app/lo/", False),
        ("/app/lo?", "/app/lo", False),
        ("/app/?", "/app/é", True),
        ("/app/?", "/app/\udcff", True),
        ("/app/[ab]", "/app/a", False),
        ("/app/[ab]", "/app/[ab]", True),
        ("/app/.", "/app/x", False),
        ("/App/**", "/app/x", False),
        ("/home/*/in/**", "/home/a/in/b", True),
        ("/home/*/in/**", "/home/a/b/in/c", False),
        ("/**/in", "/home/a/in", True),
        ("/a**z", "/a/b/z", True),
        ("/", "/", True),
        ("/", "/a", False),
    ],
)
def test_pattern_fits(pattern: str, path: str, *, expected: bool) -> None:
    """`**` is anything, `*` and `?` hold no slash, `/**` at the end means the folder too, the rest is literal."""
    judge = reads(pattern)
    assert judge.may_read(encoded(path)) is expected
    assert not judge.may_write(encoded(path))
    assert Judge(FileAccess(write=(pattern,))).may_write(encoded(path)) is expected


@given(PATTERNS, PIECES)
def test_pattern_is_the_expression_it_stands_for(pattern: str, path: str) -> None:
    """Every pattern fits exactly the paths that the regular expression of the same meaning does."""
    words = re.findall(r"\*\*+|\*|\?|[^*?]+", pattern)
    meaning = {"*": "[^/]*", "?": "[^/]"}
    expression = "".join(".*" if word[:2] == "**" else meaning.get(word, re.escape(word)) for word in words)
    folder = pattern.endswith("/**") and bool(re.fullmatch(expression[: -len("/.*")] or "/", path, re.DOTALL))
    whole = re.fullmatch(expression, path, re.DOTALL) is not None
    assert reads(pattern).may_read(encoded(path)) is (whole or folder)


@given(PATTERNS, PIECES)
def test_nothing_fits_that_a_shell_would_not_find(pattern: str, path: str) -> None:
    """What a pattern of one star or more lets through, fnmatch with the brackets taken literally does too."""
    if reads(pattern).may_read(encoded(path)) and not pattern.endswith("/**"):
        assert fnmatch.fnmatchcase(path, pattern.replace("[", "[[]"))


@given(st.lists(PATTERNS.map("/".__add__), max_size=3), PIECES.map("/".__add__))
def test_way_leads_to_what_is_allowed(patterns: list[str], path: str) -> None:
    """What is on the way is a folder above, or the last folder of, the part of a pattern before its wildcards."""
    judge = reads(*patterns)
    literals = [re.split(r"[*?]", pattern)[0] for pattern in patterns]
    above = path.rstrip("/") + "/"
    assert judge.is_on_the_way(encoded(path)) is any(literal.startswith(above) for literal in literals)


@pytest.mark.parametrize(
    ("pattern", "way", "not_on_it"),
    [
        ("/app/log/**", ["/", "/app", "/app/log"], ["/ap", "/app/lo", "/app/log/x", "/etc"]),
        ("/app/log/web.log", ["/app/log"], ["/app/log/web.log", "/app/log/db.log"]),
        ("/app/*/in/**", ["/", "/app"], ["/app/x", "/app/x/in"]),
        ("/**", ["/"], ["/etc"]),
    ],
)
def test_way_is_no_right(pattern: str, way: list[str], not_on_it: list[str]) -> None:
    """A folder on the way can be seen and not read, unless a pattern fits it; nothing beside the way is on it."""
    judge = reads(pattern)
    for path in way:
        assert judge.is_on_the_way(path.encode())
        assert judge.may_see(path.encode())
        assert judge.may_read(path.encode()) is (pattern == path + "/**" or pattern == "/**")
    assert not any(judge.is_on_the_way(path.encode()) for path in not_on_it)


@pytest.mark.parametrize(
    ("access", "home", "expected"),
    [
        (FileAccess(("/**",), ("/**",)), b"/root", b"/root"),
        (FileAccess(("/app/**",)), b"/app", b"/app"),
        (FileAccess(("/app/log/**", "/tmp/**")), b"/root", b"/app/log"),
        (FileAccess(("/app/log/*.log",)), b"/app", b"/app/log"),
        (FileAccess((), ("/in/*",)), b"/root", b"/in"),
        (FileAccess((), ("/in/**",)), b"/in/mine", b"/in/mine"),
        (FileAccess(("/*",)), b"/root/x", b"/"),
        (FileAccess(), b"/root", b"/root"),
    ],
)
def test_session_starts_where_something_is_allowed(access: FileAccess, home: bytes, expected: bytes) -> None:
    """A session starts at home, or in the first folder that its patterns name when home is out of bounds."""
    assert Judge(access).start(home) == expected


def test_no_path_keeps_the_comparison_busy() -> None:
    """A long path of a hostile container is compared with a pattern of many stars within its own length."""
    judge = reads("/" + "*a" * 30 + "b", "/" + "**a" * 30 + "b")
    assert not judge.may_read(b"/" + b"a" * 4096)  # a backtracking comparison would not end in years
