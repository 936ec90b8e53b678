"""One user against the rest: a quota of transcript bytes, a reserve of the volume, a share of each service."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.e2e.test_record import small_volume

__all__ = ["small_volume"]

GRANTS = '[[grants]]\nusers = ["alice", "bob"]\nstacks = ["*"]\n'
PROMPT = rb"[#$] "


def until(done: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def serving(place: Place, folder: Path, volume: Path, sections: str = "", **options: str) -> Bastion:
    words = [f"BASTION_AUDIT__{name.upper()}={value}" for name, value in options.items()]
    program = ("env", *words, sys.executable, "-m", "bastion")
    server = Bastion(folder, place.sections + sections, grants=GRANTS, audit=volume / "transcripts", program=program)
    server.add("bob")
    return server.start()


@pytest.fixture
def limited(small_volume: Path, place: Place, tmp_path: Path) -> Iterator[Bastion]:
    """Give a bastion on a volume of 10 MiB, with a quota of 2 MiB a user and a reserve of 3 MiB."""
    server = serving(place, tmp_path / "b", small_volume, user_quota="2MiB", reserve="3MiB")
    yield server
    server.stop()


def test_E9_a_user_at_the_quota_is_ended_and_the_others_go_on(limited: Bastion) -> None:
    """48 MB of noise: alice's sessions end with 253 and no new one opens, also after a restart; bob sees nothing."""
    bystander = limited.terminal(user="bob")
    bystander.expect(PROMPT)
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(limited.ssh, "sleep 1000")
        until(lambda: len(limited.sessions()) > 1)
        noise = limited.ssh("head -c 36000000 /dev/urandom | base64")
        waited = waiting.result()
    for done in (noise, waited):
        assert done.returncode == 253, done.stderr
        assert b"the transcripts of alice of the last 24 hours have reached their quota of 2 MiB" in done.stderr
        assert b"hint: connect again when they are a day old" in done.stderr
    until(lambda: len(limited.sessions()) == 1)
    refused = limited.ssh("echo never")
    assert (refused.returncode, refused.stdout) == (253, b"")
    assert b"quota of 2 MiB" in refused.stderr
    bystander.sendline(b"echo $((6*7))-alive")
    bystander.expect(b"42-alive")
    assert limited.ssh("echo new", user="bob").stdout == b"new\n"
    bystander.sendline(b"exit")
    limited.stop()
    limited.start()
    assert limited.ssh("echo never").returncode == 253
    assert limited.ssh("echo new", user="bob").stdout == b"new\n"


def test_E9_at_the_reserve_no_session_opens_and_those_that_run_go_on(limited: Bastion, small_volume: Path) -> None:
    """With 2 of 10 MiB left /readyz is 503 and says why; with room again sessions open by themselves."""
    bystander = limited.terminal(user="bob")
    bystander.expect(PROMPT)
    assert limited.readiness() == (200, "")
    subprocess.run(["fallocate", "-l", "8M", str(small_volume / "filler")], check=True)
    until(lambda: limited.readiness()[0] == 503)
    assert "only its reserve left" in limited.readiness()[1]
    assert "3 MiB in reserve" in limited.readiness()[1]
    refused = limited.ssh("echo never")
    assert (refused.returncode, refused.stdout) == (254, b"")
    assert b"the volume of the transcripts has only its reserve left" in refused.stderr
    checked = limited.cli("check", check=False, env={"BASTION_AUDIT__RESERVE": "3MiB"})
    assert "no session is opened while only [audit] reserve is left" in checked.stderr
    bystander.sendline(b"head -c 100000 /dev/urandom | base64; echo $((6*7))-alive")
    bystander.expect(b"42-alive")
    (small_volume / "filler").unlink()
    assert limited.ssh("echo again").stdout == b"again\n"
    until(lambda: limited.readiness()[0] == 200)
    assert limited.events("no session is opened: the transcripts' volume has only its reserve left")
    assert limited.events("sessions are opened again: the transcripts' volume has room")
    bystander.sendline(b"exit")


def test_E9_one_user_takes_no_whole_service(place: Place, tmp_path: Path) -> None:
    """Of three places in a service alice gets two; the third session is refused with 253, and bob's opens."""
    limits = "[sessions]\nper_service = 3\nper_user_per_service = 2\n"
    server = serving(place, tmp_path / "b", tmp_path, sections=limits)
    try:
        shells = [server.terminal() for _ in range(2)]
        for shell in shells:
            shell.expect(PROMPT)
        refused = server.ssh("echo never")
        assert (refused.returncode, refused.stdout) == (253, b"")
        assert b"alice has 2 sessions of web@mystack, and 2 is one user's share of a service" in refused.stderr
        assert server.ssh("echo new", user="bob").stdout == b"new\n"
        assert server.ssh("echo other", name="small@mystack").stdout == b"other\n"
        for shell in shells:
            shell.sendline(b"exit")
    finally:
        server.stop()
