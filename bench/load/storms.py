"""L4, H2, F6: what others feel while somebody storms, attacks or stops reading."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.load.clients import echoing, logins
from bench.load.figures import Figure, milliseconds, percentile
from bench.load.place import DEFAULTS, make, resident_mib, running
from tests.e2e.server import Bastion

OTHERS: Final = 20
STORM_SECONDS: Final = 15.0
ATTACK_SECONDS: Final = 20.0
STOPPED_SECONDS: Final = 140.0
_ROOT: Final = Path(__file__).parents[2]


def _attack(server: Bastion, seconds: float, ways: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.load.attack", str(server.port), str(server.folder / "alice.key")]
    return subprocess.Popen(
        [*command, str(seconds), ways], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


async def _sent(process: "subprocess.Popen[bytes]") -> int:
    try:
        async with asyncio.timeout(60):
            output, _ = await asyncio.to_thread(process.communicate)
    finally:
        process.kill()
    return int(output or b"0")


async def login_storm(folder: Path) -> list[Figure]:
    """Have two strangers' addresses start key exchanges, with the default limits, while others work and log in."""
    server = make(folder, DEFAULTS)
    with running(server):
        async with echoing(server, OTHERS) as echoes:
            await asyncio.sleep(2)
            echoes.delays.clear()
            attacker = _attack(server, STORM_SECONDS, "storm")
            delays, failures = await logins(server, STORM_SECONDS, parallel=4, apart=True)
            sent = await _sent(attacker)
    rate = len(delays) / STORM_SECONDS
    measured = (
        f"{sent / STORM_SECONDS:.0f} connections a second from two addresses; "
        f"others' echo {milliseconds(echoes.delays)}, "
        f"{len(echoes.faults)} lost; {rate:.0f} good logins a second, {failures} failed"
    )
    met = percentile(echoes.delays, 99) <= 0.1 and not echoes.faults and rate >= 25 and sent / STORM_SECONDS >= 400
    return [
        Figure("L4 login storm", "500 a second: others' echo p99 ≤ 100 ms, ≥ 25 good logins a second", measured, met)
    ]


async def every_attack(folder: Path) -> list[Figure]:
    """Attack in every way of the B rows at once from two addresses."""
    server = make(folder, DEFAULTS)
    with running(server):
        async with echoing(server, OTHERS) as echoes:
            await asyncio.sleep(2)
            echoes.delays.clear()
            before = resident_mib(server.pid)
            attacker = _attack(server, ATTACK_SECONDS, "all")
            most, until = before, time.monotonic() + ATTACK_SECONDS
            while time.monotonic() < until:
                await asyncio.sleep(0.5)
                most = max(most, resident_mib(server.pid))
            sent = await _sent(attacker)
        faults = len(server.events("internal error"))
    measured = (
        f"{sent} hostile connections in {ATTACK_SECONDS:.0f} s; others' echo {milliseconds(echoes.delays)}, "
        f"{len(echoes.faults)} lost; RSS {before:.0f} → {most:.0f} MiB; {faults} internal errors"
    )
    met = percentile(echoes.delays, 99) <= 0.2 and not echoes.faults and not faults
    return [Figure("H2 every attack at once", "others' echo p99 ≤ 200 ms", measured, met)]


async def stopped_reader(folder: Path) -> list[Figure]:
    """Have a client open a window of 4 GiB on endless output and read nothing, until it is closed."""
    server = make(folder)
    with running(server):
        async with echoing(server, OTHERS) as echoes:
            await asyncio.sleep(2)
            echoes.delays.clear()
            before = resident_mib(server.pid)
            known, began = len(server.events("session")), time.monotonic()
            attacker = _attack(server, STOPPED_SECONDS, "unread")
            most = before
            while len(server.events("session")) == known and time.monotonic() - began < STOPPED_SECONDS:
                await asyncio.sleep(1)
                most = max(most, resident_mib(server.pid))
            took = time.monotonic() - began
            attacker.kill()
            await asyncio.to_thread(attacker.wait)
            ended = len(server.events("session")) > known
    measured = f"RSS +{most - before:.0f} MiB; others' echo {milliseconds(echoes.delays)}; " + (
        f"closed after {took:.0f} s" if ended else f"still open after {took:.0f} s"
    )
    met = most - before <= 10 and percentile(echoes.delays, 99) <= 0.1 and ended and took <= 130
    promise = "RSS + ≤ 10 MiB, others' echo p99 ≤ 100 ms, closed after 120 s"
    return [Figure("F6 stopped reader", promise, measured, met)]
