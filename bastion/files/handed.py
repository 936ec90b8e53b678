"""A program that is handed on to somebody else after its first words were read."""

from collections.abc import AsyncIterator

from bastion.model import STDOUT, Data, Event, Exit
from bastion.runtimes import Exec


class Handed:
    """A program whose first words have been read already."""

    def __init__(self, program: Exec, rest: bytes, events: AsyncIterator[Event]) -> None:
        self._program = program
        self._rest = rest
        self._events = events

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give those, and what follows; see the port."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield Data(STDOUT, rest)
        async for event in self._events:
            yield event

    async def send(self, event: Event) -> None:
        """Deliver input; see the port."""
        await self._program.send(event)

    async def wait(self) -> Exit:
        """Return how the program ended; see the port."""
        return await self._program.wait()
