"""A client of SFTP that sends what a test tells it to, over a channel in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from bastion.errors import ClientGone
from bastion.files import Files
from bastion.files import sftp_wire as wire
from bastion.files.sftp import serve_sftp
from bastion.files.sftp_wire import Fields, Kind, PacketReader, Status
from bastion.model import STDIN, STDOUT, Data, Eof, Event

SECONDS = 20
HELLO = wire.packet(Kind.INIT, wire.number(3))
NOTHING = wire.number(0)
"""Attributes of which there are none."""


class MemoryChannel:
    """A channel whose client is a test; `taken` counts the bytes that were read from it."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Event | None] = asyncio.Queue()
        self.going: asyncio.Queue[bytes] = asyncio.Queue()
        self.said: list[str] = []
        self.taken = 0
        self.gone = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.coming.get()) is not None:
            self.taken += len(event.payload) if isinstance(event, Data) else 0
            yield event

    async def send(self, event: Event) -> None:
        await asyncio.sleep(0)
        if self.gone:
            raise ClientGone("the client went away")
        assert isinstance(event, Data)
        assert event.stream == STDOUT
        self.going.put_nowait(event.payload)

    def say(self, line: str) -> None:
        assert line.isprintable()
        self.said.append(line)


class Talker:
    """Sends requests, each with the next number, and takes the answers apart."""

    def __init__(self, channel: MemoryChannel, serving: "asyncio.Task[None]") -> None:
        self.channel = channel
        self.serving = serving
        self._packets = PacketReader()
        self._number = 0

    def send(self, kind: int, *parts: bytes) -> int:
        """Send a request and return its number."""
        self._number += 1
        self.raw(wire.packet(kind, wire.number(self._number), *parts))
        return self._number

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.channel.coming.put_nowait(Data(STDIN, data))

    async def answer(self) -> Fields:
        """Return the next answer, its number still to be taken; raise what ended the conversation before it came."""
        async with asyncio.timeout(SECONDS):
            while (packet := self._packets.take()) is None:
                if not self.channel.going.empty():
                    self._packets.feed(self.channel.going.get_nowait())
                    continue
                arriving = asyncio.ensure_future(self.channel.going.get())
                await asyncio.wait((arriving, self.serving), return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    arriving.cancel()
                    self.serving.result()
                    raise EOFError
                self._packets.feed(arriving.result())
        return packet

    async def ask(self, kind: int, *parts: bytes) -> Fields:
        """Send a request and return its answer without the number, which is the right one."""
        number = self.send(kind, *parts)
        answer = await self.answer()
        assert answer.number() == number
        return answer

    async def status(self, kind: int, *parts: bytes) -> tuple[Status, str]:
        """Send a request whose answer is a status; return it with its words."""
        return read_status(await self.ask(kind, *parts))

    async def ok(self, kind: int, *parts: bytes) -> None:
        """Send a request that has to go well."""
        assert (await self.status(kind, *parts))[0] == Status.OK

    async def open(self, path: bytes, flags: int) -> bytes:
        """Open a file, and return its handle with its length before it."""
        answer = await self.ask(Kind.OPEN, wire.string(path), wire.number(flags), NOTHING)
        assert answer.kind == Kind.HANDLE, read_status(answer)
        return wire.string(answer.string())

    async def extended(self, name: bytes, *parts: bytes) -> Fields:
        """Send a request of an extension."""
        return await self.ask(Kind.EXTENDED, wire.string(name), *parts)

    async def end(self) -> None:
        """Send the end, and raise what the conversation ended with."""
        self.channel.coming.put_nowait(Eof())
        async with asyncio.timeout(SECONDS):
            await self.serving


def read_status(answer: Fields) -> tuple[Status, str]:
    """Return what a STATUS says."""
    assert answer.kind == Kind.STATUS
    code, words = Status(answer.number()), answer.string().decode()
    assert answer.string() == b"en"
    assert not answer.left
    return code, words


@asynccontextmanager
async def talking(files: Files, *, hello: bytes = HELLO, links_as_drafted: bool = False) -> AsyncIterator[Talker]:
    """Serve one client; after it no task of the conversation is left."""
    before = asyncio.all_tasks()
    channel = MemoryChannel()
    talker = Talker(channel, asyncio.create_task(serve_sftp(channel, files, links_as_drafted=links_as_drafted)))
    try:
        talker.raw(hello)
        answer = await talker.answer()
        assert (answer.kind, answer.number()) == (Kind.VERSION, 3)
        yield talker
    finally:
        talker.serving.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await talker.serving
    assert asyncio.all_tasks() - before == set()
