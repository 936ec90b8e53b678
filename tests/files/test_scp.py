"""The stock scp in its legacy mode over every way to the files of every world."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bastion.files.scp import parse_scp, serve_scp
from bastion.model import Channel
from tests.files.place import Place
from tests.unit.ssh_bridge import Bridge, bridged

EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte not in b"/\n")
NAMES = [EVERY_BYTE[:126], EVERY_BYTE[126:], b"-rf", b"a\xff b", b"'\"`$x", b"*", b"\\"]


@asynccontextmanager
async def scp_over(place: Place) -> AsyncIterator[Bridge]:
    async def serve(channel: Channel, command: str | None, subsystem: str | None) -> int:
        parsed = parse_scp(command or "")
        assert parsed is not None, command
        return await serve_scp(channel, place.files, parsed)

    async with bridged(serve) as bridge:
        yield bridge


def _tree(folder: Path) -> Path:
    """Lay out names of every byte, and files of no, one and many bytes."""
    (folder / "names").mkdir(parents=True)
    for name in NAMES:
        (folder / "names" / os.fsdecode(name)).write_bytes(name)
    for size in (0, 1, 5 * 2**20 + 1):
        (folder / str(size)).write_bytes(os.urandom(size))
    (folder / "1").chmod(0o440)
    os.utime(folder / "1", (1_000_000_000, 1_000_000_001))
    (folder / "closed").mkdir()
    (folder / "closed").chmod(0o500)
    return folder


def _held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_tree_goes_in_and_comes_out_as_it_was(place: Place, tmp_path: Path) -> None:
    """Contents, names of every byte, modes and times of a tree are the same after a way in and out."""
    mine = _tree(tmp_path / "mine")
    async with scp_over(place) as bridge:
        assert await bridge.run("scp", "-O", "-r", "-p", mine, f"x:{place.folder.decode()}/there") == (0, b"", b"")
        there = await place.look("cd there; stat -c '%a %Y' 1 closed; ls names | wc -l; sha256sum < 5242881")
        assert there.split("\n")[0] == "440 1000000001"
        assert there.split("\n")[1].startswith("500 ")
        assert there.split()[-2:] == [hashlib.sha256((mine / "5242881").read_bytes()).hexdigest(), "-"]
        assert await bridge.run("scp", "-O", "-r", "-p", f"x:{place.folder.decode()}/there", tmp_path / "back") == (
            0, b"", b"",
        )  # fmt: skip
    assert _held(tmp_path / "back") == _held(mine)
    back = (tmp_path / "back" / "1").stat()
    assert (back.st_mode & 0o7777, back.st_mtime) == (0o440, 1_000_000_001)


async def test_what_fails_is_told_and_the_rest_goes_on(place: Place, tmp_path: Path) -> None:
    """Globs find what is there, and what is missing or in the way is told by its path with status 1."""
    await place.look("echo a > a.log; echo b > b.log; echo c > .c.log; mkdir d.log")
    folder = place.folder.decode()
    async with scp_over(place) as bridge:
        said = await bridge.run("scp", "-O", f"x:{folder}/*.log", f"x:{folder}/missing", tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "b.log"]  # noqa: ASYNC240 - three names
        assert said[0] == 1
        lines = said[2].decode().splitlines()
        assert f"scp: {folder}/d.log: not a regular file" in lines
        assert any(line.startswith(f"scp: {folder}/missing: no such file") for line in lines)
        status, _, err = await bridge.run("scp", "-O", tmp_path / "a.log", f"x:{folder}/none/a.log")
        assert (status, err.decode().startswith(f"scp: {folder}/none/a.log: no such file")) == (1, True)
        long = tmp_path / "long"
        long.write_bytes(b"long" * 1000)
        for source in (long, tmp_path / "b.log"):
            assert await bridge.run("scp", "-O", source, f"x:{folder}/same") == (0, b"", b"")
        assert (await place.look("cat same")).strip() == "b"
