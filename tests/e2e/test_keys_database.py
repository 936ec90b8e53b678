"""Keys in the database of two bastions: what one issues and revokes counts for both, and is missed when it is away."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.postgresql import Postgresql

PROMPT: Final = rb"[#$] "
GRANTS: Final = '[[grants]]\nusers = ["alice", "bob"]\nstacks = ["mystack"]\n'
GRACE: Final = 6


def _wait(seconds: float, done: Callable[[], object]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(result)


@pytest.fixture
def pair(place: Place, tmp_path: Path, postgresql: Postgresql) -> Iterator[tuple[Bastion, Bastion]]:
    """Give two running bastions that have their users' keys in one database; what was made in files was imported."""
    sections = f'{place.sections}[sessions]\ndatabase = "{postgresql.url()}"\n'
    one, two = (Bastion(tmp_path / name, sections, grants=GRANTS) for name in ("one", "two"))
    for server in (one, two):
        text = server.config.read_text()
        server.config.write_text(text.replace("[keys]", f'[keys]\nstore = "database"\ngrace = "{GRACE}s"'))
    done = one.cli("keys", "import")
    assert "copied to the database: 1 keys, 0 revocations" in done.stderr
    assert "copied to the database: 0 keys, 0 revocations" in one.cli("keys", "import").stderr
    for name in ("alice.key", "alice.key.pub"):
        (two.folder / name).write_bytes((one.folder / name).read_bytes())
    try:
        yield one.start(), two.start()
    finally:
        statuses = [server.stop() for server in (one, two)]
    assert statuses == [0, 0]
    assert not [server.events("internal error") for server in (one, two) if server.events("internal error")]


def _fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]


def test_a_key_revoked_on_one_bastion_ends_its_shell_on_the_other(pair: tuple[Bastion, Bastion]) -> None:
    """A key issued on one opens the other within 5 s; revoked on one, its shell on the other ends within 5 s."""
    one, two = pair
    assert two.ssh("echo imported").stdout == b"imported\n"
    key = one.issue("bob", "mystack")
    (two.folder / "bob.key").write_bytes(key.read_bytes())
    (two.folder / "bob.key").chmod(0o600)
    assert _wait(5, lambda: two.ssh("true", user="bob").returncode == 0)
    shell = two.terminal(user="bob")
    shell.expect(PROMPT)
    one.cli("keys", "revoke", _fingerprint(key))
    shell.expect(rb"bastion: error: the key was revoked", timeout=5)
    shell.expect(pexpect.EOF, timeout=5)
    shell.close()
    assert shell.exitstatus == 253
    assert b"Permission denied (publickey)" in two.ssh("true", user="bob").stderr
    for server in pair:
        listed = json.loads(server.cli("keys", "list", "--json").stdout)["keys"]
        assert [(found["user"], found["path"]) for found in listed] == [("alice", "database")]
        assert "1 keys of 1 users" in server.cli("check", check=False).stdout


def test_without_the_database_logins_end_and_come_back(pair: tuple[Bastion, Bastion], postgresql: Postgresql) -> None:
    """Refused in words while the last keys count, then not let in at all; who is in stays; all comes back with it."""
    one, _ = pair
    with subprocess.Popen(
        one.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert _wait(20, lambda: [session for session in one.sessions() if session["state"] == "active"])
        postgresql.stop()
        refused = one.ssh("true")
        assert refused.returncode == 255
        assert b"bastion: error: the sessions' database does not answer" in refused.stderr
        assert _wait(30, lambda: b"Permission denied (publickey)" in one.ssh("true").stderr)
        assert _wait(20, lambda: any("nobody new is let in" in fact["problem"] for fact in one.events("key home")))
        output, _ = client.communicate(b"still here\n", timeout=20)
        assert (client.returncode, output) == (0, b"still here\n")
    postgresql.start()
    assert _wait(20, lambda: one.ssh("true").returncode == 0)
