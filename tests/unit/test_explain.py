"""`bastion check --user alice web@mystack`: every verdict, and the line that it comes from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GRANTS = """
[[groups]]
name = "ops"
users = ["bob"]
[[grants]]
users = ["alice"]
stacks = ["mystack"]
services = ["web"]
allow = ["shell", "exec"]
[[grants]]
groups = ["ops"]
stacks = ["*"]
allow = ["exec", "forward"]
command = ["uptime"]
permitopen = ["db.internal:5432"]
[[grants]]
users = ["carol"]
stacks = ["mystack"]
allow = ["files:read"]
paths = ["/app/log/**"]
[[grants]]
users = ["carol"]
stacks = ["*"]
allow = ["files:read", "files:write"]
paths = ["/tmp/*"]
[[grants]]
users = ["alice"]
stacks = ["old"]
expires = 2020-01-01T00:00:00Z
[[grants]]
users = ["dave"]
stacks = ["late"]
expires = 2999-01-01T00:00:00Z
"""


def check(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    config = folder / "bastion.toml"
    config.write_text(f'[keys]\nhome = "{folder}/keys"\n{GRANTS}')
    command = [sys.executable, "-m", "bastion", "check", "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("user", "name", "allowed", "why_not"),
    [
        ("alice", "web@mystack", {"shell": [0], "exec": [0]}, "not in allow of grants[0]"),
        ("alice", "web.2@mystack", {"shell": [0], "exec": [0]}, "not in allow of grants[0]"),
        ("alice", "db@mystack", {}, "no grant for alice is for db@mystack"),
        ("bob", "db@anything", {"exec": [1], "forward": [1]}, "not in allow of grants[1]"),
        ("alice", "web@old", {}, "grants[4] has expired"),
        ("carol", "web@mystack", {"files:read": [2, 3], "files:write": [3]}, "not in allow of grants[2], grants[3]"),
        ("eve", "web@mystack", {}, "there is no grant for eve"),
    ],
)
def test_every_verdict_names_its_line(
    tmp_path: Path, user: str, name: str, allowed: dict[str, list[int]], why_not: str
) -> None:
    """Each permission is allowed by a grant that is named by its number, or refused and why; none at all is exit 1."""
    done = check(tmp_path, "--user", user, name, "--json")
    assert done.returncode == (0 if allowed else 1), done.stderr
    said = json.loads(done.stdout)
    assert {word: grants for word, grants in said["allowed"].items() if grants} == {
        word: [f"grants[{number}]" for number in numbers] for word, numbers in allowed.items()
    }
    assert said["refused"].keys() == {word for word, grants in said["allowed"].items() if not grants}
    assert why_not in said["refused"].values()
    table = check(tmp_path, "--user", user, name).stdout
    assert table.count("  refused  ") == len(said["refused"])
    assert why_not in table
    assert all(f"\ngrants[{number}]: " in table for numbers in allowed.values() for number in numbers)


def test_what_is_granted_but_not_served_is_said(tmp_path: Path) -> None:
    """A permission that does nothing yet says so, beside the places that the grant names for it."""
    table = check(tmp_path, "--user", "bob", "db@anything").stdout
    (forward,) = [line for line in table.splitlines() if line.startswith("forward")]
    assert forward.split() == ["forward", "allowed", "grants[1];", "it", "is", "not", "served", "yet", "-"]
    assert "permitopen = [db.internal:5432]" in table
    checked = check(tmp_path).stdout
    assert "grants[1] allows forward: that is not served yet" in checked
    assert "for alice, carol, dave, the group ops" in checked


def test_a_clock_that_was_set_back_revives_no_grant(tmp_path: Path) -> None:
    """A16: the verdict goes by the highest time that the server saw, as the server does."""
    name = ("--user", "dave", "web@late", "--json")
    assert check(tmp_path, *name).returncode == 0
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "clock").write_text("33333333333\n")
    assert json.loads(check(tmp_path, *name).stdout)["refused"]["shell"] == "grants[5] has expired"


def test_files_are_explained_by_their_paths(tmp_path: Path) -> None:
    """For files:read and files:write the paths of all the grants that count are shown."""
    said = json.loads(check(tmp_path, "--user", "carol", "web@mystack", "--json").stdout)
    assert said["paths"] == {"files:read": ["/app/log/**", "/tmp/*"], "files:write": ["/tmp/*"]}
    assert "/app/log/**, /tmp/*" in check(tmp_path, "--user", "carol", "web@mystack").stdout
    assert json.loads(check(tmp_path, "--user", "alice", "web@mystack", "--json").stdout)["paths"] == {
        "files:read": [],
        "files:write": [],
    }


@pytest.mark.parametrize(
    "words", [["--user", "alice"], ["web@mystack"], ["--user", "alice", "web"], ["--user", "alice", "a@b@c"]]
)
def test_half_a_question_is_refused_in_words(tmp_path: Path, words: list[str]) -> None:
    """A user without a name, a name without a user or without its stack, and no name at all: one line, no traceback."""
    done = check(tmp_path, *words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("bastion: error: ")
