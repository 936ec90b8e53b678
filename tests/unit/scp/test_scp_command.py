"""Which command lines are those of scp clients, and how their paths are read."""

import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from bastion.files.scp import ScpCommand, parse_scp
from bastion.files.scp.command import LONGEST, Word


def _takes(path: bytes, *, recursive: bool = False, preserve: bool = False, into_directory: bool = False) -> ScpCommand:
    return ScpCommand(True, (Word(path),), recursive, preserve, into_directory)  # noqa: FBT003 - short for a table


def _gives(*paths: bytes | Word, preserve: bool = False) -> ScpCommand:
    words = tuple(path if isinstance(path, Word) else Word(path) for path in paths)
    return ScpCommand(receives=False, paths=words, preserve=preserve)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("scp -t .", _takes(b".")),
        ("scp -v -r -p -d -t /app", _takes(b"/app", recursive=True, preserve=True, into_directory=True)),
        ("scp -rpt -- -x", _takes(b"-x", recursive=True, preserve=True)),
        ("scp -qf  a\tb ", _gives(b"a", b"b")),
        ("/usr/bin/scp -pf 'a b'", _gives(b"a b", preserve=True)),
        ("scp -f - x", _gives(b"-", b"x")),
        ("scp -f ''", _gives(b"")),
        ("scp -f ~", _gives(Word(b"", at_home=True))),
        ("scp -f ~/x", _gives(Word(b"/x", at_home=True))),
        ("scp -f a~ '~'/x", _gives(b"a~", b"~/x")),
        (r"""scp -f 'it'"'"'s' a\ b "\$\x\"" a\;b""",
         _gives(b"it's", b"a b", b'$\\x"', b"a;b")),
        ("scp -f 'a\nb' a\\\nb", _gives(b"a\nb", b"ab")),
        ("scp -f /l/*.log [^a-c]?", _gives(Word(b"/l/*.log", b"/l/*.log"), Word(b"[^a-c]?", b"[!a-c]?"))),
        ("scp -f '*'* \\?", _gives(Word(b"**", b"[*]*"), b"?")),
        ("scp -f [a]' b'", _gives(Word(b"[a] b", b"[a] b"))),
        ("scp -t \udcff\u00e9", _takes(b"\xff\xc3\xa9")),
    ],
)  # fmt: skip
def test_what_clients_send_is_read_as_by_a_shell(line: str, expected: ScpCommand) -> None:
    """Flags in any grouping, quotes, globs and the home folder come out as a shell would hand them to scp."""
    assert parse_scp(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "scp",
        "scp ",
        "scp -f",
        "scp -t",
        "scp -t --",
        "scp -r x",
        "scp -f -t x",
        "scp -t a b",
        "scp -f -E x",
        "scp -f* x",
        "scp a b",
        "scpx -f x",
        "*scp -f x",
        "cd /tmp && scp -f x",
        "X=1 scp -f x",
        *(f"scp -f a{character}b" for character in "|&;<>()$`{\n\0"),
        'scp -f "$HOME"',
        'scp -f "`id`"',
        "scp -f 'open",
        'scp -f "open',
        "scp -f open\\",
        "scp -f #x",
        "scp -f ~root/x",
        "scp -f ~'/x'",
        "scp -f [[:alpha:]]",
        "scp -f [a']'b]",
        "scp -f \ud800",
        "scp -f " + "x" * LONGEST,
    ],
)
def test_what_needs_a_shell_is_left_to_one(line: str) -> None:
    """A line with anything that means more to a shell than a path, or that is no use of scp's ends, is not taken."""
    assert parse_scp(line) is None


def _words(parsed: ScpCommand, home: bytes) -> list[bytes]:
    return [(home if word.at_home else b"") + word.written for word in parsed.paths]


@settings(max_examples=300)
@given(some.lists(some.sampled_from([*"ab*?[]~/'\"\\ -^!=%+:,.@\t", "\u00e9", "'x y'", '"x y"', "\\ "]), min_size=1))
def test_a_line_that_is_taken_is_read_as_sh_reads_it(pieces: list[str]) -> None:
    """The words of every line that is taken are those that sh, told to leave globs alone, hands to its program."""
    line = "scp -f -- " + "".join(pieces)
    parsed = parse_scp(line)
    assume(parsed is not None)
    assert parsed is not None
    shell = 'scp() { shift 2; for word; do printf "%s\\0" "$word"; done; }; set -f; ' + line
    found = subprocess.run(["sh", "-c", shell], env={"HOME": "/h"}, capture_output=True, check=True).stdout
    assert b"".join(word + b"\0" for word in _words(parsed, b"/h")) == found


@given(some.text(alphabet="scpft-rd /a~*?[]'\"\\$;\n^!"))
def test_no_line_breaks_the_reader(line: str) -> None:
    """Any line is taken or left."""
    parsed = parse_scp(line)
    assert parsed is None or parsed.paths
