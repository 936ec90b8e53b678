"""Connections opened from inside a container's network, proved for every runtime."""

import asyncio
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bastion.errors import RuntimeFailed
from bastion.model import STDIN, STDOUT, Data, Eof, Request, Resize, Target
from bastion.runtimes import Connection, Exec, Runtime
from bastion.runtimes.dialling import by_exec
from bastion.runtimes.process import ProcessRuntime
from tests.runtimes.world import World, look_here, pieces, request

MEBIBYTE = 2**20

# Both take one connection and become a shell whose standard streams it is.
_SERVER = """
if command -v python3 >/dev/null; then exec python3 -IS -c '
import os, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[3], int(sys.argv[1])))
server.listen()
link = server.accept()[0]
server.close()
os.dup2(link.fileno(), 0)
os.dup2(link.fileno(), 1)
link.close()
os.execvp("sh", ["sh", "-c", sys.argv[2]])
' "$DIALLED_PORT" "$DIALLED_SCRIPT" "$DIALLED_HOST"; fi
exec nc -l -p "$DIALLED_PORT" -e sh -c "$DIALLED_SCRIPT"
"""


@asynccontextmanager
async def listening(world: World, script: str, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Run a server in the container that talks by the script to whoever connects; give its port."""
    port = random.randrange(20000, 32000)  # noqa: S311 - only to be another than the last one
    asked = request(_SERVER, environment={"DIALLED_PORT": str(port), "DIALLED_SCRIPT": script, "DIALLED_HOST": host})
    async with world.runtime.exec(world.target, asked):
        for _ in range(200):
            table = await asyncio.to_thread(world.look, "cat /proc/net/tcp /proc/net/tcp6")
            if f":{port:04X} 00000000:0000 0A" in table or f":{port:04X} {'0' * 32}:0000 0A" in table:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail(f"nothing came to listen on {port}")
        yield port


class OneHelper:
    """Local processes that find one helper only, beside a shell and what it needs."""

    def __init__(self, runtime: Runtime, folder: Path, helper: str | None) -> None:
        self._runtime = runtime
        self._folder = folder
        for name in ("sh", "cat", *([helper] if helper else [])):
            found = shutil.which(name, path="/usr/bin:/bin") or (name == "nc" and shutil.which("busybox")) or None
            if found is None:
                pytest.skip(f"{name} is not installed")
            (folder / name).symlink_to(found)
        folder.chmod(0o755)

    def exec(self, target: Target, asked: Request) -> AbstractAsyncContextManager[Exec]:
        asked = replace(asked, environment={**asked.environment, "PATH": str(self._folder)})
        return self._runtime.exec(replace(target, shell="/bin/sh"), asked)  # noqa: S604 - a field's name


async def everything(connection: Connection) -> bytes:
    """Read to the end."""
    return b"".join([event.payload async for event in connection if isinstance(event, Data)])


async def test_end_is_given_once_all_was_read(world: World) -> None:
    """What the server said before it closed arrives whole, as stream 1, and then the end."""
    async with (
        listening(world, "head -c 300000 /dev/zero; echo bye") as port,
        world.runtime.dial(world.target, "localhost", port) as link,
    ):
        events = [event async for event in link]
    assert all(isinstance(event, Data) and event.stream == STDOUT for event in events)
    payload = b"".join(event.payload for event in events if isinstance(event, Data))
    assert payload == bytes(300000) + b"bye\n"


async def test_big_both_ways(world: World) -> None:
    """8 MiB of random bytes come back whole while they are being sent."""
    payload = os.urandom(8 * MEBIBYTE)
    async with listening(world, "cat") as port, world.runtime.dial(world.target, "127.0.0.1", port) as link:

        async def feed() -> None:
            for piece in pieces(payload):
                await link.send(piece)

        sending = asyncio.create_task(feed())
        came = bytearray()
        async for event in link:
            assert isinstance(event, Data)
            came += event.payload
            if len(came) >= len(payload):
                break
        await sending
    assert hashlib.sha256(came).digest() == hashlib.sha256(payload).digest()


async def test_half_close(world: World) -> None:
    """The end of what is sent reaches the server, whose answer still arrives."""
    if world.target.pod_name is not None:
        pytest.skip("a port-forward of Kubernetes has no half-close")
    async with listening(world, "sort") as port, world.runtime.dial(world.target, "localhost", port) as link:
        await link.send(Data(STDIN, b"b\na\n"))
        await link.send(Eof())
        assert await everything(link) == b"a\nb\n"


async def test_what_is_no_data_is_left_out(world: World) -> None:
    """A terminal's size means nothing to a connection."""
    async with (
        listening(world, "read line; echo $line") as port,
        world.runtime.dial(world.target, "localhost", port) as link,
    ):
        await link.send(Resize(80, 24))
        await link.send(Data(STDIN, b"word\n"))
        assert await everything(link) == b"word\n"


async def test_another_host(world: World) -> None:
    """A host that is not the container itself is reached from inside of it, in a pod too."""
    script = "read line; echo $line; head -c 1048576 /dev/zero"
    async with (
        listening(world, script, "127.0.0.2") as port,
        world.runtime.dial(world.target, "127.0.0.2", port) as link,
    ):
        await link.send(Data(STDIN, b"word\n"))
        assert await everything(link) == b"word\n" + bytes(MEBIBYTE)
    with pytest.raises(RuntimeFailed, match=r"nothing listens on 127\.0\.0\.2:19999"):
        async with world.runtime.dial(world.target, "127.0.0.2", 19999) as link:
            await everything(link)


async def test_sending_after_the_end_is_no_error(world: World) -> None:
    """A server that closed takes nothing more, and that is no error."""
    async with listening(world, "echo bye") as port, world.runtime.dial(world.target, "localhost", port) as link:
        assert await everything(link) == b"bye\n"
        for _ in range(20):
            await link.send(Data(STDIN, b"x" * 1000))
        await link.send(Eof())


async def test_port_where_nothing_listens(world: World) -> None:
    """A refused connection is an error in words, here or by the connection's first event."""
    with pytest.raises(RuntimeFailed, match=r"nothing listens on .*19999") as caught:
        async with world.runtime.dial(world.target, "localhost", 19999) as link:
            await everything(link)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 80), ("-e", 80), ("-lp", 80), ("a b", 80), ("a;b", 80), ("$(id)", 80), ("a,fork", 80), ("a!!b", 80),
        ("../x", 80), ("a\n", 80), ("\0", 80), ("é", 80), ("fe80::1%lo", 80), ("[::1]", 80), ("a..b", 80),
        ("x" * 64, 80), ("x." * 127, 80), ("localhost", 0), ("localhost", -1), ("localhost", 65536),
    ],
)  # fmt: skip
async def test_host_that_is_none_is_refused(world: World, host: str, port: int) -> None:
    """Only hostnames, IP literals and ports go any further."""
    with pytest.raises(RuntimeFailed, match=r"no host|no port"):
        async with world.runtime.dial(world.target, host, port):
            pytest.fail("it was dialled")


async def test_slow_reader_holds_the_server_back(world: World) -> None:
    """While nobody reads, the server can write what the buffers on the way hold and no more; nothing is lost."""
    note = f"/tmp/dial-{random.randrange(10**9)}"  # noqa: S311 - only to be another than the last one
    script = f"i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero; i=$((i+1)); echo $i >{note}; done; rm {note}"
    async with listening(world, script) as port, world.runtime.dial(world.target, "localhost", port) as link:
        before, now = "", "0"
        for _ in range(30):
            await asyncio.sleep(1)
            before, now = now, (await asyncio.to_thread(world.look, f"cat {note}")).strip()
            if now and now == before:
                break
        assert 0 < int(now) < 64
        assert len(await everything(link)) == 64 * MEBIBYTE


async def test_nothing_is_left(world: World) -> None:
    """Leaving the context ends the helper and closes the connection, so that the server sees its end."""
    async with listening(world, "cat") as port:
        async with world.runtime.dial(world.target, "localhost", port) as link:
            await link.send(Data(STDIN, b"x"))
            async for _ in link:
                break
        for _ in range(100):
            if not (left := await world.left(str(port))):
                break
            await asyncio.sleep(0.1)
        assert left == []


@pytest.mark.parametrize("helper", ["python3", "perl", "nc", "socat", "bash"])
async def test_each_helper(helper: str) -> None:
    """Every helper carries 1 MiB both ways, passes the half-close on if it can, and says when nothing listens."""
    local = ProcessRuntime("mystack", "web", user=None)
    world = World(local, (await local.find("mystack", "web"))[0], look_here)
    with tempfile.TemporaryDirectory() as folder:
        run = OneHelper(local, Path(folder), helper).exec
        payload = os.urandom(MEBIBYTE)
        ends = helper != "bash"
        async with (
            listening(world, "cat" if ends else f"head -c {MEBIBYTE}") as port,
            by_exec(run, world.target, "localhost", port) as link,
        ):
            reading = asyncio.create_task(everything(link))
            for piece in pieces(payload):
                await link.send(piece)
            await link.send(Eof())
            assert await reading == payload
        with pytest.raises(RuntimeFailed, match=r"nothing listens on localhost:19999"):
            async with by_exec(run, world.target, "localhost", 19999) as link:
                await everything(link)
        with pytest.raises(RuntimeFailed, match=r"knows no host of the name in no-such-host\.invalid:80"):
            async with by_exec(run, world.target, "no-such-host.invalid", 80) as link:
                await everything(link)


async def test_no_helper() -> None:
    """An image with a shell and nothing else gives no way to dial, and the hint says what it lacks."""
    local = ProcessRuntime("mystack", "web", user=None)
    (target,) = await local.find("mystack", "web")
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(RuntimeFailed, match="gives no way to open a connection") as caught,
    ):
        async with by_exec(OneHelper(local, Path(folder), None).exec, target, "localhost", 80):
            pytest.fail("it was dialled")
    assert "python3, perl, nc, socat and bash" in caught.value.hint
