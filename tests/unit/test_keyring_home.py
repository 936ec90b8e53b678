"""The key home's files: made, read when they change, and refused where others could write or read them."""

import os
import subprocess
from pathlib import Path

import pytest

from bastion.errors import ConfigurationError
from bastion.keyring import Keyring
from tests.unit.keyring_home import generate, holder, write


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
    """Each line of each file is a recipient, once; comments, editors' hidden files and their backups are left out."""
    folder = keyring.home / "auditors"
    (folder / "a").write_text("# ann\nage1aaa\n\n")
    (folder / "b.pub").write_text("ssh-ed25519 AAAA ben\nage1aaa\n")
    (folder / ".c.swp").write_text("age1ccc\n")
    (folder / "b.pub~").write_text("age1removed\n")
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
