"""Containers whose tools are missing, lie, or never end: what becomes of whoever asks for their files."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bastion.errors import BastionError, FileFailed, NoShell, RuntimeFailed
from bastion.files import Changes, stat_lines
from bastion.files.helper import started
from tests.files.place import BOTH, READ, WRITE
from tests.files.shells import SHELLS, Shells, here
from tests.runtimes.world import look_here, resident

# What the probe asks of the tools is answered truly.
PROBED = {
    "stat": "case $* in '-c %f:%s /') exec stat \"$@\" ;; esac",
    "dd": "case $* in 'bs=3 '* | 'bs=1 count=1') exec dd \"$@\" ;; esac",
}


@pytest.fixture(params=["bash", "dash"])
async def shells(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shells]:
    """Give the shells that take the tools in PATH; busybox takes its own."""
    (tmp_path / "file").write_bytes(b"content")
    async with here(tmp_path, request.param) as found:
        yield found


def path_of(shells: Shells, name: str = "file") -> bytes:
    return os.fsencode(shells.folder / name)


async def test_missing_tools(shells: Shells) -> None:
    """A container without the tools is told apart from one that fails, so that another way can be tried."""
    for tool, script in {
        "stat": "echo 'stat: unknown option -c' >&2; exit 1",
        "dd": 'for word; do case $word in iflag=*) echo "dd: invalid argument" >&2; exit 1 ;; esac; done; exec dd "$@"',
    }.items():
        shells.tool(tool, script)
        with pytest.raises(NoShell, match="has not the tools") as failed:
            async with started(shells.start()):
                pass
        assert failed.value.detail.startswith(tool)
        (shells.folder / "tools" / tool).unlink()


async def test_never_ends(shells: Shells) -> None:
    """A tool that never ends is not waited for, what waits behind it is told, and nothing of it is left."""
    shells.tool("stat", PROBED["stat"] + "; exec sleep 7433")
    shells.limit = 1.0
    async with shells.files() as files:
        file = await files.open(path_of(shells), READ)
        asked = (files.stat(b"/", follow=True), file.read(0, 10), files.real_path(b"/"))
        for found in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(found, RuntimeFailed)
            assert "does not answer" in found.public
        with pytest.raises(RuntimeFailed):
            await files.stat(b"/", follow=True)
    assert look_here("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 743[3]'") == ""


async def test_never_starts(shells: Shells) -> None:
    """A shell that never says a word is not waited for."""
    shells.tool("stat", "exec sleep 7434")
    shells.limit = 1.0
    with pytest.raises(RuntimeFailed, match="does not answer"):
        async with started(shells.start()):
            pass


@pytest.mark.parametrize(
    "lie",
    [
        "echo nonsense",
        "exit 0",
        "echo 81a4:99999999999999999999999999:0:0:0:0:1",
        "printf '81a4:1:0:0:0:0:1\\n81a4:1:0:0:0:0:1'",
        "head -c 100000 /dev/zero",
        "yes",
        "kill -9 $PPID",
        "kill -9 $$",
        "tr '\\0' '\\n' </proc/$PPID/environ",
    ],
)
async def test_stat_that_lies(shells: Shells, lie: str) -> None:
    """What is no answer of stat's is a failure, however much of it comes."""
    shells.tool("stat", PROBED["stat"] + f"; {lie}")
    shells.limit = 5.0
    async with shells.files() as files:
        with pytest.raises(BastionError):
            await files.stat(b"/", follow=True)
        with pytest.raises(BastionError):
            await files.space(b"/")
        try:
            found = [entry async for batch in files.list(os.fsencode(shells.folder)) for entry in batch]
        except BastionError:
            return
        assert found == []


async def test_listing_that_lies(shells: Shells) -> None:
    """A listing has the names that the folder has: none that stat makes up, and none with a slash."""
    shells.tool("stat", PROBED["stat"] + "; printf '81a4:1:0:0:0:0:1:a:b:%s\\n' /etc/passwd made-up file file 'x y'")
    async with shells.files() as files:
        found = [entry.name async for batch in files.list(os.fsencode(shells.folder)) for entry in batch]
    assert found == []


@pytest.mark.parametrize("lie", ["yes", "cat /dev/zero", "echo 16+0 records in >&2; exit 1", "exec sleep 7435"])
async def test_dd_that_lies(shells: Shells, lie: str) -> None:
    """More than was asked for is no answer, and is not held."""
    shells.tool("dd", PROBED["dd"] + f"; {lie}")
    shells.limit = 1.0
    async with shells.files() as files:
        file = await files.open(path_of(shells), READ)
        before = resident()

        async def read_on() -> None:
            while True:
                await file.read(0, 2**20)
                await file.read(2**30, 2**20)

        with pytest.raises(BastionError):
            await read_on()
        assert resident() - before < 32 * 2**20


async def test_content_is_no_command(shells: Shells) -> None:
    """What a tool leaves of a file's content is not taken for commands, not even by who could guess them."""
    shells.tool("dd", PROBED["dd"] + "; printf '1+0 records in\\n' >&2")
    shells.limit = 2.0
    async with shells.files() as files:
        file = await files.open(path_of(shells, "new"), WRITE)
        token = secrets.token_hex(16)

        async def write_on() -> None:
            await file.write(0, f"\n{token} {token} remove 1\n{shells.folder}/file\n".encode() * 10)
            await files.stat(b"/", follow=True)  # the tool said that it had read all that; the shell reads it now

        with pytest.raises(RuntimeFailed):
            await write_on()
    assert (shells.folder / "file").read_bytes() == b"content"


async def test_tool_that_goes_on(shells: Shells) -> None:
    """A tool that writes on behind its end spoils an answer, and never becomes one."""
    shells.tool("touch", '(while sleep 0.01; do echo noise; done) >&9 2>/dev/null & exec touch "$@"')
    async with shells.files() as files:

        async def go_on() -> None:
            await files.change(path_of(shells), Changes(times=(1, 1)), follow=True)
            for _ in range(100):
                await asyncio.sleep(0.01)
                await files.stat(path_of(shells), follow=True)

        with pytest.raises(RuntimeFailed):
            await go_on()


async def test_readers_who_wait(tmp_path: Path) -> None:
    """What is read ahead for those who do not ask for it is bounded, whatever the number of files."""
    (tmp_path / "big").write_bytes(bytes(32 * 2**20))
    async with here(tmp_path, "dash") as shells, shells.files() as files:
        opened = [await files.open(path_of(shells, "big"), READ) for _ in range(40)]
        before = resident()
        for offset in range(0, 2 * 2**20, 2**18):
            for file in opened:
                assert len(await file.read(offset, 2**18)) == 2**18
        assert resident() - before < 100 * 2**20
        await asyncio.gather(*(file.close() for file in opened))


NAMES = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"\0", b"x").replace(b"/", b"y"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shell=st.sampled_from(SHELLS), tree=st.dictionaries(NAMES, st.binary(max_size=300), max_size=6))
def test_any_names_and_contents(shell: str, tree: dict[bytes, bytes], tmp_path: Path) -> None:
    """Whatever files are called and hold, they are written, listed and read as they are."""
    folder = tmp_path / secrets.token_hex(8)
    folder.mkdir()
    wanted = {b"-" + name: content for name, content in tree.items()}

    async def run() -> dict[bytes, bytes]:
        found = {}
        async with here(folder, shell) as shells, shells.files() as files:
            inside = os.fsencode(folder) + b"/inside/"
            await files.make_directory(inside, None)
            for name, content in wanted.items():
                file = await files.open(inside + name, BOTH)
                await file.write(0, content)
                await file.close()
            async for batch in files.list(inside):
                for entry in batch:
                    if entry.name not in {b".", b".."}:
                        file = await files.open(inside + entry.name, READ)
                        found[entry.name] = await file.read(0, 1000)
                        await file.close()
        return found

    assert asyncio.run(run()) == wanted


@given(st.binary(max_size=400), st.lists(st.binary(max_size=20), max_size=4))
def test_any_lines(noise: bytes, names: list[bytes]) -> None:
    """Whatever comes in the place of stat's lines is a failure or what it says, and never anything else."""
    for part in (noise, b"\0".join(names) + b"\0\0" + noise, noise.replace(b" ", b":")):
        for read in (stat_lines.attributes, stat_lines.entries, lambda said: stat_lines.space(said, b"/")):
            try:
                read(part)
            except FileFailed:
                continue
