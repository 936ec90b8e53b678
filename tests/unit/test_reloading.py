"""The configuration is read again when its file has changed and is whole; what is no configuration changes nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bastion.app import Reload, reloading
from bastion.config import Settings, load

GOOD = '[[grants]]\nusers = ["alice"]\nstacks = ["a"]\n'
OTHER = GOOD.replace('"a"', '"b"')


class Watched:
    """A configuration file that is watched, and what was taken over from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bastion.toml"
        self.path.write_text(GOOD)
        self.reload = Reload(self.path)
        self.settings = load(self.path)
        self.taken: list[Settings] = []

    def stacks(self) -> list[tuple[str, ...]]:
        """Return the stacks of the first grant of each configuration that was taken over."""
        return [settings.grants[0].stacks if settings.grants else () for settings in self.taken]

    async def until_taken(self, number: int) -> None:
        """Wait until so many have been."""
        async with asyncio.timeout(10):
            while len(self.taken) < number:
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch it."""
        task = asyncio.create_task(self.reload.watch(self.settings, self.taken.append))
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(reloading, "CHECK_SECONDS", 0.05)
    return Watched(tmp_path)


@pytest.mark.parametrize(
    "text", ["", " \n", "a = " + "[" * 100_000, "a = " + "9" * 5000, "[[grants]", "[nonsense]\n", "\0", "x = 'ä"]
)
async def test_what_is_no_configuration_changes_nothing(watched: Watched, text: str) -> None:
    """A file that is empty, or on which the parser itself gives up, is refused; what follows it is taken over."""
    async with watched.watching():
        for asked in (False, True):
            watched.path.write_bytes(text.encode("latin-1"))
            if asked:
                watched.reload.ask()
            await asyncio.sleep(0.3)
            assert watched.taken == []
        watched.path.write_text(OTHER)
        await watched.until_taken(1)
    assert watched.stacks() == [("b",)]


async def test_a_file_that_is_gone_changes_nothing(watched: Watched) -> None:
    """The old configuration stays while there is no file; a link to another is a change like any."""
    async with watched.watching():
        watched.path.unlink()
        watched.reload.ask()
        await asyncio.sleep(0.3)
        assert watched.taken == []
        (other := watched.path.with_name("other.toml")).write_text(OTHER)
        watched.path.symlink_to(other)
        await watched.until_taken(1)
    assert watched.stacks() == [("b",)]


async def test_a_file_that_is_being_written_is_not_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows from look to look is read when it is whole; its beginning, a configuration too, never is."""
    monkeypatch.setattr(reloading, "CHECK_SECONDS", 0.3)
    async with watched.watching():
        watched.path.write_text("[sessions]\n")
        for _ in range(30):
            await asyncio.sleep(0.05)
            with watched.path.open("a") as file:
                file.write("# more\n")
        watched.path.write_text(OTHER)
        await watched.until_taken(1)
    assert watched.stacks() == [("b",)]


async def test_a_change_during_the_start_is_seen(watched: Watched) -> None:
    """What changed between the first reading and the watch is taken over, and so is what was asked for then."""
    watched.path.write_text(OTHER)
    async with watched.watching():
        await watched.until_taken(1)
    assert watched.stacks() == [("b",)]
