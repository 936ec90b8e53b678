"""A file of the key home that cannot be read is not a file that is gone: threats A15 and E1."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bastion.errors import ConfigurationError
from bastion.keyring import Keyring
from bastion.ssh.host_keys import certificates_stamp
from tests.unit.keyring_home import ADDRESS, generate, holder, known, write
from tests.unit.no_descriptors import none_left

GRACE_SECONDS = 0.5


@pytest.fixture
def brief(tmp_path: Path) -> Keyring:
    """Give a keyring whose grace is short."""
    keyring = Keyring(tmp_path / "brief", grace=GRACE_SECONDS)
    keyring.init()
    keyring.load()
    return keyring


def break_file(path: Path) -> Callable[[], None]:
    """Have reads of a file fail with EIO, as a bad disk does; return what mends it."""
    aside = path.with_name(f".{path.name}.aside")
    path.rename(aside)
    path.symlink_to("/proc/self/mem")

    def mend() -> None:
        path.unlink()
        aside.rename(path)

    return mend


def wait(done: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_E1_without_descriptors_every_key_stays(keyring: Keyring) -> None:
    """At EMFILE who is in stays and who comes is let in, what is revoked stays revoked, and it is said."""
    issued, bad = keyring.issue("alice"), keyring.issue("bob")
    identity, revoked = known(keyring, issued), known(keyring, bad)
    keyring.revoke(bad.fingerprint)
    keyring.refresh()
    with none_left():
        assert keyring.refresh()
        assert keyring.objection(identity) is None
        assert keyring.objection(revoked) == "the key was revoked"
        assert holder(keyring, issued.public_line) == "alice"
        assert holder(keyring, bad.public_line) is None
        assert any("too many open files" in problem for problem in keyring.problems)
    keyring.refresh()
    assert keyring.problems == []
    assert keyring.objection(identity) is None


@pytest.mark.parametrize("name", ["users/alice.pub", "ca/own.pub", "revoked"])
def test_A15_a_file_that_cannot_be_read_counts_for_a_time(brief: Keyring, name: str) -> None:
    """Who is in by it stays; within the grace it lets in who it let in before, then nobody, until it can be read."""
    brief.init(authority=True)
    path = brief.home / name
    if name == "ca/own.pub":
        (brief.home / "ca" / "user_ca_ed25519.pub").rename(path)
        (brief.home / "ca" / "user_ca_ed25519").rename(brief.home / "ca" / "own")
        brief.refresh()
        issued = brief.certify("alice")
    else:
        issued = brief.issue("alice")
    identity = known(brief, issued)
    mend = break_file(path)
    assert brief.refresh()
    assert any(f"{path}: cannot be read, and counts as it was read last for 0.5 s" in one for one in brief.problems)
    assert brief.objection(identity) is None
    wait(lambda: brief.refresh() or holder(brief, issued.public_line) is None)
    assert holder(brief, issued.public_line) is None
    assert any(f"{path}: cannot be read, and lets nobody new in" in one for one in brief.problems)
    assert brief.objection(identity) is None
    mend()
    assert brief.refresh()
    assert (holder(brief, issued.public_line), brief.problems) == ("alice", [])


def test_one_users_file_that_cannot_be_read_is_nobody_elses_trouble(brief: Keyring) -> None:
    """When the grace for a file is over, other users still log in."""
    alice, bob = brief.issue("alice"), brief.issue("bob")
    brief.refresh()
    break_file(brief.home / "users" / "alice.pub")
    brief.refresh()
    wait(lambda: not brief.refresh() and holder(brief, alice.public_line) is None)
    assert holder(brief, bob.public_line) == "bob"


def test_a_file_that_could_not_be_read_the_first_time_is_read_again(keyring: Keyring, tmp_path: Path) -> None:
    """A key that was added while nothing could be opened is let in afterwards, though its file does not change."""
    line = generate(tmp_path)
    write(keyring, "alice", line)
    with none_left():
        for _ in range(3):
            keyring.refresh()
    assert holder(keyring, line) is None
    wait(lambda: keyring.refresh() or holder(keyring, line) == "alice")
    assert holder(keyring, line) == "alice"


@pytest.mark.parametrize("damage", [lambda path: path.chmod(0o666), lambda path: path.unlink()])
def test_a_file_that_is_unfit_or_gone_counts_for_nothing_at_once(
    keyring: Keyring, damage: Callable[[Path], None]
) -> None:
    """A mode that lets others write is a verdict, and a file that is removed is gone: neither waits for a grace."""
    issued = keyring.issue("alice")
    identity = known(keyring, issued)
    damage(keyring.home / "users" / "alice.pub")
    keyring.refresh()
    assert holder(keyring, issued.public_line) is None
    assert keyring.objection(identity) == "the key was removed"


def test_a_list_of_revoked_keys_never_read_lets_nobody_in(tmp_path: Path) -> None:
    """At a start there is nothing that was known last: nobody is let in until the list can be read."""
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    issued = Keyring(keyring.home).issue("alice")
    mend = break_file(keyring.home / "revoked")
    keyring.load()
    assert holder(keyring, issued.public_line) is None
    mend()
    keyring.refresh()
    assert holder(keyring, issued.public_line) == "alice"


def test_nothing_is_added_beside_what_cannot_be_read(keyring: Keyring) -> None:
    """A line of the unread file may hold the same key; revoking goes on, and no file is written over."""
    issued = keyring.issue("alice")
    bob = keyring.issue("bob")
    mend = break_file(keyring.home / "users" / "alice.pub")
    other = Keyring(keyring.home)
    with pytest.raises(ConfigurationError, match=r"alice\.pub: input/output error"):
        other.issue("carol")
    with pytest.raises(ConfigurationError, match=r"alice\.pub: input/output error"):
        other.revoke("alice")
    assert other.revoke(bob.fingerprint) == [bob.fingerprint]
    mend()
    broken = break_file(keyring.home / "revoked")
    with pytest.raises(ConfigurationError, match="input/output error"):
        other.revoke(issued.fingerprint)
    broken()
    assert bob.fingerprint in (keyring.home / "revoked").read_text()


def test_no_private_key_is_made_over_one_that_cannot_be_read(keyring: Keyring) -> None:
    """`keys init` at a folder that cannot be listed fails, and leaves what is there."""
    before = {path: path.read_bytes() for path in keyring.home.rglob("*") if path.is_file()}
    with none_left(), pytest.raises(ConfigurationError):
        keyring.init()
    assert {path: path.read_bytes() for path in keyring.home.rglob("*") if path.is_file()} == before


def test_host_keys_that_cannot_be_listed_are_an_error(keyring: Keyring) -> None:
    """Neither the list of the keys nor the state of a certificate is empty for want of a descriptor."""
    with none_left(), pytest.raises(OSError, match="Too many open files"):
        keyring.host_keys()
    (path,) = keyring.host_keys()
    assert certificates_stamp([path]) == ()
    loop = path.with_name(f"{path.name}-cert.pub")
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        certificates_stamp([path])


def test_a_highest_time_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    """The clock's file keeps the later time that it holds, and it counts once it can be read."""
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    clock = keyring.home / "clock"
    later = int(time.time()) + 86400
    clock.write_text(f"{later}\n")
    mend = break_file(clock)
    keyring.load()
    keyring.refresh()
    assert clock.is_symlink()
    mend()
    keyring.refresh()
    assert keyring.now() >= later
    assert keyring.identify(b"", ADDRESS) is None
