"""A running bastion to be attacked, and what must hold of it whatever was sent."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bastion.errors import LimitReached
from tests.e2e.server import Bastion
from tests.local_bastion import COMMAND_VARIABLE, SERVICE, STACK

MAX_GROWTH_KIB: Final = 24 * 1024
MAX_MORE_DESCRIPTORS: Final = 4
MAX_MORE_TASKS: Final = 4
IDLE_SECONDS: Final = 60.0
UNLIMITED: Final = """
max_startups = 2000
max_startups_per_source = 2000
max_handshakes = 0
max_handshakes_per_source = 0
max_connections_per_user = 2000
max_connections_per_source = 2000
"""


@dataclass(frozen=True)
class Counts:
    """What the server holds while nobody is connected."""

    tasks: int
    descriptors: int
    resident_kib: int


def server_counts(server: Bastion) -> Counts:
    """Wait until a bastion of local processes, whose clients have gone, holds no less any more; return that."""
    least: Counts | None = None
    until = time.monotonic() + IDLE_SECONDS
    same = 0
    while least is None or same < 3:
        taken = _count(server)
        if least is not None and (taken.tasks, taken.descriptors) >= (least.tasks, least.descriptors):
            same += 1
        else:
            least, same = taken, 0
        assert time.monotonic() < until, f"the server does not come to rest: {taken}"
        time.sleep(0.2)
    return least


def _count(server: Bastion) -> Counts:
    known = len(server.events("counts"))
    server.send_signal(signal.SIGUSR1)
    until = time.monotonic() + IDLE_SECONDS
    while len(events := server.events("counts")) == known:
        assert time.monotonic() < until, "the event loop does not answer a signal"
        assert server.is_running, "the server ended"
        time.sleep(0.02)
    return Counts(*(events[-1][name] for name in ("tasks", "descriptors", "resident_kib")))


class World:
    """A bastion of local processes, every one of which is `cat`; a user may read files only."""

    def __init__(self, folder: Path) -> None:
        grants = f'[[grants]]\nusers = ["alice"]\nstacks = ["{STACK}"]\nallow = ["shell", "exec", "files:read"]\n'
        self.bastion = Bastion(folder, "", grants=grants, program=[sys.executable, "-m", "tests.local_bastion"])
        text = self.bastion.config.read_text()
        self.bastion.config.write_text(text.replace("[ssh]\n", f"[ssh]{UNLIMITED}", 1))
        self._read = 0

    def start(self) -> "World":
        """Start the server."""
        os.environ[COMMAND_VARIABLE] = "cat"
        try:
            self.bastion.start()
        finally:
            del os.environ[COMMAND_VARIABLE]
        return self

    def counts(self) -> Counts:
        """Wait until the server holds no less any more; return what it holds then."""
        return server_counts(self.bastion)

    def assert_serves(self) -> None:
        """Let a client in as ever, by the stock ssh; the places of clients that have just gone may take a moment."""
        until = time.monotonic() + IDLE_SECONDS
        while True:
            done = self.bastion.ssh("cat", input=b"still here\n", name=f"{SERVICE}@{STACK}", timeout=60)
            if done.returncode != LimitReached.exit_status or time.monotonic() > until:
                break
        assert (done.returncode, done.stdout) == (0, b"still here\n"), (done, self.tail())

    def assert_quiet(self) -> None:
        """Find no error, traceback or unhandled exception in what the log has got since the last call."""
        text = self.bastion.log.read_bytes()[self._read :]
        self._read += len(text)
        faults = [line for line in text.decode(errors="replace").splitlines() if _is_fault(line)]
        assert not faults, "\n".join(faults[:5])

    def assert_flat(self, before: Counts) -> Counts:
        """Find no more tasks, descriptors and memory than before, but for what an allocator keeps."""
        after = self.counts()
        assert after.tasks <= before.tasks + MAX_MORE_TASKS, (before, after)
        assert after.descriptors <= before.descriptors + MAX_MORE_DESCRIPTORS, (before, after)
        assert after.resident_kib <= before.resident_kib + MAX_GROWTH_KIB, (before, after)
        return after

    def tail(self) -> str:
        """Return the end of the log."""
        return self.bastion.log.read_text(errors="replace")[-2000:]


def _is_fault(line: str) -> bool:
    try:
        fact: dict[str, Any] = json.loads(line)
    except ValueError:
        return bool(line.strip())  # what is no JSON was not written by the log: a traceback
    return fact.get("level") in {"error", "critical"} or "exception" in fact or fact.get("logger") == "asyncio"


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Run a bastion for as long as the context lasts; it must end with 0."""
    made = World(folder).start()
    try:
        yield made
        assert made.bastion.stop() == 0, made.tail()
    finally:
        if made.bastion.is_running:
            made.bastion.kill()
