"""Find every local process that a session started, by the marker in its environment, and end it."""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bastion.errors import RuntimeFailed
from bastion.runtimes.shell import MARKER, TICK, checked

_STEPS: Final = ((signal.SIGHUP, 10), (signal.SIGTERM, 15), (signal.SIGKILL, 20))  # and how many ticks each is given

_NOT_OURS: Final = (FileNotFoundError, ProcessLookupError, PermissionError)  # it has ended, or is another user's


@dataclass(frozen=True, slots=True)
class _Entry:
    pid: int
    parent: int
    session: int
    marked: bool


async def end_all(uid: str) -> list[int]:
    """End what session `uid` started with HUP, then TERM, then KILL; return the pids that are left after 5 s.

    That is: processes with its marker, their descendants, and the members of their (Unix) sessions.
    """
    sessions: set[int] = set()
    left = _find(uid, sessions)
    for step, ticks in _STEPS:
        _signal(left, step)
        _signal(left, signal.SIGCONT)
        for _ in range(ticks):
            if not left:
                return []
            await asyncio.sleep(TICK)
            left = _find(uid, sessions)
            if step == signal.SIGKILL:
                _signal(left, step)
    return left


def _find(uid: str, sessions: set[int]) -> list[int]:
    marker = f"{MARKER}={checked(uid)}".encode()
    try:
        folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
        table = [entry for folder in folders if (entry := _read(folder, marker))]
    except OSError as error:  # a process that cannot be looked at has not ended
        raise RuntimeFailed("the processes of this machine cannot be listed", detail=str(error)) from error
    own = os.getsid(0)
    found = {entry.pid for entry in table if entry.marked}
    while True:
        sessions |= {entry.session for entry in table if entry.pid in found and entry.session not in (0, 1, own)}
        more = {entry.pid for entry in table if entry.parent in found or entry.session in sessions} - found
        if not more:
            return sorted(found - {1, os.getpid()})
        found |= more


def _read(folder: Path, marker: bytes) -> _Entry | None:
    """Return what is to be known of a process; nothing of one that has ended or is hidden from us.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except _NOT_OURS:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    try:
        marked = marker in (folder / "environ").read_bytes().split(b"\0")
    except _NOT_OURS:
        marked = False
    return _Entry(int(folder.name), int(fields[1]), int(fields[3]), marked)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
