"""What `bastion check` warns of in a grant's command patterns."""

from pathlib import Path

import pytest

from bastion.cli.pattern_risks import risks
from bastion.cli.risky_programs import RISKS


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("tar *", ["arguments of tar, which starts other programs"]),
        ("/usr/bin/find /app -name *", ["arguments of find, which starts other programs"]),
        ("python3.11 **", ["arguments of python, which runs whatever it is given"]),
        ("LANG=C psql *", ["arguments of psql, which starts other programs from its prompt"]),
        ("cd /app && git **", ["arguments of git, which starts other programs"]),
        ("tail -n 5 /app/log/* | less -*", ["arguments of less, which starts other programs from its prompt"]),
        ("tail -n * /app/x | tee *", ["arguments of tee, which writes files of the caller's choice"]),
        ("bin/*", ["the caller chooses the program"]),
        ("echo >/tmp/*", ["the caller chooses a file that is written"]),
        ("echo * > x", []),
        ("tail -n * /app/log/*", []),
        ("bin/app --mode=*", []),
        ("tar cf - /app", []),
        ("tail /git/* tar", []),
        ("bin/app tar *", []),
    ],
)
def test_risk_is_named_where_a_wildcard_gives_a_say(pattern: str, words: list[str]) -> None:
    """A program of the list is named when a wildcard stands behind it; elsewhere its name means nothing."""
    found = list(risks(pattern))
    assert len(found) == len(words)
    assert all(
        sentence.endswith(ending.replace("python,", "python3.11,"))
        for sentence, ending in zip(found, words, strict=True)
    )


def test_list_has_the_programs_that_are_known_for_it() -> None:
    """The programs that people grant most, of those that start others or write files, are in the list."""
    known = """
        tar find rsync git less more man vi vim nano awk sed env sh bash xargs ssh scp nmap python perl php node psql
        mysql sqlite3 docker kubectl systemctl journalctl tee dd cp mv ln curl wget zip make strace gdb tcpdump
    """
    assert not set(known.split()) - RISKS.keys()


def test_list_is_the_one_of_the_documentation() -> None:
    """docs/configuration.md names every program, with what it does."""
    lines = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text().split("Programs to think about")[1]
    for risk in set(RISKS.values()):
        listed = lines.split(f"- {risk}: ")[1].split("\n- ")[0]
        assert {word.strip("`") for word in listed.replace(",", " ").split()} == {
            program for program, of_it in RISKS.items() if of_it == risk
        }
