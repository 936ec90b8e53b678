"""What is fuzzed, and how a case is made, checked, and kept when it found something."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz import connections, conversations, parsers
from tests.fuzz.mutation import Mutator
from tests.fuzz.world import World

CORPUS: Final = Path(__file__).parent / "corpus"
CASE_SECONDS: Final = 30.0
AT_ONCE: Final = 8


@dataclass(frozen=True)
class Target:
    """One thing to fuzz: what makes a case of a seed, what must hold of it, and how many cases a share of a run has.

    `remote` cases go to the running server, several at once.
    """

    name: str
    generate: Callable[[Mutator], bytes]
    check: Callable[[bytes], Awaitable[None]]
    share: int
    remote: bool = False


def targets(archive: parsers.Archive, server: World) -> list[Target]:
    """Return everything there is to fuzz; one share of each is a few seconds' work."""
    files = parsers.ArchiveTargets(archive)
    bastion = server.bastion
    peer = connections.Peer(bastion.port, bastion.folder / "alice.key", bastion.folder / "api.sock")
    return [
        Target("names", parsers.generate_name, parsers.check_name, 3000),
        Target("keys", parsers.generate_key_line, parsers.check_key_line, 3000),
        Target("configuration", parsers.generate_configuration, parsers.check_configuration, 100),
        Target("archive", files.generate_content, files.check_content, 150),
        Target("byte", files.generate_change, files.check_change, 300),
        Target("sftp", conversations.generate_sftp, conversations.check_sftp, 300),
        Target("scp", conversations.generate_scp, conversations.check_scp, 300),
        Target("handshake", connections.generate_handshake, peer.handshake, 400, remote=True),
        Target("login", connections.generate_login, peer.login, 120, remote=True),
        Target("channels", connections.generate_channels, peer.channels, 120, remote=True),
        Target("http", connections.generate_http, peer.http, 150, remote=True),
    ]


class CaseFailed(Exception):
    """One case broke what must hold."""


async def replay(every: Sequence[Target]) -> int:
    """Check each case that once found something; return how many there are."""
    count = 0
    for target in every:
        for path in sorted((CORPUS / target.name).glob("*.bin")):
            await _check(target, path.read_bytes(), f"the case {path}")
            count += 1
    return count


async def run_share(target: Target, seed: int, count: int) -> None:
    """Make and check `count` cases, the first of which has this seed, the next the next.

    Raises:
        CaseFailed: one broke what must hold; it lies in the corpus, from where later runs take it. Of remote cases
            several at once, so that it comes in a group.
    """

    async def run(numbers: Iterable[int]) -> None:
        for number in numbers:
            await _check(target, target.generate(Mutator(number)), f"{target.name} with seed {number}")

    if not target.remote:
        await run(range(seed, seed + count))
        return
    async with asyncio.TaskGroup() as group:
        for first in range(seed, seed + AT_ONCE):
            group.create_task(run(range(first, seed + count, AT_ONCE)))


async def _check(target: Target, case: bytes, words: str) -> None:
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await target.check(case)
    except Exception as error:
        kept = CORPUS / target.name / f"{words.rpartition(' ')[2]}.bin".replace("/", "_")
        if not words.startswith("the case"):
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(case)
            words += f", kept as {kept}"
        raise CaseFailed(f"{words}: {type(error).__name__}: {error}") from error
