"""`bastion keys`: for whom a key is made, what it says, and what each command leaves in the ledger."""

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.test_cli import Cli, errors

PAST, FUTURE = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
GRANTS = f"""
[[groups]]
name = "ops"
users = ["olga"]
[[grants]]
users = ["alice"]
stacks = ["mystack"]
services = ["web*"]
[[grants]]
users = ["past"]
stacks = ["*"]
expires = {PAST}
[[grants]]
users = ["later"]
stacks = ["my*"]
expires = {FUTURE}
[[grants]]
groups = ["ops"]
stacks = ["*"]
"""


@pytest.fixture
def home(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path)
    cli.configure(GRANTS)
    cli("keys", "init", "--ca")
    return cli


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("alice", "--stack", "mystack"), True),
        (("alice", "--stack", "mystack", "--service", "web1"), True),
        (("alice", "--stack", "mystack", "--service", "db"), False),
        (("alice", "--stack", "other"), False),
        (("alice",), True),
        (("alice", "--stack", "*", "--service", "*"), True),
        (("later", "--stack", "mystack"), True),
        (("later", "--stack", "yours"), False),
        (("past", "--stack", "mystack"), False),
        (("past",), False),
        (("olga", "--stack", "anything", "--service", "db"), True),
        (("nobody", "--stack", "mystack"), False),
    ],
    ids=str,
)
def test_a_key_is_for_who_holds_a_grant(home: Cli, words: tuple[str, ...], *, made: bool) -> None:
    """By a name, a pattern or a group, and not when it has expired; without one there are words and no key."""
    done = home("keys", "issue", *words, status=0 if made else 1)
    keys = json.loads(home("keys", "list", "--json").stdout)["keys"]
    if made:
        assert [key["user"] for key in keys] == [words[0]]
    else:
        assert (done.stdout, keys) == ("", [])
        assert f"{words[0]} holds no grant" in done.stderr
        assert "bastion: hint: add a [[grants]] entry" in done.stderr


def test_a_certificate_is_for_who_holds_a_grant(home: Cli) -> None:
    """`--certificate` asks for the same grant, makes two files of the right modes, and no line in the key home."""
    home("keys", "issue", "nobody", "--stack", "mystack", "--certificate", "--output", "x", status=1)
    home(
        "keys", "issue", "alice", "--stack", "mystack", "--certificate", "--expires", "1h", "--from", "192.0.2.0/24",
        "--output", "x",
    )  # fmt: skip
    files = [home.folder / "x", home.folder / "x-cert.pub"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o644]
    shown = subprocess.run(["ssh-keygen", "-L", "-f", files[1]], capture_output=True, text=True, check=True).stdout
    (entry,) = home.ledger()
    assert entry["event"] == "certificate issued"
    assert (entry["user"], entry["seconds"], entry["from"]) == ("alice", 3600, "192.0.2.0/24")
    assert f"Serial: {entry['serial']}" in shown
    assert str(entry["authority"]) in shown
    assert json.loads(home("keys", "list", "--json").stdout)["keys"] == []
    again = home("keys", "issue", "alice", "--stack", "mystack", "--certificate", "--output", "x", status=1)
    assert "is not overwritten" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("issue", "alice", "--certificate"),
        ("issue", "alice", "--ca", "user_ca_ed25519"),
        ("revoke",),
        ("revoke", "alice", "--id", "x"),
        ("revoke", "--serial", "7"),
        ("revoke", "--ca", "SHA256:x"),
        ("revoke", "--serial", "-7", "--ca", "SHA256:x"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_wrong_usage(home: Cli, words: tuple[str, ...]) -> None:
    """Wrong usage is one error, status 2, and changes nothing."""
    before = {path: path.read_bytes() for path in (home.folder / "keys").rglob("*") if path.is_file()}
    done = home("keys", *words, status=2)
    assert (len(errors(done.stderr)), done.stdout) == (1, "")
    assert {path: path.read_bytes() for path in before} == before


def test_certificates_are_revoked_by_id_and_serial(home: Cli) -> None:
    """Each is one line of `revoked`, once, and one of the ledger."""
    authority = "SHA256:" + "A" * 43
    for _ in range(2):
        home("keys", "revoke", "--id", "ticket  42")
        home("keys", "revoke", "--serial", "7", "--ca", authority)
    lines = (home.folder / "keys" / "revoked").read_text().splitlines()
    assert lines[1:] == ["id ticket 42", f"serial {authority} 7"]
    assert [entry["event"] for entry in home.ledger()] == ["certificate revoked"] * 4
    for words in (("--id", " "), ("--serial", "7", "--ca", "nonsense"), ("--serial", str(2**64), "--ca", authority)):
        assert len(errors(home("keys", "revoke", *words, status=1).stderr)) == 1


def test_a_key_lasts_ninety_days_unless_told(home: Cli) -> None:
    """The default is in the key's line and in the ledger."""
    home("keys", "issue", "alice", "--stack", "mystack", "--output", "key")
    (key,) = json.loads(home("keys", "list", "--json").stdout)["keys"]
    left = datetime.fromisoformat(key["expires"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left <= timedelta(days=90)
    assert home.ledger()[0]["seconds"] == 90 * 86400


def test_revoking_a_user_names_the_tokens_that_stay(home: Cli) -> None:
    """A token of the user's could make another key: each is named, others' are not; one key's revocation names none."""
    for name, user in (("ci", "alice"), ("other", "olga")):
        home("tokens", "issue", name, "--scope", "keys:issue", "--user", user)
    home("keys", "issue", "alice", "--stack", "mystack")
    done = home("keys", "revoke", "alice")
    assert done.stderr.count("bastion tokens revoke") == 1
    assert "alice still has the token ci: bastion tokens revoke ci" in done.stderr


@pytest.mark.parametrize("form", ["rfc4716", "byte order mark", "CRLF", "standard input"])
def test_a_public_key_is_taken_as_other_tools_write_it(home: Cli, tmp_path: Path, form: str) -> None:
    """RFC 4716 with a continued comment, a byte order mark, and CRLF: the same key, by its fingerprint."""
    key = tmp_path / "laptop"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "olga's laptop", "-f", str(key)], check=True)
    public = key.with_suffix(".pub")
    content = public.read_bytes()
    if form == "rfc4716":
        content = subprocess.run(["ssh-keygen", "-e", "-f", str(public)], check=True, capture_output=True).stdout
        content = content.replace(b"Comment: ", b"Comment: \\\n").replace(b"\n", b"\r\n")
    elif form == "byte order mark":
        content = b"\xef\xbb\xbf" + content
    elif form == "CRLF":
        content = content.replace(b"\n", b"\r\n")
    file = tmp_path / "key.txt"
    file.write_bytes(content)
    words = subprocess.run(["ssh-keygen", "-l", "-f", str(public)], check=True, capture_output=True, text=True).stdout
    if form == "standard input":
        command = [sys.executable, "-m", "bastion", "keys", "add", "olga", "-"]
        subprocess.run(command, input=content, check=True, cwd=home.folder, capture_output=True)
    else:
        home("keys", "add", "olga", str(file))
    (listed,) = json.loads(home("keys", "list", "--json").stdout)["keys"]
    assert listed["fingerprint"] == words.split()[1]


@pytest.mark.parametrize("form", ["openssh", "PEM", "putty"])
def test_a_private_key_is_refused_in_words(home: Cli, tmp_path: Path, form: str) -> None:
    """Whoever gives the private half is told to give the public one, and nothing is written."""
    key = tmp_path / "laptop"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    content = {
        "openssh": key.read_text(),
        "PEM": "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n",
        "putty": "PuTTY-User-Key-File-3: ssh-ed25519\n",
    }
    key.write_text(content[form])
    done = home("keys", "add", "olga", str(key), status=1)
    assert errors(done.stderr) == ["bastion: error: that is a private key, which stays with its owner"]
