"""Load, break and attack bastions on this machine, and write the table of docs/reliability.md: `make load`."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.load import failures, records, steady, storms
from bench.load.figures import Figure, failed, machine, table, write
from tests.conftest import CACHE
from tests.engine import Engine

PART_SECONDS: Final = 240.0
Part = Callable[[Path], Awaitable[list[Figure]]]


def parts(minutes: float, engine: Engine | None) -> dict[str, Part]:
    """Return every part by the rows that it measures."""
    with_engine: dict[str, Part] = {}
    if engine is not None:
        with_engine = {
            "L1-docker": partial(steady.sessions_on_docker, engine=engine),
            "F3": partial(failures.engine_restart, engine=engine),
        }
    return {
        "L1": steady.many_sessions,
        "L2-logins": steady.login_rate,
        "L2": partial(steady.churn, minutes=minutes),
        "L3": steady.throughput,
        "L4": storms.login_storm,
        "L5": steady.soak,
        "F1": failures.kills,
        "F5": failures.network_cut,
        "F6": storms.stopped_reader,
        "F8": failures.drain,
        "F9": failures.reloads,
        "F12": failures.hand_over,
        "H2": storms.every_attack,
        "H5": records.changed_bytes,
        **with_engine,
    }


async def measure(every: dict[str, Part], minutes: float) -> list[Figure]:
    """Take each part in turn; one that fails is a figure that was not measured."""
    figures: list[Figure] = []
    for name, part in every.items():
        began = time.monotonic()
        print(f"{name}: …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="bastion-load-", ignore_cleanup_errors=True) as folder:
            try:
                async with asyncio.timeout(PART_SECONDS + (minutes * 90 if name == "L2" else 0)):
                    taken = await part(Path(folder) / "server")
            except Exception as error:  # noqa: BLE001 - whatever it was, the other parts are measured
                taken = [failed(name, "", error)]
        for figure in taken:
            print(f"{figure.row}: {figure.measured} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
        figures += taken
    return figures


def main() -> int:
    """Measure, print and write; 1 when something could not be measured."""
    arguments = argparse.ArgumentParser(prog="make load", description=__doc__)
    arguments.add_argument("--minutes", type=float, default=1.5, help="how long L2 churns; threats.md promises 30")
    arguments.add_argument("--only", help="these parts only, such as L1,F8; nothing is written")
    chosen = arguments.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    load_average = os.getloadavg()[0]
    print(f"{machine()}, load average {load_average:.1f}", file=sys.stderr)
    engine, reason = _engine()
    try:
        every = parts(chosen.minutes, engine)
        if chosen.only:
            every = {name: part for name, part in every.items() if name in chosen.only.split(",")}
        figures = asyncio.run(measure(every, chosen.minutes))
    finally:
        if engine is not None:
            engine.close()
    if reason is not None and not chosen.only:
        figures += [failed(row, "", reason) for row in ("L1 Docker Engine", "F3 engine restart")]
    command = "make load" if chosen.minutes == 1.5 else f"make load MINUTES={chosen.minutes:g}"
    text = table(figures, command, load_average)
    print(text)
    if not chosen.only:
        write(text)
    return int(any(figure.met is None for figure in figures))


def _engine() -> tuple[Engine | None, Exception | None]:
    engine = Engine(CACHE)
    try:
        engine.start_engine()
        engine.prepare()
    except Exception as error:  # noqa: BLE001 - without an engine the rest is measured
        engine.close()
        return None, error
    return engine, None


if __name__ == "__main__":
    sys.exit(main())
