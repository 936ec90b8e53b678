"""A short run of `make fuzz` with seeds that are the same each time, and every case that once found something."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.parsers import Archive, make_archive
from tests.fuzz.run import CaseFailed, Target, replay, run_share, targets
from tests.fuzz.world import World, world

SEED: Final = 20261128
WARM_UP_SHARE: Final = 0.2


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Give two recorded sessions."""
    return asyncio.run(make_archive(tmp_path_factory.mktemp("archive")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a running bastion."""
    with world(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.fixture(scope="module")
def every(archive: Archive, server: World) -> list[Target]:
    """Give everything there is to fuzz."""
    return targets(archive, server)


async def test_H1_the_corpus_holds(every: list[Target]) -> None:
    """What once broke something breaks nothing any more."""
    await replay(every)


async def test_H4_no_bytes_break_a_parser(every: list[Target]) -> None:
    """Names, key lines, configuration, records, SFTP and scp: errors of our own tree, and nothing left open."""
    for target in every:
        if not target.remote:
            await run_share(target, SEED, target.share)


async def test_B14_no_peer_breaks_the_server(every: list[Target], server: World) -> None:
    """Before and after login and by HTTP: it serves on, logs no error, and holds no more than before."""
    remote = [target for target in every if target.remote]
    for target in remote:
        await run_share(target, 0, int(target.share * WARM_UP_SHARE))
    before = await asyncio.to_thread(server.counts)
    for target in remote:
        await run_share(target, SEED, target.share)
        await asyncio.to_thread(server.assert_serves)
        server.assert_quiet()
    await asyncio.to_thread(server.assert_flat, before)


async def test_a_case_that_fails_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that breaks what must hold ends the run by its seed, and lies in the corpus."""
    monkeypatch.setattr("tests.fuzz.run.CORPUS", tmp_path)

    async def check(data: bytes) -> None:
        assert data != b"3"

    target = Target("digits", lambda mutator: str(mutator.random.randrange(10)).encode(), check, 50)
    with pytest.raises(CaseFailed) as failure:
        await run_share(target, SEED, target.share)
    (kept,) = (tmp_path / "digits").iterdir()
    assert kept.read_bytes() == b"3"
    assert f"seed {kept.stem}" in str(failure.value)
