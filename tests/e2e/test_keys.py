"""Keys from their making to their end: issued to who has a grant, used by the real ssh, revoked, expired."""

import json
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion

PROMPT = rb"[#$] "
GRANTS = '[[grants]]\nusers = ["alice", "bob"]\nstacks = ["mystack"]\nservices = ["web", "small"]\n'


@pytest.fixture
def own(place: Place, tmp_path: Path) -> Iterator[Bastion]:
    """Give a bastion whose containers alice and bob may enter."""
    server = Bastion(tmp_path / "own", place.sections, grants=GRANTS).start()
    yield server
    server.stop()


def wait(seconds: float, done: Callable[[], object]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(result)


def ledger(bastion: Bastion, event: str) -> list[dict[str, Any]]:
    lines = (bastion.transcripts / "ledger.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def keys(bastion: Bastion) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(bastion.cli("keys", "list", "--json").stdout)["keys"]
    return listed


def fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]


class Master:
    """A ControlMaster without a session, that others may use."""

    def __init__(self, bastion: Bastion, user: str, *more: str) -> None:
        self.bastion, self.user = bastion, user
        # Not in pytest's folder: a socket's path may have 107 bytes, and ssh writes 17 more behind it for a moment.
        self._folder = Path(tempfile.mkdtemp(prefix="bastion-"))
        self._removing = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.path = str(self._folder / "control")
        options = ["-M", "-N", "-S", self.path, *more]
        self.client = subprocess.Popen(
            bastion.command(user=user, options=options), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert wait(20, Path(self.path).exists)

    def use(self) -> "subprocess.CompletedProcess[bytes]":
        """Run a command over it; the client has no key of its own to fall back on."""
        options = ["-S", self.path, "-o", "PubkeyAuthentication=no"]
        return self.bastion.ssh("echo used", user=self.user, options=options)

    def ended(self, seconds: float) -> bytes:
        """Wait for its end and return what it said."""
        return self.client.communicate(timeout=seconds)[1]


def test_a_revoked_key_ends_what_it_opened(own: Bastion) -> None:
    """A revoked key's shell ends within 5 s with the reason, and its master too; the ledger tells all of it."""
    key = own.issue("bob", "mystack")
    assert wait(10, lambda: own.ssh("true", user="bob").returncode == 0)
    shell = own.terminal(user="bob")
    shell.expect(PROMPT)
    master = Master(own, "bob")
    assert master.use().stdout == b"used\n"
    name = fingerprint(key)
    own.cli("keys", "revoke", name)
    shell.expect(rb"bastion: error: the key was revoked", timeout=5)
    shell.expect(pexpect.EOF, timeout=5)
    shell.close()
    assert shell.exitstatus == 253
    master.ended(5)
    assert master.use().returncode == 255
    assert b"Permission denied (publickey)" in own.ssh("true", user="bob").stderr
    (issued,) = ledger(own, "key issued")
    (revoked,) = ledger(own, "key revoked")
    assert (issued["user"], issued["stack"], issued["key_fingerprint"]) == ("bob", "mystack", name)
    assert revoked["key_fingerprint"] == name
    assert {line["key_fingerprint"] for line in ledger(own, "login")} == {name}
    assert wait(5, lambda: len(ledger(own, "connection ended")) == 2)
    assert {line["reason"] for line in ledger(own, "connection ended")} == {"the key was revoked"}
    assert own.ssh("echo alice", user="alice").stdout == b"alice\n"
    assert own.cli("transcripts", "verify").returncode == 0


def test_an_expired_key_ends_what_it_opened(own: Bastion) -> None:
    """A shell and an idle master last until their key's expiry and end within 5 s of it; the ledger has the expiry."""
    key = own.folder / "bob.key"
    own.cli("keys", "issue", "bob", "--stack", "mystack", "--expires", "20s", "--output", str(key))
    (expiry,) = [datetime.fromisoformat(listed["expires"]) for listed in keys(own) if listed["user"] == "bob"]
    assert wait(10, lambda: own.ssh("true", user="bob").returncode == 0)
    master = Master(own, "bob")
    shell = own.terminal(user="bob")
    shell.expect(PROMPT)
    left = (expiry - datetime.now(UTC)).total_seconds()
    shell.expect(rb"bastion: error: the key expired", timeout=left + 5)
    assert datetime.now(UTC) >= expiry
    shell.expect(pexpect.EOF, timeout=5)
    master.ended(5)
    assert own.ssh("true", user="bob").returncode == 255
    assert wait(5, lambda: ledger(own, "key expired"))
    (expired,) = ledger(own, "key expired")
    assert (expired["user"], expired["key_fingerprint"]) == ("bob", fingerprint(key))


@pytest.mark.parametrize("session", [True, False])
def test_a_grant_taken_away_ends_connections_with_and_without_sessions(own: Bastion, *, session: bool) -> None:
    """Within 5 s of the change of the file a master ends whether a session uses it or not, and a login is refused."""
    own.issue("bob", "mystack")
    assert wait(10, lambda: own.ssh("true", user="bob").returncode == 0)
    master = Master(own, "bob")
    shell = own.terminal(user="bob", options=["-S", master.path]) if session else None
    if shell is not None:
        shell.expect(PROMPT)
    fresh = own.config.with_suffix(".new")
    fresh.write_text(own.config.read_text().replace('"alice", "bob"', '"alice"'))
    fresh.rename(own.config)
    if shell is not None:
        shell.expect(rb"bastion: error: the grant for this session is gone", timeout=5)
    master.ended(7 if session else 5)
    assert master.use().returncode == 255
    assert own.ssh("true", user="bob").returncode == 252
    assert wait(5, lambda: ledger(own, "connection ended"))
    (ended,) = ledger(own, "connection ended")
    assert (ended["user"], ended["reason"]) == ("bob", "the grant for this connection is gone")
    assert own.ssh("echo alice", user="alice").stdout == b"alice\n"


def test_the_private_half_leaves_once(own: Bastion) -> None:
    """An issued private half is in no file of the key home, the transcripts or the log; the next issue is a new key."""
    key = own.issue("bob", "mystack")
    secret = key.read_text().splitlines()[3]
    assert wait(10, lambda: own.ssh("true", user="bob").returncode == 0)
    kept = [own.log, *own.keys.rglob("*"), *own.transcripts.rglob("*")]
    assert not [path for path in kept if path.is_file() and secret.encode() in path.read_bytes()]
    public = [path.read_bytes() for path in (own.keys / "users").iterdir()]
    assert not any(b"PRIVATE KEY" in contents for contents in public)
    first = fingerprint(key)
    assert fingerprint(own.issue("bob", "mystack")) != first


def test_an_issued_key_opens_what_it_was_issued_for(own: Bastion) -> None:
    """A key for one service of one stack finds it without a name for the stack, and opens no other."""
    key = own.folder / "bob.key"
    own.cli("keys", "issue", "bob", "--stack", "mystack", "--service", "small", "--output", str(key))
    assert wait(10, lambda: own.ssh("true", user="bob", name="small@mystack").returncode == 0)
    assert own.ssh("echo in", user="bob", name="small").stdout == b"in\n"
    refused = own.ssh("true", user="bob", name="web@mystack")
    assert refused.returncode == 252
    assert b"this key is not for web@mystack" in refused.stderr
    (line,) = (own.keys / "users" / "bob.pub").read_text().splitlines()
    assert line.endswith(f" bob small@mystack {datetime.now(UTC):%Y-%m-%d}")
    (listed,) = [one for one in keys(own) if one["user"] == "bob"]
    left = datetime.fromisoformat(listed["expires"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left < timedelta(days=90, minutes=1)


def test_a_key_from_elsewhere_is_refused(own: Bastion) -> None:
    """A key issued for other addresses does not log in from here."""
    key = own.folder / "bob.key"
    own.cli("keys", "issue", "bob", "--stack", "mystack", "--from", "192.0.2.0/24,2001:db8::1", "--output", str(key))
    own.add("carol")  # once her key is known, to whom nothing is granted, bob's is known as well
    assert wait(20, lambda: own.ssh("true", user="carol").returncode == 252)
    assert b"Permission denied (publickey)" in own.ssh("true", user="bob").stderr
