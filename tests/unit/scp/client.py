"""An scp client that says what a test wants it to, and takes down what it hears."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from bastion.files import Files
from bastion.files.scp import parse_scp, serve_scp
from bastion.model import STDIN, STDOUT, Data, Eof, Event

PIECE = 7  # bytes; no boundary of anything


class ScriptedChannel:
    """A channel whose client says everything at once, in pieces, and then ends its input or goes."""

    def __init__(self, said: bytes, *, piece: int = PIECE, goes: bool = False) -> None:
        self._said = said
        self._piece = piece
        self._goes = goes
        self.heard = bytearray()
        self.largest = 0
        self.told: list[str] = []

    async def __aiter__(self) -> AsyncIterator[Event]:
        for start in range(0, len(self._said), self._piece):
            await asyncio.sleep(0)
            yield Data(STDIN, self._said[start : start + self._piece])
        if not self._goes:
            yield Eof()
            await asyncio.Event().wait()

    async def send(self, event: Event) -> None:
        assert isinstance(event, Data)
        assert event.stream == STDOUT
        self.heard += event.payload
        self.largest = max(self.largest, len(event.payload))

    def say(self, line: str) -> None:
        self.told.append(line)


async def converse(files: Files, command: str, *said: bytes, **options: int) -> tuple[int, bytes]:
    """Serve a command to a client that says this; return the exit status and what it heard."""
    channel = ScriptedChannel(b"".join(said), **options)  # type: ignore[arg-type] # a bool is an int
    parsed = parse_scp(command)
    assert parsed is not None
    status = await asyncio.wait_for(serve_scp(channel, files, parsed), 30)
    return status, bytes(channel.heard)


def messages(heard: bytes) -> Sequence[bytes]:
    """Return the complaints in what was heard, where nothing else of it holds a byte 1."""
    return [piece.partition(b"\n")[0] for piece in heard.split(b"\1")[1:]]
