"""The SFTP clients of asyncssh and paramiko against the server: their usual calls do what they do anywhere."""

import asyncio
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import asyncssh
import paramiko
import pytest

from tests.unit.sftp.bridge import TIMEOUT, Bridge

CONTENT = bytes(range(256)) * 8191


async def test_asyncssh_does_its_usual_calls(bridge: Bridge) -> None:
    """What asyncssh's client has methods for, the server serves."""
    mine = bridge.folder / "mine"
    mine.write_bytes(CONTENT)
    bridge.gateway.links_as_drafted = True  # asyncssh changes the order by the server's name
    async with await bridge.connect() as connection, connection.start_sftp_client() as sftp:
        assert sftp.version == 3
        assert sftp.supports_remote_copy
        assert await sftp.realpath(".") == "/home/app"
        await sftp.makedirs("/tmp/a/b")
        await sftp.put(str(mine), "/tmp/a/file", preserve=True)
        assert bridge.files.content(b"/tmp/a/file") == CONTENT
        await sftp.get("/tmp/a/file", str(bridge.folder / "back"), preserve=True)
        assert (bridge.folder / "back").read_bytes() == CONTENT
        await sftp.put(str(mine), "/tmp/a/other", block_size=8192, max_requests=3)
        assert sorted(await sftp.listdir("/tmp/a")) == [".", "..", "b", "file", "other"]
        async for entry in sftp.scandir("/tmp/a"):
            assert entry.attrs.uid == 1000
            assert "app" in str(entry.longname)
        await sftp.symlink("file", "/tmp/a/link")
        assert await sftp.readlink("/tmp/a/link") == "file"
        assert await sftp.islink("/tmp/a/link")
        await sftp.link("/tmp/a/file", "/tmp/a/twin")
        assert await sftp.getsize("/tmp/a/link") == len(CONTENT)
        assert sorted(str(each) for each in await sftp.glob("/tmp/a/*i*")) == [
            "/tmp/a/file",
            "/tmp/a/link",
            "/tmp/a/twin",
        ]
        await sftp.chmod("/tmp/a/file", 0o600)
        await sftp.utime("/tmp/a/file", (5, 6))
        found = await sftp.stat("/tmp/a/file")
        assert (stat.S_IMODE(found.permissions or 0), found.atime, found.mtime) == (0o600, 5, 6)
        await sftp.truncate("/tmp/a/twin", 10)
        assert bridge.files.content(b"/tmp/a/file") == CONTENT[:10]
        async with sftp.open("/tmp/a/file", "ab") as file:
            await file.write(b"appended")
            await file.fsync()
            assert (await file.stat()).size == 18
            assert (await file.statvfs()).bsize == 4096
        async with sftp.open("/tmp/a/file", "rb") as file:
            await file.seek(8)
            content: object = await file.read()
            assert content == CONTENT[8:10] + b"appended"
        await sftp.remote_copy("/tmp/a/other", "/tmp/a/copy")
        assert bridge.files.content(b"/tmp/a/copy") == CONTENT
        assert (await sftp.statvfs("/")).namemax == 255
        await sftp.posix_rename("/tmp/a/copy", "/tmp/a/other")
        with pytest.raises(asyncssh.SFTPFailure, match="file exists"):
            await sftp.rename("/tmp/a/other", "/tmp/a/file")
        with pytest.raises(asyncssh.SFTPNoSuchFile, match="no such file or directory"):
            await sftp.stat("/none")
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.chown("/tmp/a/file", 0, 0)
        await sftp.rmtree("/tmp/a")
        assert not await sftp.exists("/tmp/a")


async def test_asyncssh_reads_and_writes_at_once(bridge: Bridge) -> None:
    """Requests of several files, sent without waiting for one another, are each answered for its own."""
    for each in range(20):
        bridge.files.put(b"/tmp/%d" % each, bytes([each]) * 100_000)
    async with await bridge.connect() as connection, connection.start_sftp_client() as sftp:

        async def copy(each: int) -> None:
            async with sftp.open(f"/tmp/{each}", "rb") as source, sftp.open(f"/tmp/{each}.copy", "wb") as target:
                await target.write(await source.read())

        await asyncio.gather(*(copy(each) for each in range(20)))
    for each in range(20):
        assert bridge.files.content(b"/tmp/%d.copy" % each) == bytes([each]) * 100_000


async def test_paramiko_does_its_usual_calls(bridge: Bridge) -> None:
    """What paramiko's client has methods for, the server serves: its symbolic links are as OpenSSH's."""
    bridge.files.put(b"/tmp/a/file", b"content")

    def use() -> None:
        with _paramiko(bridge) as sftp:
            assert sftp.normalize(".") == "/home/app"
            sftp.chdir("/tmp/a")
            assert sftp.getcwd() == "/tmp/a"
            sftp.symlink("file", "link")
            assert sftp.readlink("link") == "file"
            assert stat.S_ISLNK(sftp.lstat("link").st_mode or 0)
            assert stat.S_ISREG(sftp.stat("link").st_mode or 0)
            sftp.mkdir("made", 0o700)
            assert sorted(sftp.listdir()) == ["file", "link", "made"]
            assert {entry.filename for entry in sftp.listdir_iter()} == {"file", "link", "made"}
            assert "drwx------" in [str(entry)[:10] for entry in sftp.listdir_attr()]
            sftp.chmod("file", 0o640)
            sftp.utime("file", (7, 8))
            sftp.truncate("file", 5)
            found = sftp.stat("file")
            assert (found.st_size, stat.S_IMODE(found.st_mode or 0), found.st_mtime) == (5, 0o640, 8)
            sftp.open("made/new", "x").close()
            with pytest.raises(OSError, match="file exists"):
                sftp.open("made/new", "x")
            sftp.posix_rename("made/new", "put")
            with pytest.raises(OSError, match="file exists"):
                sftp.rename("put", "file")
            with pytest.raises(FileNotFoundError):
                sftp.stat("none")
            with pytest.raises(PermissionError):
                sftp.chown("put", 0, 0)
            with pytest.raises(OSError, match="directory not empty"):
                sftp.rmdir("/tmp/a")
            for name in ("file", "link", "put"):
                sftp.remove(name)
            sftp.rmdir("made")
            assert sftp.listdir() == []

    await _in_thread(use)


async def test_paramiko_moves_files(bridge: Bridge) -> None:
    """Files come and go whole, with and without requests ahead, in parts, at their ends and pipelined."""
    bridge.files.put(b"/tmp/file", CONTENT)
    mine = bridge.folder / "mine"

    def use() -> None:
        with _paramiko(bridge) as sftp:
            for prefetch in (True, False):
                sftp.get("/tmp/file", str(mine), prefetch=prefetch)
                assert mine.read_bytes() == CONTENT
            assert sftp.put(str(mine), "/tmp/put", confirm=True).st_size == len(CONTENT)
            assert bridge.files.content(b"/tmp/put") == CONTENT
            with sftp.open("/tmp/new", "w+") as file:
                file.set_pipelined(pipelined=True)
                for _ in range(100):
                    file.write(CONTENT[:1000])
                file.seek(0)
                assert file.read(1000) == CONTENT[:1000]
                assert [len(each) for each in file.readv([(5, 10), (50_000, 20_000)])] == [10, 20_000]
            with sftp.open("/tmp/new", "a") as file:
                file.write("end")
            assert bridge.files.content(b"/tmp/new") == CONTENT[:1000] * 100 + b"end"

    await _in_thread(use)


async def _in_thread(work: Callable[[], None]) -> None:
    async with asyncio.timeout(TIMEOUT):
        await asyncio.to_thread(work)


@contextmanager
def _paramiko(bridge: Bridge) -> Iterator[paramiko.SFTPClient]:
    key = paramiko.Ed25519Key.from_private_key_file(str(bridge.folder.parent / "key"))
    with closing(paramiko.Transport(("127.0.0.1", bridge.port))) as transport:
        transport.connect(username="web@mystack", pkey=key)
        sftp = paramiko.SFTPClient.from_transport(transport)
        assert sftp is not None
        with closing(sftp):
            yield sftp
