"""Nodes: one that has stopped is noticed, by beats and processes; no step of a clock makes one stop."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from bastion.config import SessionsSettings
from bastion.errors import LimitReached
from bastion.sessions import Sessions
from bastion.sessions.nodes import Node, NodeWatch, is_running, this_process
from bastion.sessions.sql import SqlStore
from tests.unit.stores import live, node

ELSEWHERE: Final = "another-machine pid:[1] 1 1"
SERVER: Final = """
import asyncio, sys
from tests.unit.stores import live, node

async def main():
    async with node(sys.argv[1], "killed") as sessions, live(sessions, "left"):
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


class Clock:
    """A clock that goes forward when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _until(done: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


def _looks(watch: NodeWatch, clock: Clock, seconds: float, *nodes: Node) -> list[list[str]]:
    """Look every second; return whom each look found dead."""
    found = []
    for _ in range(round(seconds)):
        clock.now += 1
        found.append([one.id for one in watch.dead(nodes)])
    return found


def test_a_node_without_a_beat_is_dead_in_time() -> None:
    """A node whose beats do not rise is dead after 25 s of ours, whatever the database's clock says."""
    clock = Clock()
    watch = NodeWatch("here", clock)
    for age in (0.0, 3600.0, -3600.0):
        silent = Node(f"{age}", "there", ELSEWHERE, 7, 0.0)
        assert not watch.dead([silent])
        assert not any(_looks(watch, clock, 7, replace(silent, age=age)))
        assert _looks(watch, clock, 18, replace(silent, age=age))[-1] == [silent.id]


def test_one_that_beats_lives_whatever_its_clock_says() -> None:
    """Steps of the database's clock by an hour, either way, take no beating node for dead."""
    clock = Clock()
    watch = NodeWatch("here", clock)
    for beats in range(40):
        clock.now += 5
        age = {10: 3600.0, 11: -3600.0, 20: -3600.0, 30: 86400.0}.get(beats, 0.0)
        assert not watch.dead([Node("a", "there", ELSEWHERE, beats, age), Node("b", "here", ELSEWHERE, beats, age)])


def test_a_fresh_look_needs_no_thirty_seconds() -> None:
    """Who just started believes after 8 s that a node is dead whose last beat is long ago, or of its own host."""
    clock = Clock()
    watch = NodeWatch("here", clock)
    old, namesake, busy = (
        Node("old", "there", ELSEWHERE, 7, 40.0),
        Node("namesake", "here", ELSEWHERE, 7, 2.0),
        Node("busy", "there", ELSEWHERE, 7, 2.0),
    )
    assert not watch.dead([old, namesake, busy])
    looks = _looks(watch, clock, 10, old, namesake, busy)
    assert looks[6] == []
    assert looks[8] == ["old", "namesake"]


def test_time_in_which_nobody_looked_counts_for_little() -> None:
    """Who was stopped for an hour takes nobody for dead at once: the others may have been stopped as well."""
    clock = Clock()
    watch = NodeWatch("here", clock)
    other = Node("other", "there", ELSEWHERE, 7, 0.0)
    watch.dead([other])
    clock.now += 3600
    assert watch.dead([replace(other, age=10)]) == []


def test_a_process_of_this_machine_is_known_to_run_or_not() -> None:
    """A process that has ended does not run, also before its parent asks; of one of elsewhere nothing is known."""
    assert is_running(this_process())
    where = this_process().rsplit(" ", 2)[0]
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        started = Path(f"/proc/{sleeping.pid}/stat").read_text().rpartition(")")[2].split()[19]
        process = f"{where} {sleeping.pid} {started}"
        assert is_running(process)
        assert is_running(f"{where} {sleeping.pid} {int(started) - 1}") is False
        sleeping.kill()
        os.waitid(os.P_PID, sleeping.pid, os.WEXITED | os.WNOWAIT)
        assert is_running(process) is False
    assert is_running(process) is False
    assert {is_running(other) for other in (ELSEWHERE, "", " ", "x", f"{where} x y")} == {None}


def test_a_process_that_ended_here_is_a_dead_node_at_once() -> None:
    """No second look is needed; and one of our host's name that runs here is given its 25 s."""
    clock = Clock()
    watch = NodeWatch("here", clock)
    ended = Node("ended", "here", f"{this_process()}0", 7, 0.0)
    hung = Node("hung", "here", this_process(), 7, 0.0)
    assert watch.dead([ended, hung]) == [ended]
    assert not any(_looks(watch, clock, 20, hung))
    assert _looks(watch, clock, 6, hung)[-1] == ["hung"]


async def test_a_start_releases_what_a_killed_one_left(tmp_path: Path) -> None:
    """After kill -9, the next start on the host ends the sessions of the one before, with the reason."""
    url = f"sqlite:///{tmp_path}/bastion.db"
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, url, stdout=subprocess.PIPE)
    try:
        assert killed.stdout is not None
        assert await killed.stdout.readline() == b"ready\n"
        async with node(url, "next", SessionsSettings(per_service=1)) as beside:
            with pytest.raises(LimitReached):
                async with live(beside, "2"):
                    pytest.fail("a second session was opened")
    finally:
        killed.kill()
        await killed.wait()
    async with node(url, "next", SessionsSettings(per_service=1)) as sessions, live(sessions, "2"):
        left = await sessions.find("left")
        assert left is not None
        assert (left.state, left.reason) == ("terminated", "its bastion stopped")


async def test_a_node_that_was_taken_for_dead_comes_back(tmp_path: Path) -> None:
    """What others released while it could not be heard is live again when it can, and ends as it does."""
    path = tmp_path / "bastion.db"
    url = f"sqlite:///{path}"
    async with node(url, "one") as one, node(url, "two") as two:
        async with live(one, "1") as session:
            await _until(lambda: two.get("1") is not None)
            with closing(sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)) as raw:
                release = (
                    "UPDATE sessions SET state = 'terminated', ended_at = created_at, reason = 'its bastion stopped'"
                )
                for statement in (release, "DELETE FROM nodes WHERE name = 'one'"):
                    # in a thread: who has the lock may need this loop to let go of it
                    await asyncio.to_thread(raw.execute, statement)
                read = "SELECT state, reason FROM sessions"
                await _until(lambda: raw.execute(read).fetchall() == [("active", None)])
                await _until(lambda: raw.execute("SELECT count(*) FROM nodes").fetchone() == (2,))
            session.update(reason="the program ended", exit_status=0)
        found = await one.find("1")
        assert found is not None
        assert (found.state, found.reason) == ("terminated", "the program ended")


async def test_a_node_of_another_host_that_falls_silent_is_released(tmp_path: Path) -> None:
    """Its sessions are ended by the others after 30 s without a word, of which a process to look at is no part."""
    url = f"sqlite:///{tmp_path}/bastion.db"
    store = SqlStore(url, "one", process=ELSEWHERE)
    one = Sessions(SessionsSettings(), "one", store)
    await one.start()
    keeping = asyncio.create_task(one.keep())
    async with node(url, "two") as two, live(one, "1"):
        await _until(lambda: two.get("1") is not None)
        await asyncio.sleep(6)
        assert two.get("1") is not None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _until(lambda: two.get("1") is None, seconds=40)
        ended = await two.find("1")
        assert ended is not None
        assert ended.reason == "its bastion stopped"
    await one.close()
