"""The relay: recorded before delivered, drained before believed, and over when the program is."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from bastion.config import SessionsSettings
from bastion.errors import RecordingFailed, RuntimeFailed
from bastion.model import STDIN, STDOUT, Data, Eof, Event, Exit, Identity, Name, Recorded, Request, Target
from bastion.relay import relay
from bastion.sessions import Sessions

IDENTITY = Identity(user="alice", key_fingerprint="SHA256:x", client_address="192.0.2.1")
REQUEST = Request(uid="1", name=Name("web", stack="mystack"), kind="shell")
TARGET = Target(runtime="here", stack="mystack", service="web", container_id="0", container_name="web-1")


class End:
    """One end of the relay, in memory: gives its events, then stays silent or ends, and keeps what it is sent."""

    def __init__(self, name: str, happened: list[str], events: Sequence[Event], *, silent: bool) -> None:
        self._name = name
        self._happened = happened
        self._events = events
        self._silent = silent

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
        if self._silent:
            await asyncio.Event().wait()

    async def send(self, event: Event) -> None:
        self._happened.append(f"{self._name} got {event}")

    def say(self, line: str) -> None:
        self._happened.append(f"{self._name} was told {line}")

    async def wait(self) -> Exit:
        self._happened.append("waited")
        return Exit(3)


async def _relay(happened: list[str], channel: End, program: End, *, fails_on: str = "nothing") -> Exit:
    async def record(event: Recorded) -> None:
        if fails_on in str(event):
            raise RecordingFailed("the volume is full")
        happened.append(f"recorded {event}")

    sessions = Sessions(SessionsSettings(), "node")
    async with sessions.open(IDENTITY, REQUEST, TARGET) as session:
        return await asyncio.wait_for(relay(channel, program, session, record), 5)


async def test_each_event_is_recorded_before_it_is_delivered() -> None:
    """Output is recorded, delivered, and only then is the program's status asked for and recorded."""
    happened: list[str] = []
    output = [Data(STDOUT, b"one"), Data(STDOUT, b"two")]
    status = await _relay(
        happened, End("channel", happened, [], silent=True), End("program", happened, output, silent=False)
    )
    assert status == Exit(3)
    assert happened == [
        f"recorded {output[0]}",
        f"channel got {output[0]}",
        f"recorded {output[1]}",
        f"channel got {output[1]}",
        "waited",
        f"recorded {Exit(3)}",
    ]


async def test_what_cannot_be_recorded_is_not_delivered() -> None:
    """A failing record ends the relay at once, in either direction, and the event reaches nobody."""
    for channel_says, program_says in (([Data(STDIN, b"secret")], []), ([], [Data(STDOUT, b"secret")])):
        happened: list[str] = []
        with pytest.raises(RecordingFailed):
            await _relay(
                happened,
                End("channel", happened, channel_says, silent=True),
                End("program", happened, program_says, silent=True),
                fails_on="secret",
            )
        assert happened == []


async def test_output_goes_on_after_the_end_of_input() -> None:
    """A client that has said all is still given the output that follows."""
    happened: list[str] = []
    status = await _relay(
        happened,
        End("channel", happened, [Eof()], silent=False),
        End("program", happened, [Data(STDOUT, b"later")] * 50, silent=False),
    )
    assert status == Exit(3)
    assert f"program got {Eof()}" in happened
    assert happened.count(f"channel got {Data(STDOUT, b'later')}") == 50


async def test_a_runtime_that_fails_ends_the_relay() -> None:
    """What the exec raises comes out of the relay as it is, and no task is left behind."""

    class Broken(End):
        async def send(self, event: Event) -> None:
            raise RuntimeFailed("the engine went away")

    happened: list[str] = []
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeFailed):
        await _relay(
            happened,
            End("channel", happened, [Data(STDIN, b"x")], silent=True),
            Broken("program", happened, [], silent=True),
        )
    assert asyncio.all_tasks() == before
