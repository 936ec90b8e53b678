"""What a session started ends with it, also when its bastion, its engine or its container was away at that moment."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion, uid_of

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


@pytest.mark.everywhere
def test_E5_C12_nothing_outlives_a_killed_bastion_that_starts_again(own: Bastion, place: Place) -> None:
    """After kill -9 and a start no program of any kind is left, and the ledger has a line for each session."""
    own.start()
    with _programs(own, place):
        own.kill()
        own.start()
        assert _wait(BOUND, lambda: _kinds_running(place) == 0)
    assert _wait(BOUND, lambda: len({line["uid"] for line in _ledger(own, "reaped")}) == len(KINDS) + 1)
    assert {line["reason"] for line in _ledger(own, "reaped")} == {"ended after its session"}
