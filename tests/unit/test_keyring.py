"""Whose key it is, what bounds it, and how keys are issued and added."""

import base64
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bastion.errors import ConfigurationError
from bastion.keyring import Keyring
from tests.unit.keyring_home import ADDRESS, blob, generate, holder, known, write


def test_issued_key_is_an_openssh_pair(keyring: Keyring, tmp_path: Path) -> None:
    """ssh-keygen reads the private half and finds the same public half and fingerprint; no file keeps it."""
    issued = keyring.issue("alice", stack="mystack", service="web", expires=timedelta(days=90))
    path = tmp_path / "id"
    path.write_text(issued.private_text)
    path.chmod(0o600)
    public = subprocess.run(["ssh-keygen", "-y", "-f", path], check=True, capture_output=True, text=True).stdout
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True).stdout
    assert blob(public) == blob(issued.public_line)
    assert issued.fingerprint in shown
    secret = issued.private_text.splitlines()[3]
    assert not [file for file in keyring.home.rglob("*") if file.is_file() and secret in file.read_text()]
    assert issued.public_line.endswith(f" alice web@mystack {datetime.now(UTC):%Y-%m-%d}")
    identity = known(keyring, issued)
    assert (identity.user, identity.key_stack, identity.key_service) == ("alice", "mystack", "web")
    [listed] = keyring.list()
    assert listed.state == "good"
    assert listed.expires is not None
    assert abs(listed.expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=2)


@pytest.mark.parametrize(
    "arguments",
    [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256"), ("-t", "rsa", "-b", "2048")],
)
def test_strong_key_is_accepted(keyring: Keyring, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Keys of the allowed types that ssh-keygen makes let their user in."""
    line = generate(tmp_path, *arguments)
    keyring.add("alice", line)
    keyring.refresh()
    assert holder(keyring, line) == "alice"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-t", "rsa", "-b", "1024"), "1024 bits"),
        (("-t", "ecdsa", "-b", "384"), "not accepted"),
        (("-t", "ecdsa", "-b", "521"), "not accepted"),
    ],
)
def test_weak_key_is_refused(keyring: Keyring, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Weak keys and other types are refused by `add`, and by the file with its line."""
    line = generate(tmp_path, *arguments)
    with pytest.raises(ConfigurationError, match=words):
        keyring.add("alice", line)
    write(keyring, "alice", "# first", line)
    assert keyring.refresh()
    assert holder(keyring, line) is None
    [problem] = keyring.problems
    assert problem.startswith(f"{keyring.home / 'users' / 'alice.pub'}:2: ")
    assert words in problem


def test_security_key_is_accepted(keyring: Keyring) -> None:
    """A FIDO key's public half, whose application is part of it, is accepted."""
    issued = keyring.issue("bob")
    point = blob(issued.public_line)[-32:]
    name = b"sk-ssh-ed25519@openssh.com"
    made = b"".join(len(part).to_bytes(4, "big") + part for part in (name, point, b"ssh:"))
    keyring.add("alice", f"{name.decode()} {base64.b64encode(made).decode()}")
    keyring.refresh()
    identity = keyring.identify(made, ADDRESS)
    assert identity is not None
    assert identity.user == "alice"
    assert keyring.identify(made[:-1], ADDRESS) is None


@pytest.mark.parametrize(
    "tampered",
    [
        lambda raw: raw + b"\x00",
        lambda raw: raw[:-1],
        lambda raw: raw[:4] + b"ssh-ed25518" + raw[15:],
        lambda raw: raw[:15] + (33).to_bytes(4, "big") + raw[19:] + b"\x00",
    ],
)
def test_malformed_key_is_refused(keyring: Keyring, tmp_path: Path, tampered: Callable[[bytes], bytes]) -> None:
    """A blob that is not exactly one well-formed key of its type is refused."""
    raw = tampered(blob(generate(tmp_path, "-t", "ed25519")))
    with pytest.raises(ConfigurationError):
        keyring.add("alice", f"ssh-ed25519 {base64.b64encode(raw).decode()}")
    assert keyring.identify(raw, ADDRESS) is None


def test_rsa_key_in_another_form_is_refused(keyring: Keyring, tmp_path: Path) -> None:
    """An RSA key with a needless zero before its exponent is a second form of the same key, and refused."""
    raw = blob(generate(tmp_path, "-t", "rsa", "-b", "2048"))
    name, rest = raw[:11], raw[11:]
    size = int.from_bytes(rest[:4], "big")
    other = name + (size + 1).to_bytes(4, "big") + b"\x00" + rest[4:]
    with pytest.raises(ConfigurationError, match=r"canonical|cannot be read"):
        keyring.add("alice", f"ssh-rsa {base64.b64encode(other).decode()}")


def test_certificate_is_no_line(keyring: Keyring, tmp_path: Path) -> None:
    """A certificate itself is not put on a line; the words say so."""
    generate(tmp_path, "-t", "ed25519")
    subprocess.run(["ssh-keygen", "-q", "-s", tmp_path / "made0", "-I", "x", tmp_path / "made0.pub"], check=True)
    with pytest.raises(ConfigurationError, match="not accepted"):
        keyring.add("alice", (tmp_path / "made0-cert.pub").read_text())


def test_key_in_two_lines_lets_nobody_in(keyring: Keyring, tmp_path: Path) -> None:
    """A key that two users hold, or one twice, is nobody's; both lines are named, and `add` refuses the second."""
    line = generate(tmp_path, "-t", "ed25519")
    keyring.add("alice", line)
    with pytest.raises(ConfigurationError, match="already in"):
        keyring.add("bob", f"restrict {line}")
    write(keyring, "bob", f"restrict {line}")
    keyring.refresh()
    assert holder(keyring, line) is None
    assert [p.partition(": ")[0].rpartition("/")[2] for p in keyring.problems] == ["alice.pub:1", "bob.pub:1"]
    assert {listed.state for listed in keyring.list()} == {"duplicate"}


def test_options_become_the_identitys_bounds(keyring: Keyring, tmp_path: Path) -> None:
    """What stands before the key is in the identity; `from=` decides by the client's address."""
    line = generate(tmp_path, "-t", "ed25519")
    write(keyring, "alice", f'restrict,stack="s",permitopen="db:5432",from="192.0.2.0/24" {line}')
    keyring.refresh()
    identity = keyring.identify(blob(line), ADDRESS)
    assert identity is not None
    assert identity.permit_open == ("db:5432",)
    assert (identity.may_pty, identity.may_forward, identity.key_stack) == (False, False, "s")
    assert holder(keyring, line, "198.51.100.1") is None
    write(keyring, "alice", f"restrict {line}")
    keyring.refresh()
    assert keyring.objection(identity) == "the key's options changed"


def test_add_takes_one_line(keyring: Keyring, tmp_path: Path) -> None:
    """Two lines in one, and a comment, are refused and nothing is written."""
    line = generate(tmp_path, "-t", "ed25519")
    for text in (f"{line}\n{line}", "# words", "", f"unknown {line}", "ssh-ed25519 \ud800"):
        with pytest.raises(ConfigurationError):
            keyring.add("alice", text)
    assert not (keyring.home / "users" / "alice.pub").exists()


def test_add_keeps_what_is_there(keyring: Keyring, tmp_path: Path) -> None:
    """A last line without a line's end is not run together with the new one; the file is for its owner only."""
    first, second = generate(tmp_path, "-t", "ed25519"), generate(tmp_path, "-t", "ed25519")
    path = keyring.home / "users" / "alice.pub"
    path.write_text(f"# mine\n{first}")
    path.chmod(0o644)
    keyring.add("alice", second)
    keyring.refresh()
    assert path.read_text() == f"# mine\n{first}\n{second}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (holder(keyring, first), holder(keyring, second)) == ("alice", "alice")


@pytest.mark.parametrize("user", ["", "Alice", "../alice", "a/b", ".hidden", "a\n", "a\x00b", "é", "x" * 65, "-rf"])
def test_user_name_outside_of_the_grammar_is_refused(keyring: Keyring, user: str) -> None:
    """No name but a user's becomes a file."""
    before = sorted(keyring.home.rglob("*"))
    for change in (lambda: keyring.issue(user), lambda: keyring.revoke(user)):
        with pytest.raises(ConfigurationError, match="no name of a user"):
            change()
    assert sorted(keyring.home.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "*", "my stack", 'a"b', "a\nb", "../x", "x" * 254])
def test_stack_outside_of_the_grammar_is_refused(keyring: Keyring, name: str) -> None:
    """A key is issued for a name and for no pattern; nothing can break out of the option's quotes."""
    for stack, service in ((name, None), (None, name)):
        with pytest.raises(ConfigurationError):
            keyring.issue("alice", stack=stack, service=service)
    assert keyring.list() == []


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(days=-1), timedelta.max])
def test_expiry_that_cannot_be_is_refused(keyring: Keyring, expires: timedelta) -> None:
    """A key cannot be issued for no time, nor for ever and a day."""
    with pytest.raises(ConfigurationError, match="cannot expire"):
        keyring.issue("alice", expires=expires)
