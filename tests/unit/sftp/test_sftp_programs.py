"""OpenSSH's own sftp and scp against the server: every command they have, and what they say when one fails."""

import os
import stat
import time

from tests.unit.sftp.bridge import Bridge

CONTENT = bytes(range(256)) * 4099  # no multiple of any packet


async def test_put_and_get_are_equal(bridge: Bridge) -> None:
    """What is put and got again is the same, for nothing, one byte, and more than any packet; times and modes too."""
    for name, content in (("empty", b""), ("one", b"\0"), ("large", CONTENT)):
        mine = bridge.folder / name
        mine.write_bytes(content)
        mine.chmod(0o640)
        os.utime(mine, (1_000_000_000, 1_000_000_001))
        said = await bridge.sftp(f"put -p {name} /tmp/{name}", f"get -p /tmp/{name} {name}.back")
        assert (said.status, said.errors) == (0, "")
        assert bridge.files.content(f"/tmp/{name}".encode()) == content
        back = bridge.folder / f"{name}.back"
        assert back.read_bytes() == content
        assert (stat.S_IMODE(back.stat().st_mode), back.stat().st_mtime) == (0o640, 1_000_000_001)
    assert max(bridge.files.writes) > 32768, "no writes were put together"


async def test_every_command_does_what_it_says(bridge: Bridge) -> None:
    """Ls, mkdir, rename, chmod, symlink, ln, rm, rmdir, df and cd do in the container what they do on any server."""
    files = bridge.files
    files.put(b"/app/log/today.log", b"x" * 10).modified = int(time.time()) - 60
    files.put(b"/app/log/old.log").modified = 1_000_000_000
    said = await bridge.sftp("cd /app/log", "pwd", "ls -l", "ls -1 *.log", "df /app", "df -i")
    assert (said.status, said.errors) == (0, "")
    assert "Remote working directory: /app/log" in said.output
    assert "-rw-r--r--    1 app      app             0 Sep  9  2001 old.log" in said.output
    lines = said.output.splitlines()
    assert any("today.log" in line and ":" in line and "        10 " in line for line in lines)
    assert lines.count("old.log") == 1
    (bridge.folder / "mine").touch()
    said = await bridge.sftp(
        "mkdir made", "put mine made/a", "rename made/a made/b", "chmod 600 made/b", "symlink made/b made/link",
        "ln made/b made/twin", "ls -ln made", "rm made/link", "rm made/b", "rmdir made",
    )  # fmt: skip
    assert said.status == 1
    assert "bastion: error: /home/app/made: directory not empty" in said.errors
    assert "-rw-------" in said.output
    assert "lrwxrwxrwx" in said.output
    assert (await bridge.sftp("rm made/twin", "rmdir made", "ls -la")).status == 0


async def test_a_broken_transfer_goes_on(bridge: Bridge) -> None:
    """Reget and reput go on where the shorter of the two ends."""
    (bridge.folder / "got").write_bytes(CONTENT[:1000])
    bridge.files.put(b"/tmp/whole", CONTENT)
    bridge.files.put(b"/tmp/part", CONTENT[:70000])
    (bridge.folder / "whole").write_bytes(CONTENT)
    said = await bridge.sftp("reget /tmp/whole got", "reput whole /tmp/part")
    assert (said.status, said.errors) == (0, "")
    assert (bridge.folder / "got").read_bytes() == CONTENT
    assert bridge.files.content(b"/tmp/part") == CONTENT


async def test_scp_copies_trees(bridge: Bridge) -> None:
    """`scp -r` there and back keeps the tree, and names of any bytes."""
    tree = bridge.folder / "tree"
    (tree / "below" / "deep").mkdir(parents=True)
    for name in (b"plain", b"-dash", b"sp ace", b"new\nline", b"quo'te\"", b"\xff\xfe", "ü€".encode()):
        (tree / "below" / os.fsdecode(name)).write_bytes(name)
    said = await bridge.scp("-r", "-p", "tree", bridge.name("/tmp/"))
    assert (said.status, said.errors) == (0, "")
    assert bridge.files.content(b"/tmp/tree/below/new\nline") == b"new\nline"
    said = await bridge.scp("-r", bridge.name("/tmp/tree"), "back")
    assert (said.status, said.errors) == (0, "")
    for each in (tree / "below").iterdir():
        if each.is_file():
            assert (bridge.folder / "back" / "below" / each.name).read_bytes() == each.read_bytes()


async def test_failures_are_said_in_words(bridge: Bridge) -> None:
    """What SFTP can only call a failure is said on standard error, once, with the path."""
    bridge.files.room = 300_000
    (bridge.folder / "large").write_bytes(CONTENT)
    said = await bridge.sftp("put large /tmp/large")
    assert said.status == 1
    assert said.errors.count("bastion: error: /tmp/large: no space left on device") == 1
    bridge.files.tree.read_only = True
    said = await bridge.sftp("put large /tmp/other", "get /none")
    assert "bastion: error: /tmp/other: read-only file system" in said.errors
    said = await bridge.sftp("-get /none", "-rm /none", "-mkdir /tmp")
    assert "bastion:" not in said.errors
