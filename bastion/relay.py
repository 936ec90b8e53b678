"""Move events between a channel and an exec, recording each before it is delivered."""

from collections.abc import Callable

from bastion.model import Channel, Event, Exit, Record, Sink, Source
from bastion.runtimes import Exec
from bastion.sessions import LiveSession
from bastion.tasks import race


async def relay(
    channel: Channel,
    program: Exec,
    session: LiveSession,
    record: Record,
    publish: Callable[[Event], None] | None = None,
) -> Exit:
    """Carry events both ways until the program has ended and its output is delivered; return how it ended.

    The exit is on record when this returns. Input goes on for as long as output does: a program decides itself when it
    has read enough. `publish` shows events to those who watch, in place of the session's own way.
    """
    show = publish or session.publish

    async def pump(source: Source, sink: Sink) -> None:
        async for event in source:
            await record(event)
            session.count(event)
            show(event)
            await sink.send(event)

    async def follow() -> Exit:
        await pump(program, channel)
        status = await program.wait()
        await record(status)
        return status

    return await race(follow(), pump(channel, program), name=f"output {session.session.uid}")
