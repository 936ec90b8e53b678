"""Which node of those that share a database has stopped, told so that no step of a clock is taken for an end."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BEAT_SECONDS: Final = 5.0
DEAD_SECONDS: Final = 25.0  # and one more beat of whoever notices: its places are free after 30 s
_SURE_SECONDS: Final = 8.0  # without a beat, as seen by us: more than one of every 5 s was missed


@dataclass(frozen=True, slots=True)
class Node:
    """One running bastion, as the database has it.

    `id` is another at each start, `name` the host's, `process` what `this_process` said there, `beats` how often it has
    said that it lives, and `age` how many seconds ago it last did, by the database's clock.
    """

    id: str
    name: str
    process: str
    beats: int
    age: float


class NodeWatch:
    """Remembers for how long each node has been without a new beat, by the clock of this process alone.

    `clock` gives seconds that only go forward. Time in which we did not look ourselves, stopped or waiting, is not
    counted: others may have been as still as we were.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._looked = clock()
        self._still: dict[str, tuple[int, float]] = {}

    def dead(self, nodes: Sequence[Node]) -> list[Node]:
        """Return those of the nodes, which are all there are, that have stopped.

        A node has when its process on this machine is gone, or when it was without a beat for 25 s as seen by us. If we
        have not looked for that long, 8 s of ours do for one of our host's name whose process cannot be looked at (a
        container started anew), and for any whose last beat is 25 s off by the database's clock: alone, that clock
        would take its own step for the end of all nodes.
        """
        now = self._clock()
        passed, self._looked = min(now - self._looked, 2 * BEAT_SECONDS), now
        still = {}
        for node in nodes:
            beats, before = self._still.get(node.id, (None, 0.0))
            still[node.id] = (node.beats, before + passed if beats == node.beats else 0.0)
        self._still = still
        return [node for node in nodes if self._has_stopped(node)]

    def _has_stopped(self, node: Node) -> bool:
        still = self._still[node.id][1]
        runs = is_running(node.process)
        suspect = (node.name == self._name and runs is None) or abs(node.age) >= DEAD_SECONDS
        return runs is False or still >= DEAD_SECONDS or (suspect and still >= _SURE_SECONDS)


def this_process() -> str:
    """Return what tells this process from all others: the machine's start, the pid's namespace, the pid, its start."""
    pid = os.getpid()
    started = _started(pid)
    return f"{_where() if started else _nowhere()} {pid} {started or 0}"


def is_running(process: str) -> bool | None:
    """Tell whether a process, named by `this_process`, runs on this machine.

    None when it is one of elsewhere, or when /proc cannot be read, which says nothing of the process.
    """
    try:
        where, number, started = process.rsplit(" ", 2)
        pid = int(number)
    except ValueError:
        return None
    if where != _where() or (started_now := _started(pid)) is None:
        return None
    return started_now == started


def _where() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return _nowhere()


def _nowhere() -> str:
    return f"unknown {os.urandom(8).hex()}"


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks of the machine; "" when there is none, or only its remains.

    None when it cannot be read.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None
    return "" if fields[0] in {b"Z", b"X"} else fields[19].decode("ascii")
