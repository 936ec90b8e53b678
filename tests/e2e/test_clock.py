"""The machine's clock is set an hour forth and back: no session ends by it, and no key or grant comes to life again."""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pexpect
import pytest

from tests.conftest import unavailable
from tests.e2e.places import Place
from tests.e2e.server import Bastion, uid_of

PROMPT = rb"[#$] "


class Clock:
    """Sets the wall clock of a server that is started by `program`; its monotonic clock goes on as it is."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            unavailable("libfaketime is not installed (tests/prepare.sh)")
        self._file = folder / "clock"
        self.step(0)
        variables = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        assignments = (f"{name}={value}" for name, value in variables.items())
        self.program = ("env", *assignments, sys.executable, "-m", "bastion")

    def step(self, hours: float) -> None:
        """Set the server's clock this far from ours."""
        self._file.write_text(f"{hours * 3600:+.0f}s\n")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def server(place: Place, tmp_path: Path, clock: Clock) -> Iterator[Bastion]:
    """Give a server whose clock can be set, with a second user whose grant expires in half an hour."""
    moment = datetime.now(UTC) + timedelta(minutes=30)
    grants = (
        '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\n'
        f'[[grants]]\nusers = ["bob"]\nstacks = ["*"]\nexpires = {moment:%Y-%m-%dT%H:%M:%SZ}\n'
    )
    own = Bastion(tmp_path / "own", place.sections, grants=grants, program=clock.program)
    own.add("bob")
    line = (own.keys / "users" / "alice.pub").read_text()
    expiring = own.add("carol").with_suffix(".key.pub").read_text()
    (own.keys / "users" / "carol.pub").unlink()
    (own.keys / "users" / "alice.pub").write_text(f'{line}expiry-time="{moment:%Y%m%d%H%M%SZ}" {expiring}')
    yield own.start()
    own.stop()


def test_steps_of_an_hour(server: Bastion, clock: Clock) -> None:
    """An open shell outlives both steps; what has expired by the later clock stays expired by the earlier one.

    The times of its record do not jump, and the ledger shows both steps (D15).
    """
    began = time.monotonic()
    shell = server.terminal()
    uid = uid_of(shell)
    shell.expect(PROMPT)
    users = ("alice", "bob", "carol")
    assert [server.ssh("true", user=user).returncode for user in users] == [0, 0, 0]
    bob = server.terminal(user="bob")
    bob.expect(PROMPT)
    clock.step(1)
    bob.expect(rb"bastion: error: the grant for this session is gone", timeout=10)
    assert [server.ssh("true", user=user).returncode for user in users] == [0, 252, 255]
    clock.step(-1)
    time.sleep(5)
    assert [server.ssh("true", user=user).returncode for user in users] == [0, 252, 255]
    shell.sendline(b"echo still-$((1+1)); exit 6")
    shell.expect(rb"still-2")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 6
    intervals = [event[0] for event in server.read(uid)[1:]]
    assert min(intervals) >= 0
    assert sum(intervals) <= time.monotonic() - began
    lines = (server.transcripts / "ledger.jsonl").read_text().splitlines()
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in lines]
    assert {1, -2} <= {round((later - earlier) / timedelta(hours=1)) for earlier, later in itertools.pairwise(times)}
