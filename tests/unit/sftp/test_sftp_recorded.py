"""SFTP over recorded files: the record says what stock clients did, and where a transfer was cut."""

import asyncio
import hashlib
from contextlib import suppress

import pytest

from bastion.errors import ClientGone
from bastion.files.sftp_wire import Kind, string
from bastion.model import FileAccess
from bastion.sessions import LiveSession
from tests.unit.recorded_house import WHOLE, House, opened
from tests.unit.sftp.bridge import Bridge
from tests.unit.sftp.talker import talking
from tests.unit.transcripts.recorded_place import session

CREATE = 0x1A
READ = 0x01


@pytest.mark.parametrize("ending", ["closed", "end", "gone", "unread", "cancelled"])
async def test_what_a_client_did_not_close_is_cut_off(ending: str) -> None:
    """A file that the client closed is whole on record; one that it left open, however it went, is cut off."""
    async with opened(WHOLE) as (house, files):
        async with talking(files) as talker:
            handle = await talker.open(b"/app/new", CREATE)
            await talker.ok(Kind.WRITE, handle, bytes(8), string(b"half"))
            if ending == "closed":
                await talker.ok(Kind.CLOSE, handle)
            if ending in {"closed", "end"}:
                await talker.end()
            elif ending == "unread":
                talker.channel.gone = True
                talker.send(Kind.LSTAT, string(b"/app"))
                with pytest.raises(ClientGone):
                    await talker.serving
            elif ending == "gone":
                talker.channel.coming.put_nowait(None)
                await talker.serving
            else:
                talker.serving.cancel()
                with suppress(asyncio.CancelledError):
                    await talker.serving
        assert house.memory.opened == 0
        assert house.last().result == ("ok" if ending == "closed" else "cut off")
    assert [(one.operation, one.size) for one in house.operations] == [("open", None), ("write", 4)]


async def test_stock_sftp_is_on_record_with_its_hashes(bridge: Bridge) -> None:
    """What sftp gets and puts within its paths is on record with the SHA-256 of the files; outside it is denied."""
    content = bytes(range(256)) * 4000
    house = House(bridge.files, LiveSession(session()))
    bridge.files.put(b"/app/log/web.log", content)
    bridge.files.put(b"/etc/shadow", b"secret")
    (bridge.folder / "up").write_bytes(content[::-1])
    access = FileAccess(("/app/log/**",), ("/app/log/in/**",))
    async with opened(access, house) as (_, files):
        bridge.gateway.files = files
        done = await bridge.sftp(
            "pwd", "get web.log down", "mkdir in", "put up in/up", "ls -l", "rename in/up in/up2",
            "-get ../../etc/shadow shadow", "-put up up", "-rm web.log", "-ls /etc",
        )  # fmt: skip
    assert done.status == 0, done.errors
    assert "/app/log" in done.output
    assert done.errors.lower().count("permission denied") >= 4
    assert (bridge.folder / "down").read_bytes() == content
    assert not (bridge.folder / "shadow").exists()
    assert bridge.files.content(b"/app/log/in/up2") == content[::-1]
    sums = {one.path: (one.operation, one.size, one.sha256, one.note) for one in house.operations if one.sha256}
    assert sums == {
        b"/app/log/web.log": ("read", len(content), hashlib.sha256(content).hexdigest(), ""),
        b"/app/log/in/up": ("write", len(content), hashlib.sha256(content[::-1]).hexdigest(), ""),
    }
    assert house.contents(3) == content
    denied = {(one.operation, one.path) for one in house.operations if one.result == "permission denied"}
    assert {("open", b"/app/log/up"), ("remove", b"/app/log/web.log")} <= denied
    assert any(path.startswith(b"/etc") for _, path in denied)
    assert all(one.path.startswith(b"/") for one in house.operations)


async def test_stock_scp_may_be_all_that_works(bridge: Bridge) -> None:
    """Scp copies a folder out where only reading is allowed, and what it puts is denied."""
    house = House(bridge.files, LiveSession(session()))
    for name in (b"a", b"b/c"):
        bridge.files.put(b"/app/log/" + name, name)
    (bridge.folder / "up").write_bytes(b"up")
    async with opened(FileAccess(("/app/log/**",)), house) as (_, files):
        bridge.gateway.files = files
        out = await bridge.scp("-r", bridge.name("/app/log"), "down")
        assert out.status == 0, out.errors
        put = await bridge.scp("up", bridge.name("/app/log/up"))
        assert put.status != 0
        assert "permission denied" in put.errors.lower()
    assert (bridge.folder / "down" / "b" / "c").read_bytes() == b"b/c"
    assert {one.path for one in house.operations if one.operation == "read"} == {b"/app/log/a", b"/app/log/b/c"}
