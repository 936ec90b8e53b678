"""What a session started ends with it, also when its bastion, its engine or its container was away at that moment."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pexpect
import pytest

from tests.conftest import CACHE
from tests.e2e.places import DockerPlace, Place
from tests.e2e.server import Bastion, uid_of
from tests.engine import Engine
from tests.postgresql import Postgresql

PROMPT: Final = rb"[#$] "
BOUND: Final = 45.0  # seconds: the promise of threats' rows C12 and E5
NUMBER: Final = "9119"  # of seconds that the programs sleep, by which they are known

KINDS: Final = {
    "plain": f"exec sleep {NUMBER}1",
    "setsid": f"setsid sleep {NUMBER}2 & wait",
    "nohup": f"nohup sleep {NUMBER}3 >/dev/null 2>&1 & wait",
    "daemon": f"(setsid sh -c 'sleep {NUMBER}4 &' >/dev/null 2>&1 </dev/null &); exec sleep {NUMBER}1",
    "other user": f"su -s /bin/sh nobody -c 'sleep {NUMBER}5'",
}


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


def _kinds_running(place: Place) -> int:
    running = " ".join(place.running("web", f"sleep {NUMBER}"))
    return sum(f"sleep {NUMBER}{kind}" in running for kind in range(1, 7))


@contextmanager
def _programs(bastion: Bastion, place: Place) -> Iterator[None]:
    """Have a program of each kind running in `web`, and one at a terminal; the clients are ended at last."""
    with ExitStack() as clients:
        for command in KINDS.values():
            client = subprocess.Popen(
                bastion.command(command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            clients.callback(client.communicate)
            clients.callback(client.kill)
        shell = bastion.terminal()
        clients.callback(shell.close)
        uid_of(shell)
        shell.sendline(f"sleep {NUMBER}6".encode())
        assert _wait(30, lambda: _kinds_running(place) == len(KINDS) + 1)
        yield


def _ledger(bastion: Bastion, event: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line) for file in bastion.transcripts.rglob("ledger.jsonl") for line in file.read_text().splitlines()
    ]
    return [line for line in lines if line.get("event") == event]


def test_E5_C12_nothing_outlives_a_killed_bastion_that_starts_again(own: Bastion, place: Place) -> None:
    """After kill -9 and a start no program of any kind is left, and the ledger has a line for each session."""
    own.start()
    with _programs(own, place):
        own.kill()
        own.start()
        assert _wait(BOUND, lambda: _kinds_running(place) == 0)
    assert _wait(BOUND, lambda: len({line["uid"] for line in _ledger(own, "reaped")}) == len(KINDS) + 1)
    assert {line["reason"] for line in _ledger(own, "reaped")} == {"ended after its session"}


@pytest.mark.kubernetes
def test_E5_C12_nothing_outlives_a_killed_bastion_in_a_cluster(own: Bastion, place: Place) -> None:
    """The same in a pod."""
    own.start()
    with _programs(own, place):
        own.kill()
        own.start()
        assert _wait(BOUND, lambda: _kinds_running(place) == 0)


def test_E5_C12_nothing_outlives_a_killed_bastion_that_has_a_second_node(
    place: Place, tmp_path: Path, postgresql: Postgresql
) -> None:
    """After kill -9 of one of two bastions on one database the other ends what its sessions ran."""
    sections = f'{place.sections}[sessions]\ndatabase = "{postgresql.url()}"\n'
    one, two = (Bastion(tmp_path / name, sections) for name in ("one", "two"))
    try:
        one.start()
        two.start()
        with _programs(one, place):
            one.kill()
            assert _wait(BOUND, lambda: _kinds_running(place) == 0)
            assert _wait(BOUND, lambda: int(postgresql.sql("SELECT count(*) FROM duties")) == 0)
    finally:
        one.stop()
        assert two.stop() == 0
    assert len({line["uid"] for line in _ledger(two, "reaped")}) == len(KINDS) + 1
    assert not two.events("internal error")


def test_E5_F3_nothing_outlives_a_restart_of_the_engine(tmp_path: Path) -> None:
    """With live-restore, sessions end with 255 when the engine goes; their programs when it is back, though busy."""
    engine = Engine(CACHE)
    bastion = Bastion(tmp_path, f'[docker]\nhost = "{engine.host}"\n')
    try:
        engine.start_engine(live_restore=True)
        engine.prepare()
        engine.start("mystack-web-1", engine.image_debian)
        place = DockerPlace(engine)
        bastion.start()
        with _programs(bastion, place):
            client = subprocess.Popen(bastion.command("sleep 9998"), stderr=subprocess.PIPE)
            assert _wait(30, lambda: bool(place.running("web", "sleep 9998")))
            engine.kill_daemon()
            _, words = client.communicate(timeout=30)
            assert client.returncode == 255, words
            engine.start_engine(live_restore=True)
            assert _wait(BOUND, lambda: _kinds_running(place) + len(place.running("web", "sleep 9998")) == 0)
        assert len(bastion.events("docker events ended")) <= 1
    finally:
        bastion.stop()
        engine.close()


def test_E5_F4_nothing_outlives_a_pause(own: Bastion, containers: Engine) -> None:
    """A session whose container is paused ends when that lasts, with 255 and words; its programs at the unpause."""
    own.config.write_text(own.config.read_text().replace("[docker]", '[docker]\npause_timeout = "2s"'))
    own.start()
    name = "mystack-still-1"
    containers.remove(name)
    containers.start(name, containers.image_debian, service="still")

    def running() -> bool:
        return NUMBER in containers.docker("top", name, "-eo", "pid,args")

    try:
        shell = own.terminal(name="still@mystack")
        shell.expect(PROMPT)
        shell.sendline(f"setsid sleep {NUMBER}7 & sleep {NUMBER}8".encode())
        assert _wait(30, running)
        containers.docker("pause", name)
        shell.expect(rb"bastion: hint: the container mystack-still-1 is paused; waiting up to 2 s")
        shell.expect(rb"bastion: error: the container mystack-still-1 is paused")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 255
        assert running()
        containers.docker("unpause", name)
        assert _wait(BOUND, lambda: not running())
    finally:
        containers.remove(name)
