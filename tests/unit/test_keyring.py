"""The key home: whose key it is, when it stops being good, what is refused at the start, and changes by command."""

import base64
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bastion.errors import ConfigurationError
from bastion.keyring import IssuedKey, Keyring
from bastion.model import Identity

ADDRESS = "192.0.2.7"


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def keyring(tmp_path: Path, wall: Wall) -> Keyring:
    keyring = Keyring(tmp_path / "keys", wall=wall)
    keyring.init()
    keyring.load()
    return keyring


def blob(public_line: str) -> bytes:
    words = public_line.split()
    index = next(i for i, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-")))
    return base64.b64decode(words[index + 1])


def generate(folder: Path, *options: str) -> str:
    """Make a key with the real ssh-keygen and return its public line."""
    path = folder / f"made{len(list(folder.glob('made*')))}"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", path, *options], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def write(keyring: Keyring, user: str, *lines: str) -> None:
    path = keyring.home / "users" / f"{user}.pub"
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)


def holder(keyring: Keyring, line: str, address: str = ADDRESS) -> str | None:
    identity = keyring.identify(blob(line), address)
    return None if identity is None else identity.user


def known(keyring: Keyring, issued: IssuedKey) -> Identity:
    keyring.refresh()
    identity = keyring.identify(blob(issued.public_line), ADDRESS)
    assert identity is not None
    return identity


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


def test_init_makes_keys_that_stay(keyring: Keyring) -> None:
    """A second init keeps every key; ssh-keygen verifies what the signing key signed by allowed_signers."""
    before = {path: path.read_bytes() for path in keyring.home.rglob("*") if path.is_file()}
    keyring.init()
    assert {path: path.read_bytes() for path in before} == before
    message = keyring.home / "message"
    message.write_text("words")
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "bastion-transcript", "-f", str(keyring.signing_key), str(message)]
    subprocess.run(sign, check=True, capture_output=True)
    signers = str(keyring.home / "signing" / "allowed_signers")
    verify = ["ssh-keygen", "-Y", "verify", "-n", "bastion-transcript", "-I", "bastion", "-f", signers]
    with message.open() as words:
        subprocess.run([*verify, "-s", f"{message}.sig"], stdin=words, check=True, capture_output=True)


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


@pytest.mark.parametrize(("seconds", "expected"), [(-1, "alice"), (1, None)])
def test_key_expires_at_its_time(
    keyring: Keyring, tmp_path: Path, wall: Wall, seconds: int, expected: str | None
) -> None:
    """A key is good up to its expiry-time and no longer, to the second."""
    line = generate(tmp_path, "-t", "ed25519")
    wall.offset = 4e8
    expiry = datetime.fromtimestamp(int(wall()) + 1000, UTC)
    write(keyring, "alice", f'expiry-time="{expiry:%Y%m%d%H%M%S}Z" {line}')
    keyring.refresh()
    wall.offset = expiry.timestamp() + seconds - time.time()
    assert holder(keyring, line) == expected


def test_clock_set_back_revives_nothing(keyring: Keyring, wall: Wall) -> None:
    """Set back by a day, the clock lets no expired key in, neither in this process nor in the next; it is reported."""
    issued = keyring.issue("alice", expires=timedelta(hours=1))
    identity = known(keyring, issued)
    wall.offset = 7200
    keyring.refresh()
    assert keyring.objection(identity) == "the key expired"
    wall.offset = -86400
    keyring.refresh()
    assert holder(keyring, issued.public_line) is None
    assert "minutes behind" in " ".join(keyring.problems)
    again = Keyring(keyring.home, wall=wall)
    again.load()
    assert holder(again, issued.public_line) is None
    assert [listed.state for listed in again.list()] == ["expired"]
    assert "minutes behind" in " ".join(again.problems)


def test_clock_file_that_is_no_number_is_reported(keyring: Keyring) -> None:
    """A damaged clock file keeps nobody out and is named."""
    issued = keyring.issue("alice")
    (keyring.home / "clock").write_text("yesterday")
    again = Keyring(keyring.home)
    again.load()
    assert holder(again, issued.public_line) == "alice"
    assert "clock" in " ".join(again.problems)


def test_revoked_key_is_noticed(keyring: Keyring) -> None:
    """After `revoke` by another process a refresh ends the key, for new and for open connections."""
    issued, other = keyring.issue("alice"), keyring.issue("alice")
    identity = known(keyring, issued)
    assert keyring.objection(identity) is None
    assert Keyring(keyring.home).revoke(issued.fingerprint) == [issued.fingerprint]
    assert keyring.refresh()
    assert keyring.objection(identity) == "the key was revoked"
    assert holder(keyring, issued.public_line) is None
    assert holder(keyring, other.public_line) == "alice"
    with pytest.raises(ConfigurationError, match="was revoked"):
        keyring.add("bob", issued.public_line)


def test_removed_line_is_noticed(keyring: Keyring) -> None:
    """A line that is gone from the file is gone for open connections too."""
    issued = keyring.issue("alice")
    identity = known(keyring, issued)
    (keyring.home / "users" / "alice.pub").unlink()
    assert keyring.refresh()
    assert keyring.objection(identity) == "the key was removed"
    write(keyring, "bob", issued.public_line)
    keyring.refresh()
    assert keyring.objection(identity) == "the key was removed"


def test_revoking_by_user_and_stack(keyring: Keyring) -> None:
    """A user's keys are revoked together, or those of one stack; other users and other lines stay."""
    one, two = keyring.issue("alice", stack="one"), keyring.issue("alice", stack="two")
    bob = keyring.issue("bob")
    assert keyring.revoke("alice", stack="one") == [one.fingerprint]
    assert [key.fingerprint for key in keyring.list()] == [two.fingerprint, bob.fingerprint]
    assert keyring.revoke("alice") == [two.fingerprint]
    assert [key.user for key in keyring.list()] == ["bob"]
    with pytest.raises(ConfigurationError, match="no such key"):
        keyring.revoke("alice")


def test_revoked_takes_public_keys_and_unknown_fingerprints(keyring: Keyring, tmp_path: Path) -> None:
    """A public key in `revoked` counts as its fingerprint, and a fingerprint nobody holds is revoked beforehand."""
    line = generate(tmp_path, "-t", "ed25519")
    keyring.add("alice", line)
    with (keyring.home / "revoked").open("a") as revoked:
        revoked.write(f"{line}\n")
    keyring.refresh()
    assert holder(keyring, line) is None
    unknown = "SHA256:" + "A" * 43
    assert keyring.revoke(unknown) == [unknown]
    assert unknown in (keyring.home / "revoked").read_text()


def test_damaged_list_of_revoked_keys_lets_nobody_in(keyring: Keyring) -> None:
    """While `revoked` has a line that cannot be read, nobody is let in, open sessions go on, and it is named."""
    issued = keyring.issue("alice")
    identity = known(keyring, issued)
    before = (keyring.home / "revoked").read_text()
    (keyring.home / "revoked").write_text(before + "SHA256:too-short\n")
    assert keyring.refresh()
    assert holder(keyring, issued.public_line) is None
    assert keyring.objection(identity) is None
    assert f"{keyring.home / 'revoked'}:2: " in keyring.problems[0]
    (keyring.home / "revoked").write_text(before)
    keyring.refresh()
    assert holder(keyring, issued.public_line) == "alice"


def test_lost_list_of_revoked_keys_forgets_nothing(keyring: Keyring) -> None:
    """When `revoked` vanishes, what was revoked stays revoked and nobody is let in."""
    issued, bad = keyring.issue("alice"), keyring.issue("bob")
    identity = known(keyring, bad)
    keyring.revoke(bad.fingerprint)
    keyring.refresh()
    (keyring.home / "revoked").unlink()
    keyring.refresh()
    assert keyring.objection(identity) == "the key was revoked"
    assert holder(keyring, issued.public_line) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_has_no_keys(keyring: Keyring, mode: int) -> None:
    """A user's file that others can write lets nobody in, and is named with its mode."""
    issued = keyring.issue("alice")
    (keyring.home / "users" / "alice.pub").chmod(mode)
    keyring.refresh()
    assert holder(keyring, issued.public_line) is None
    assert f"mode {mode:04o}" in keyring.problems[0]


@pytest.mark.parametrize("name", ["Alice.pub", "alice.pub~", "-x.pub", "a b.pub", "alice", "é.pub", "x" * 65 + ".pub"])
def test_file_of_another_name_is_left_out(keyring: Keyring, tmp_path: Path, name: str) -> None:
    """Only NAME.pub with a user's name is read; any other file is named."""
    line = generate(tmp_path, "-t", "ed25519")
    path = keyring.home / "users" / name
    path.write_text(line)
    path.chmod(0o600)
    keyring.refresh()
    assert holder(keyring, line) is None
    assert "is not NAME.pub" in keyring.problems[0]


def test_folder_and_fifo_in_users_are_no_files(keyring: Keyring) -> None:
    """A folder, a pipe and a dangling link named NAME.pub are reported and hold nobody up."""
    users = keyring.home / "users"
    (users / "a.pub").mkdir(mode=0o700)
    os.mkfifo(users / "b.pub", 0o600)
    (users / "c.pub").symlink_to("nowhere")
    keyring.refresh()
    assert len(keyring.problems) == 3


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


@pytest.mark.parametrize(
    ("name", "mode", "hint"),
    [
        (".", 0o755, "chmod 700"),
        (".", 0o710, "chmod 700"),
        ("host", 0o750, "chmod 700"),
        ("signing", 0o701, "chmod 700"),
        ("host/ssh_host_ed25519_key", 0o644, "chmod 600"),
        ("host/ssh_host_ed25519_key", 0o640, "chmod 600"),
        ("signing/signing_ed25519", 0o604, "chmod 600"),
        ("users", 0o770, "chmod 700"),
    ],
)
def test_open_mode_keeps_the_server_from_starting(keyring: Keyring, name: str, mode: int, hint: str) -> None:
    """A private file or folder that others can use is refused by its path, with the command that mends it."""
    path = keyring.home / name
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        Keyring(keyring.home).load()
    assert str(path) in caught.value.public
    assert f"{hint} {path}" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_strangers_file_keeps_the_server_from_starting(keyring: Keyring) -> None:
    """A host key of another user is refused."""
    [host_key] = keyring.host_keys()
    os.chown(host_key, 12345, -1)
    with pytest.raises(ConfigurationError, match="user id 12345"):
        Keyring(keyring.home).load()


@pytest.mark.parametrize(
    "name", [".", "host", "signing", "users", "host/ssh_host_ed25519_key", "signing/signing_ed25519"]
)
def test_missing_part_names_the_command(keyring: Keyring, name: str) -> None:
    """What is missing is named, and the hint is the command that makes it."""
    (keyring.home / name).rename(keyring.home.parent / "away")
    with pytest.raises(ConfigurationError) as caught:
        Keyring(keyring.home).load()
    assert "bastion keys init" in caught.value.hint


def test_host_key_that_is_no_key_is_refused(keyring: Keyring) -> None:
    """A host key that is damaged or has a passphrase is refused at the start."""
    [host_key] = keyring.host_keys()
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", host_key], check=True, capture_output=True)
    with pytest.raises(ConfigurationError, match="without a passphrase"):
        Keyring(keyring.home).load()
    host_key.write_text("no key")
    assert [fault.public for fault in keyring.faults()] == [
        f"{host_key}: is no private key in OpenSSH's format without a passphrase"
    ]


def test_auditors_are_read_from_every_file(keyring: Keyring) -> None:
    """Each line of each file is a recipient, once; comments and editors' hidden files are left out."""
    folder = keyring.home / "auditors"
    (folder / "a").write_text("# ann\nage1aaa\n\n")
    (folder / "b.pub").write_text("ssh-ed25519 AAAA ben\nage1aaa\n")
    (folder / ".c.swp").write_text("age1ccc\n")
    assert keyring.auditor_recipients() == ["age1aaa", "ssh-ed25519 AAAA ben"]


@pytest.mark.parametrize("text", ["AGE-SECRET-KEY-1XYZ", "-----BEGIN OPENSSH PRIVATE KEY-----"])
def test_auditors_secret_key_is_refused(keyring: Keyring, text: str) -> None:
    """A secret key among the recipients keeps the server from starting."""
    (keyring.home / "auditors" / "a").write_text(f"# public key: age1aaa\n{text}\n")
    with pytest.raises(ConfigurationError, match="secret key"):
        keyring.auditor_recipients()
    with pytest.raises(ConfigurationError, match="secret key"):
        Keyring(keyring.home).load()


def test_refresh_sees_a_change_of_equal_size(keyring: Keyring, tmp_path: Path) -> None:
    """A file rewritten in place, at once and in the same length, is noticed."""
    first, second = (generate(tmp_path, "-t", "ed25519", "-C", "same") for _ in range(2))
    write(keyring, "alice", first)
    keyring.refresh()
    write(keyring, "alice", second)
    assert keyring.refresh()
    assert (holder(keyring, first), holder(keyring, second)) == (None, "alice")
    keyring.refresh()
    assert not keyring.refresh()
