"""H5: change single bytes of a record, its signature and its ledger, and ask verify."""

import time
from pathlib import Path
from typing import Final

from bench.load.figures import Figure
from tests.fuzz.mutation import Mutator
from tests.fuzz.parsers import ArchiveTargets, make_archive

CHANGES: Final = 10_000
MAX_SECONDS: Final = 60.0


async def changed_bytes(folder: Path) -> list[Figure]:
    """Change one byte at a time at 10,000 random places, for a minute at most."""
    folder.mkdir(parents=True, exist_ok=True)
    target = ArchiveTargets(await make_archive(folder))
    unseen: list[str] = []
    until = time.monotonic() + MAX_SECONDS
    done = 0
    while done < CHANGES and time.monotonic() < until:
        try:
            await target.check_change(target.generate_change(Mutator(done)))
        except AssertionError as error:
            unseen.append(str(error))
        done += 1
    measured = f"{done - len(unseen)} of {done} refused" + (f"; unseen: {unseen[0]}" if unseen else "")
    promise = "100 % of 10,000 random changes of one byte in transcripts, signatures and ledger refused"
    return [Figure("H5 verify", promise, measured, not unseen and done == CHANGES)]
