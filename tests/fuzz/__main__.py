"""Fuzz for a while: `make fuzz SECONDS=600`; `python -m tests.fuzz --target login --seed 7 --count 1` is one case."""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.parsers import make_archive
from tests.fuzz.run import CaseFailed, replay, run_share, targets
from tests.fuzz.world import world


async def fuzz(folder: Path, seconds: float, seed: int, only: str | None, count: int | None) -> None:
    """Run rounds of every target, each with new seeds, until the time is over; then hold the server to its word."""
    archive = await make_archive(folder)
    with world(folder / "server") as server:
        every = [target for target in targets(archive, server) if only in (None, target.name)]
        print(f"{await replay(every)} cases of the corpus hold", file=sys.stderr)
        print(f"at the start: {await asyncio.to_thread(server.counts)}", file=sys.stderr)
        before = None
        until = time.monotonic() + seconds
        while True:
            for target in every:
                cases = count or target.share
                print(f"{target.name}: seeds {seed} to {seed + cases - 1}", file=sys.stderr)
                began = time.monotonic()
                await run_share(target, seed, cases)
                print(f"{target.name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
                if target.remote:
                    await asyncio.to_thread(server.assert_serves)
                    server.assert_quiet()
            after = await asyncio.to_thread(server.counts)
            print(f"at rest: {after}", file=sys.stderr)
            before = before or after  # of a server that has met everything once
            await asyncio.to_thread(server.assert_flat, before)
            seed += max(count or target.share for target in every)
            if count or time.monotonic() > until:
                return


def main() -> int:
    """Read the arguments and fuzz; 1 when something did not hold."""
    arguments = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600, help="begin no round after this")
    arguments.add_argument("--seed", type=int, default=None, help="of the first case; the time by default")
    arguments.add_argument("--target", help="this one only")
    arguments.add_argument("--count", type=int, help="so many cases of each target, once")
    chosen = arguments.parse_args()
    seed = int(time.time()) * 1000 if chosen.seed is None else chosen.seed
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # the clients send into connections that the server has closed
    with tempfile.TemporaryDirectory(prefix="bastion-fuzz-") as folder:
        try:
            asyncio.run(fuzz(Path(folder), chosen.seconds, seed, chosen.target, chosen.count))
        except (CaseFailed, ExceptionGroup, AssertionError) as error:
            failures = error.exceptions if isinstance(error, ExceptionGroup) else [error]
            for failure in failures:
                print(f"bastion: error: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
