"""A TCP address in front of the engine's socket, where the stream of an exec can be held back, watched and cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Self

_PIECE = 64 * 1024


class Forward:
    """Passes every connection on to the engine, both directions apart.

    `hold` is how many seconds the engine's answer to the start of an exec is held back; `early` is what came from the
    client behind such a request before its answer.
    """

    def __init__(self, path: str) -> None:
        self.hold = 0.0
        self.early = b""
        self._path = path
        self._tasks: set[asyncio.Task[None] | None] = set()
        self._streams: list[asyncio.StreamWriter] = []
        self._port = 0

    @property
    def host(self) -> str:
        """The address, as in $DOCKER_HOST."""
        return f"tcp://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Listen until left; every connection must be over by then."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*(task for task in self._tasks if task))

    def cut(self) -> None:
        """End the output of every exec, as an engine does when all of it was sent."""
        for writer in self._streams:
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._path)
        request = await reader.read(_PIECE)
        engine_writer.write(request)
        answered = asyncio.Event()
        is_stream = b"\r\nUpgrade: tcp\r\n" in request
        if is_stream:
            self._streams.append(writer)

        async def to_engine() -> None:
            while piece := await reader.read(_PIECE):
                if is_stream and not answered.is_set():
                    self.early += piece
                engine_writer.write(piece)
                await engine_writer.drain()
            engine_writer.write_eof()

        async def to_client() -> None:
            while piece := await engine_reader.read(_PIECE):
                if is_stream and not answered.is_set():
                    await asyncio.sleep(self.hold)
                    answered.set()
                writer.write(piece)
                await writer.drain()
            writer.write_eof()

        await asyncio.gather(_until_broken(to_engine()), _until_broken(to_client()))
        for end in (writer, engine_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def _until_broken(pump: Coroutine[None, None, None]) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the other direction has closed the transport
        await pump
