"""How a key stops being good: revoked, removed, or because it is not known what is revoked."""

from pathlib import Path

import pytest

from bastion.errors import ConfigurationError
from bastion.keyring import Keyring
from tests.unit.keyring_home import generate, holder, known, write


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
