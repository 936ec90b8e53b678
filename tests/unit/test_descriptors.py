"""The last descriptors are kept back, and their end is met without spinning."""

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys

import pytest

from bastion import descriptors
from bastion.descriptors import Descriptors, Listener
from bastion.errors import LimitReached
from tests.unit.no_descriptors import none_left


@pytest.mark.parametrize("limit", [64, 256, 1024, 65536, 2**20])
def test_some_are_left_for_everybody(limit: int) -> None:
    """Connections leave room for sessions, and both leave a reserve."""
    division = Descriptors(limit)
    assert 0 < division.connection_ceiling < division.session_ceiling < limit
    assert 16 <= division.reserve == limit - division.session_ceiling <= 256


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """A server that is started with few descriptors takes all that it may have."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300));"
        "from bastion import descriptors; print(descriptors.raise_limit().limit)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "300"


def test_a_session_is_refused_while_only_the_reserve_is_left() -> None:
    """Who asks is told in words; nothing is left open."""
    descriptors.check_room()
    with none_left(), pytest.raises(LimitReached, match="too many open connections"):
        descriptors.check_room()
    descriptors.check_room()


async def test_E1_accept_pauses_without_descriptors() -> None:
    """A backlog that is full of connections costs one report and one pause, and is served when descriptors are back."""
    loop = asyncio.get_running_loop()
    reports: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    served: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            served.put_nowait(transport)
            transport.close()

    listener = descriptors.bind(Listener(socket.AF_INET), ("127.0.0.1", 0), backlog=100)
    with contextlib.ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(socket.socket())
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
        server = await loop.create_server(Client, sock=listener, backlog=100)
        with none_left():
            async with asyncio.timeout(10):
                while not reports:
                    await asyncio.sleep(0.01)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(reports) == 1
        async with asyncio.timeout(10):
            for _ in range(20):
                await served.get()
        server.close()


async def test_E1_a_connection_above_the_ceiling_is_told() -> None:
    """A connection whose descriptor is of the others is closed with a line, and counted."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    turned_away: list[bool] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, before[1]))
    try:
        listener = Listener(socket.AF_INET, farewell=b"Too many\r\n", turned_away=lambda: turned_away.append(True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    descriptors.bind(listener, ("127.0.0.1", 0), backlog=10)
    with contextlib.ExitStack() as files:
        for _ in range(Descriptors(40).connection_ceiling):
            files.enter_context(socket.socket())
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listener, backlog=10)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(reader.read(), 10) == b"Too many\r\n"
        assert turned_away == [True]
        writer.close()
        server.close()
