"""The commands that a grant names: what fits a pattern, and the attacks that do not (threats E4, C3)."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bastion.command_patterns import MAX_COMMAND_CHARACTERS, CommandPattern
from bastion.config import GrantSettings
from bastion.errors import Refused
from bastion.model import Identity, Name, Request
from bastion.policy import Policy

ALICE = Identity("alice", "SHA256:x", "192.0.2.7")


def grant(*patterns: str) -> GrantSettings:
    return GrantSettings(users=("alice",), stacks=("shop",), allow=("exec",), command=patterns)


def request(command: str) -> Request:
    return Request("uid", Name("web", None, "shop"), "exec", command)


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("uptime", "uptime"),
        ("psql -c 'select 1'", "psql -c 'select 1'"),
        ("tail -f /log/a|b", "tail -f /log/a|b"),
        ("echo é", "echo é"),
        ("pg_dump *", "pg_dump shop"),
        ("pg_dump *", "pg_dump dbname=shop"),
        ("pg_dump *", "pg_dump 'shop'"),
        ("pg_dump *", 'pg_dump sh"op"'),
        ("pg_dump -* *", "pg_dump -Fc shop"),
        ("pg_dump **", "pg_dump"),
        ("pg_dump **", "pg_dump -Fc --table=a.b --file=/tmp/x postgresql://u@h/shop"),
        ("tail -n * /app/log/*", "tail -n 5 /app/log/web.log"),
        ("tail -n * /app/log/*", "tail -n 5 '/app/log/web.log'"),
        ("tail -n * /app/log/*", "tail -n 5 /app/log/.hidden"),
        ("tail -n * /app/log/**", "tail -n 5 /app/log/2026/11/web.log"),
        ("tail -n * ../log/*", "tail -n 5 ../log/web.log"),
        ("cat /app/*/log/?", "cat /app/a/log/1"),
        ("git diff *", "git diff v1..v2"),
        ("curl http://localhost/*", "curl http://localhost/health"),
        ("bin/app --mode=*", "bin/app --mode=fast"),
        ("bin/app --mode=*", "bin/app --mode=-1"),
        ("LANG=* sort *", "LANG=C.UTF-8 sort names"),
        ("cd /app && bin/rake *", "cd /app && bin/rake db:migrate"),
        ('psql -c "select * from t"', 'psql -c "select a,b from t"'),
        ("ls /app/*/", "ls /app/log/"),
        ("ls **.log", "ls /app/web.log"),
    ],
)
def test_command_fits(pattern: str, command: str) -> None:
    """What a pattern is meant for fits it."""
    assert Policy([grant(pattern)]).authorize(ALICE, request(command))


_AFTER_A_WORD = (
    ";id", " ; id", "&&id", "&& id", "|id", "| id", "\nid", "\n", "\rid", "`id`", "$(id)", "$HOME", "${IFS}id", ">x",
    "<x", "<(id)", "&", "(id)", "{a,b}", "*", "?", "[a]", "~root", " ~", "!1", "#", " #x", "\\", "\\\n", "\0", "é",
    "\t", "\tid", "\xa0id", "\u2003id", "\udcff", "'a", '"a', '"$HOME"', "'a b'", " ''", " ", "  x", "\x1b[2J", "\x85",
)  # fmt: skip
ATTACKS: list[tuple[str, str]] = [
    # A wildcard is one word.
    ("tail -n * /app/log/*", "tail -n 5 /etc/shadow /app/log/x"),
    ("tail -n * /app/log/*", "tail -n /etc/shadow /app/log/x"),
    ("tail -n * /app/log/*", "tail -n 5 /app/log/x /etc/shadow"),
    ("tail -n * /app/log/*", "tail -n '5 /etc/shadow' /app/log/x"),
    ("pg_dump *", "pg_dump"),
    ("pg_dump *", "pg_dump "),
    ("pg_dump *", "pg_dump ''"),
    ("pg_dump *", "pg_dumpall"),
    ("pg_dump *", "pg_dump shop other"),
    ("pg_dump *", " pg_dump shop"),
    ("pg_dump *", "pg_dump  shop"),
    # It begins no option.
    ("tar *", "tar --checkpoint-action=exec=id"),
    ("tar cf * *", "tar cf --checkpoint=1 --checkpoint-action=exec=id"),
    ("tar *", "tar '-x'"),
    ("tar *", 'tar ""-x'),
    ("tar ?x", "tar -x"),
    ("tar **x*", "tar --use-compress-program=x"),
    ('sh -c "tail *"', 'sh -c "tail -f"'),
    ('run "*"', 'run "-x"'),
    ("run a;*", "run a;-x"),
    # Its path leads nowhere else.
    ("tail -n * /app/log/*", "tail -n 5 /app/log/../../etc/shadow"),
    ("tail -n * /app/log/*", "tail -n 5 /app/log/.."),
    ("tail -n * /app/log/*", "tail -n 5 /app/log/."),
    ("tail -n * /app/log/*", "tail -n 5 /app/log/"),
    ("tail -n * /app/log/*", "tail -n 5 /app/log/old/x"),
    ("tail -n * /app/log/*", "tail -n 5 /app/log//x"),
    ("tail -n * /app/log/**", "tail -n 5 /app/log/x/../../../etc/shadow"),
    ("tail -n * /app/log/**", "tail -n 5 /app/log/../../etc/shadow"),
    ("tail -n * /app/log/**", "tail -n 5 /app/log/x/.."),
    ("tail -n * /app/log/**", "tail -n 5 /app/log/"),
    ("tail -n * /app/log/**", "tail -n 5 /app/log"),
    ("tail -n * /app/log/**", "tail -n 5 /app/log/./x"),
    ("cat /app/*/x", "cat /app//x"),
    ("cat /app/*/x", "cat /app/../x"),
    ("cat *", "cat /etc/shadow"),
    ("cat *", "cat .."),
    ("cat ../*", "cat ../.."),
    ("cat '/app/*'", "cat '/app/..'"),
    ("cat '/app/*'", "cat '/app/.'"),
    ("app --in=*", "app --in=.."),
    ("app --in=**", "app --in=../../etc/shadow"),
    ("app -I*", "app -I.."),
    ("app **", "app ../../etc/shadow"),
    ("app **", "app --in=.."),
    # Before a program it assigns nothing.
    ("* x", "LD_PRELOAD=/tmp/x.so x"),
    ("* *", "PATH=/tmp/x ls"),
    ("LANG=* * *", "LANG=C PATH=/tmp/x ls"),
    ("cd /app && * x", "cd /app && PATH=/tmp/x x"),
    ("cd /app;* x", "cd /app;PATH=/tmp/x x"),
    ("cd /app && **", "cd /app && PATH=/tmp/x x"),
    ("time * x", "time PATH=/tmp/x x"),
    # Quotes hide nothing where the pattern has some of its own.
    ('psql -c "select * from t"', "psql -c \"select 'a' from t\""),
    ('psql -c "select * from t"', 'psql -c "select "id" from t"'),
    ("show {*}", "show {a,b}"),
    ("show {*}", "show {1..9}"),
    # Without a wildcard it is the line as it stands.
    ("uptime", "uptime -p"),
    ("uptime", " uptime"),
    ("uptime", "uptime\n"),
    ("uptime", "'uptime'"),
    ("uptime", ""),
    ("tail -f /log/a|b", "tail -f /log/a|c"),
    ("pg_dump **", "pg_dump " + "a" * MAX_COMMAND_CHARACTERS),
    *((pattern, f"pg_dump shop{evil}") for evil in _AFTER_A_WORD for pattern in ("pg_dump *", "pg_dump **")),
]


@pytest.mark.parametrize(("pattern", "command"), ATTACKS)
def test_E4_command_does_not_fit(pattern: str, command: str) -> None:
    """A command that reads, writes or runs more than the pattern says is refused; the hint has the patterns."""
    policy = Policy([grant("id -u", pattern)])
    with pytest.raises(Refused, match="no grant lets alice run that command in web@shop") as caught:
        policy.authorize(ALICE, request(command))
    assert caught.value.hint.startswith(f"you may run: id -u; {pattern}")


def test_hint_says_what_a_wildcard_is_not() -> None:
    """Where a pattern has a wildcard the hint says what it does not stand for; else it only lists what may be run."""
    for patterns, ending in {
        ("uptime",): "uptime",
        ("a *",): "a *; * is within one word, without a slash or a - in front",
    }.items():
        with pytest.raises(Refused) as caught:
            Policy([grant(*patterns)]).authorize(ALICE, request("id"))
        assert caught.value.hint == f"you may run: {ending}"
    with pytest.raises(Refused) as caught:
        Policy([grant("a *")]).authorize(ALICE, request("a" * (MAX_COMMAND_CHARACTERS + 1)))
    assert "more than 8192 characters fits no wildcard" in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("**", "alone bounds nothing"),
        ("tail ** x", "in a place other than the end"),
        ("tail  *", "a blank too many"),
        (" tail *", "a blank too many"),
        ("echo $*", "the caller name another"),
        ("echo $?x", "the caller name another"),
        ("echo $HOME*", "the caller name another"),
        ("ls ~*", "name a home"),
        ("ls \\*", "nothing escapes it"),
        ("cat /app/*/../x", "fits nothing"),
        ("cat /app/*/./x", "fits nothing"),
        ("cat /app/*//x", "fits nothing"),
        ("cat *..", "fits nothing"),
        ("a" * 5000, "longer than 4096 characters"),
    ],
)
def test_pattern_that_could_not_mean_what_it_says_is_refused(pattern: str, words: str) -> None:
    """A pattern that fits nothing, or lets more through than it seems to, is an error of the configuration."""
    with pytest.raises(ValidationError, match=words):
        grant(pattern)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder in which a glob would find something."""
    folder = tmp_path_factory.mktemp("globs")
    for name in ("a", "b", "-x", "a b"):
        (folder / name).touch()
    return folder


COMMANDS = st.text(alphabet="ab-/.=,:@%+_ '\"", max_size=16) | st.text(
    alphabet="aab-/.= '\"*?[]{}~#!^$&;|<>()`\\\t\né\xa0", max_size=10
)


@settings(max_examples=150, deadline=None)
@given(command=COMMANDS.map("show ".__add__))
def test_E4_what_fits_is_what_the_shell_runs(folder: Path, command: str) -> None:
    """A shell makes of a command that fits exactly the words that were compared: nothing expands, splits or runs."""
    if not any(CommandPattern(pattern).fits(command) for pattern in ("show **", "show *", "show * *")):
        return
    words = [word.replace("'", "").replace('"', "") for word in command.split(" ")[1:]]
    for shell in ("sh", "bash"):
        script = f"show() {{ printf '%s\\0' \"$@\"; }}\n{command}"
        done = subprocess.run([shell, "-c", script], cwd=folder, capture_output=True, check=True, timeout=20)
        assert done.stdout == "".join(f"{word}\0" for word in words or [""]).encode()
        assert done.stderr == b""
