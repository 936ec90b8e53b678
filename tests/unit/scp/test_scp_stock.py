"""The stock scp in its legacy mode, against files in memory: both ways, trees, globs, names, and what goes wrong."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bastion.files.scp import parse_scp, serve_scp
from bastion.model import Channel
from tests.unit.memory_files import MemoryFiles
from tests.unit.ssh_bridge import Bridge, bridged

ODD_NAMES = [
    bytes((byte,)) * 2 + b".x" for byte in range(1, 256) if byte not in b"/\n"
] + [b"-rf", b" lead and trail ", b"a\xff\xfeb", b"*[?]*", b"\\", b"'\"`$x"]  # fmt: skip


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles(b"/home/app")


@pytest.fixture
async def bridge(files: MemoryFiles) -> AsyncIterator[Bridge]:
    async def serve(channel: Channel, command: str | None, subsystem: str | None) -> int:
        assert command is not None
        parsed = parse_scp(command)
        assert parsed is not None, command
        return await serve_scp(channel, files, parsed)

    async with bridged(serve) as made:
        yield made
    assert files.opened == files.listing == 0


async def scp(bridge: Bridge, *arguments: str | bytes | Path) -> tuple[int, str]:
    """Copy; return the exit status, and what was said."""
    status, _, err = await bridge.run("scp", "-O", *arguments)
    return status, err.decode(errors="replace")


def held(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files in a folder and below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20 + 3])
async def test_a_file_goes_in_and_out_unchanged(bridge: Bridge, files: MemoryFiles, tmp_path: Path, size: int) -> None:
    """What was copied in and out again has the SHA-256 of what was there, empty, of one byte, and of many pieces."""
    (tmp_path / "in").write_bytes(os.urandom(size))
    expected = hashlib.sha256((tmp_path / "in").read_bytes()).digest()
    assert await scp(bridge, tmp_path / "in", "x:data.bin") == (0, "")
    assert hashlib.sha256(files.content(b"/home/app/data.bin")).digest() == expected
    assert await scp(bridge, "x:data.bin", tmp_path / "out") == (0, "")
    assert hashlib.sha256((tmp_path / "out").read_bytes()).digest() == expected


async def test_times_and_modes_are_kept_on_demand(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """With -p a file and a folder have the times and modes of the original, whichever way they went."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "f").write_bytes(b"x")
    (folder / "f").chmod(0o4444)
    os.utime(folder / "f", (1_000_000_001, 1_000_000_002))
    folder.chmod(0o711)
    os.utime(folder, (1_000_000_003, 1_000_000_004))
    assert await scp(bridge, "-p", "-r", folder, "x:there") == (0, "")
    found = await files.stat(b"there/f", follow=False)
    assert (found.mode & 0o7777, found.accessed, found.modified) == (0o4444, 1_000_000_001, 1_000_000_002)
    found = await files.stat(b"there", follow=False)
    assert (found.mode & 0o7777, found.accessed, found.modified) == (0o711, 1_000_000_003, 1_000_000_004)

    assert await scp(bridge, "-p", "-r", "x:there", tmp_path / "out") == (0, "")
    back = (tmp_path / "out" / "f").stat()
    assert (back.st_mode & 0o7777, back.st_mtime) == (0o4444, 1_000_000_002)
    back = (tmp_path / "out").stat()
    assert (back.st_mode & 0o7777, back.st_mtime) == (0o711, 1_000_000_004)


async def test_names_of_every_byte_go_both_ways(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """A tree whose names hold every byte but NUL, slash and newline comes out as it went in."""
    (tmp_path / "in").mkdir()
    for name in ODD_NAMES:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(name)
    assert await scp(bridge, "-r", tmp_path / "in", "x:there") == (0, "")
    assert {name: files.content(b"/home/app/there/" + name) for name in ODD_NAMES} == {n: n for n in ODD_NAMES}
    assert await scp(bridge, "-r", "x:there", tmp_path / "out") == (0, "")
    assert held(tmp_path / "out") == {os.fsdecode(name): name for name in ODD_NAMES}


async def test_a_newline_in_a_name_is_written_as_openssh_does(
    bridge: Bridge, files: MemoryFiles, tmp_path: Path
) -> None:
    r"""A name with a newline arrives with `\^J` in its place, as from OpenSSH's own scp; the rest arrives, too."""
    files.put(b"/srv/tree/a\nb\\c", b"one")
    files.put(b"/srv/tree/z", b"two")
    assert await scp(bridge, "-r", "x:/srv/tree", tmp_path) == (0, "")
    assert held(tmp_path / "tree") == {"a\\^Jb\\\\c": b"one", "z": b"two"}


async def test_globs_and_home_are_read_as_by_a_shell(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """A pattern gives what fits it, hidden files only when it says so, and what is quoted stands for itself."""
    for name in (b"a.log", b"b.log", b".hidden.log", b"c.txt", b"d/e.log", b"[x].log"):
        files.put(b"/home/app/logs/" + name, name)
    assert await scp(bridge, "x:~/logs/[ab].l?g", "x:logs/*/*.log", "x:logs/.h*", tmp_path) == (0, "")
    assert await scp(bridge, r"x:logs/\[x\].log", tmp_path) == (0, "")
    assert sorted(held(tmp_path)) == [".hidden.log", "[x].log", "a.log", "b.log", "e.log"]


async def test_what_is_not_there_is_told_and_the_rest_copied(
    bridge: Bridge, files: MemoryFiles, tmp_path: Path
) -> None:
    """A missing file and a pattern that fits nothing are told by name with status 1; what is there arrives."""
    files.put(b"/home/app/there", b"x")
    status, said = await scp(bridge, "x:missing", "x:*.none", "x:there", tmp_path)
    assert status == 1
    assert "scp: missing: no such file or directory" in said
    assert "scp: *.none: no such file" in said
    assert (tmp_path / "there").read_bytes() == b"x"


async def test_an_unreadable_file_does_not_end_a_tree(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """In a tree an unreadable file and folder are told, and everything else arrives."""
    files.put(b"/srv/tree/a", b"x")
    files.put(b"/srv/tree/b", b"x").mode &= ~0o777
    files.put(b"/srv/tree/closed/c", b"x")
    files.folder(b"/srv/tree/closed").mode &= ~0o777
    files.put(b"/srv/tree/d/e", b"x")
    status, said = await scp(bridge, "-r", "x:/srv/tree", tmp_path)
    assert status == 1
    assert said.splitlines() == [
        "scp: /srv/tree/b: permission denied",
        "scp: /srv/tree/closed: permission denied",
    ]
    assert held(tmp_path) == {"tree/a": b"x", "tree/d/e": b"x"}


async def test_a_tree_cannot_be_put_where_nothing_is(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """Several files want a folder that is there; into a folder that is missing nothing is written, and it is told."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    status, said = await scp(bridge, tmp_path / "a", tmp_path / "b", "x:/srv/none")
    assert (status, said) == (1, "scp: /srv/none: no such file\n")
    status, said = await scp(bridge, tmp_path / "a", "x:/srv/none/")
    assert (status, said) == (1, "scp: /srv/none/: no such file\n")
    assert b"srv" not in files.tree.root.children


async def test_what_may_not_be_written_is_told(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """A file that may not be written, one that is a folder, and a full disk are told in words with status 1."""
    files.put(b"/srv/kept", b"kept", 0o444)
    files.folder(b"/srv/folder/kept")
    (tmp_path / "kept").write_bytes(b"x")
    status, said = await scp(bridge, tmp_path / "kept", "x:/srv/kept")
    assert (status, said) == (1, "scp: /srv/kept: permission denied\n")
    status, said = await scp(bridge, tmp_path / "kept", "x:/srv/folder")
    assert (status, said) == (1, "scp: /srv/folder/kept: is a folder\n")
    files.room = 2**20
    (tmp_path / "large").write_bytes(bytes(3 * 2**20))
    (tmp_path / "small").write_bytes(b"small")
    status, said = await scp(bridge, tmp_path / "large", tmp_path / "small", "x:/tmp")
    assert (status, said) == (1, "scp: /tmp/large: no space left on device\n")
    assert files.content(b"/tmp/small") == b"small"
    assert files.content(b"/srv/kept") == b"kept"


async def test_a_shorter_file_replaces_a_longer_one(bridge: Bridge, files: MemoryFiles, tmp_path: Path) -> None:
    """Nothing of the old content is left behind the new, and the mode of the old file stays."""
    node = files.put(b"/home/app/f", b"long" * 1000, 0o640)
    (tmp_path / "f").write_bytes(b"short")
    assert await scp(bridge, tmp_path / "f", "x:f") == (0, "")
    assert (files.content(b"/home/app/f"), node.mode & 0o777) == (b"short", 0o640)
