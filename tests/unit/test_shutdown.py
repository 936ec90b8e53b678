"""A shutdown: what the signals do to the registry of sessions, and that the unit gives it the time it may take."""

import asyncio
import re
from pathlib import Path

import pytest

from bastion.app import CLEAN_UP_SECONDS
from bastion.app.shutdown import Shutdown
from bastion.config import SessionsSettings, SshSettings
from bastion.errors import ShuttingDown
from bastion.model import Identity, Name, Request, Target
from bastion.sessions import Sessions
from bastion.ssh import CLOSE_SECONDS
from bastion.ssh.connection import FAREWELL_SECONDS

ROOT = Path(__file__).parents[2]
TARGET = Target(runtime="here", stack="mystack", service="web", container_id="0", container_name="web-1")
ALICE = Identity(user="alice", key_fingerprint="SHA256:x", client_address="192.0.2.1")


def _request(uid: str) -> Request:
    return Request(uid=uid, name=Name("web", stack="mystack"), kind="shell")


async def test_F8_a_drain_ends_with_the_last_session() -> None:
    """Live sessions are told and go on, new ones and reservations are refused, and readiness says why."""
    sessions = Sessions(SessionsSettings(), "node")
    shutdown = Shutdown(600, sessions)
    lines: list[str] = []
    async with sessions.open(ALICE, _request("1"), TARGET) as session:
        session.tell = lines.append
        await sessions.ping()
        shutdown.signal()
        assert shutdown.requested.is_set()
        assert lines == ["bastion: hint: the bastion is shutting down in 600 s; save your work and leave"]
        with pytest.raises(ShuttingDown, match="shutting down"):
            await sessions.ping()
        with pytest.raises(ShuttingDown):
            await sessions.reserve(ALICE, TARGET)
        with pytest.raises(ShuttingDown):
            async with sessions.open(ALICE, _request("2"), TARGET):
                pytest.fail("a session was opened")
        drain = asyncio.create_task(shutdown.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        with session.interruptible():
            await asyncio.sleep(0)
    await drain


@pytest.mark.parametrize("shorten", ["third signal", "failure"])
async def test_F8_a_drain_is_shortened(shorten: str) -> None:
    """A second signal leaves 5 s; a third, and the failure of a part of the bastion, none."""
    sessions = Sessions(SessionsSettings(), "node")
    shutdown = Shutdown(600, sessions)
    lines: list[str] = []
    async with sessions.open(ALICE, _request("1"), TARGET) as session:
        session.tell = lines.append
        shutdown.signal()
        drain = asyncio.create_task(shutdown.drain())
        await asyncio.sleep(0)
        shutdown.signal()
        assert [re.findall(r"in (\d+) s", line) for line in lines] == [["600"], ["5"]]
        if shorten == "failure":
            shutdown.abandon()
        else:
            shutdown.signal()
        await drain
        shutdown.signal()  # one more changes nothing
        assert len(lines) == 2


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("systemd/bastion.service", r"^TimeoutStopSec=(\d+)$"),
        ("examples/compose.yaml", r"^ *stop_grace_period: (\d+)s\b"),
        ("examples/kubernetes/bastion/deployment.yaml", r"^ *terminationGracePeriodSeconds: (\d+)\b"),
    ],
)
def test_F8_who_stops_the_bastion_waits_long_enough(file: str, pattern: str) -> None:
    """A service manager and a kubelet kill no sooner than the default drain and the clean-up after it may take."""
    match = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert match is not None
    needed = SshSettings().drain_timeout + CLEAN_UP_SECONDS + CLOSE_SECONDS + FAREWELL_SECONDS
    assert int(match[1]) > needed
