"""Move events between a channel and an exec, recording each before it is delivered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from bastion.model import Event, Exit
from bastion.runtimes import Exec
from bastion.sessions import LiveSession


class Sink(Protocol):
    """Where events go: a channel or an exec."""

    async def send(self, event: Event) -> None:
        """Deliver one event, and wait while the other end takes no more."""
        ...


class Source(Protocol):
    """Where events come from: a channel or an exec."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Give events in order until there are no more."""
        ...


class Channel(Source, Sink, Protocol):
    """One SSH channel, as the relay sees it. Its iteration ends when the client has gone."""


Record = Callable[[Event | Exit], Awaitable[None]]
"""Takes one event or the exit; returns when it is on record, and raises when it cannot be."""


async def relay(channel: Channel, program: Exec, session: LiveSession, record: Record) -> Exit:
    """Carry events both ways until the program has ended and its output is delivered; return how it ended.

    The exit is on record when this returns. Input goes on for as long as output does: a program decides itself when it
    has read enough.
    """

    async def pump(source: Source, sink: Sink) -> None:
        async for event in source:
            await record(event)
            session.count(event)
            session.publish(event)
            await sink.send(event)

    async def follow() -> Exit:
        await pump(program, channel)
        status = await program.wait()
        await record(status)
        return status

    output = asyncio.create_task(follow(), name=f"output {session.session.uid}")
    input_ = asyncio.create_task(pump(channel, program), name=f"input {session.session.uid}")
    try:
        await asyncio.wait((output, input_), return_when=asyncio.FIRST_COMPLETED)
        if not output.done():
            input_.result()
        return await output
    finally:
        output.cancel()
        input_.cancel()
        await asyncio.gather(output, input_, return_exceptions=True)
