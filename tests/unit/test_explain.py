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
allow = ["exec"]
command = ["uptime"]
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
"""


def check(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    config = folder / "bastion.toml"
    config.write_text(f'[keys]\nhome = "{folder}/keys"\n{GRANTS}')
    command = [sys.executable, "-m", "bastion", "check", "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("user", "name", "allowed"),
    [
        ("alice", "web@mystack", {"shell": "grants[0]", "exec": "grants[0]"}),
        ("alice", "web.2@mystack", {"shell": "grants[0]", "exec": "grants[0]"}),
        ("alice", "db@mystack", {}),
        ("bob", "db@anything", {"exec": "grants[1]"}),
        ("alice", "web@old", {}),
        ("carol", "web@mystack", {"files:read": "grants[2]", "files:write": "grants[3]"}),
        ("eve", "web@mystack", {}),
    ],
)
def test_every_verdict_names_its_line(tmp_path: Path, user: str, name: str, allowed: dict[str, str]) -> None:
    """Each permission is allowed by a grant that is named by its number, or refused; none at all is exit 1."""
    done = check(tmp_path, "--user", user, name, "--json")
    assert done.returncode == (0 if allowed else 1), done.stderr
    said = json.loads(done.stdout)["allowed"]
    assert {word: line for word, line in said.items() if line is not None} == allowed
    table = check(tmp_path, "--user", user, name).stdout
    assert table.count("refused") == len(said) - len(allowed)
    assert not allowed or "grants[" in table


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
