"""Duties: tried until they are done, taken from nodes that have stopped by one of those that live, and then told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bastion.errors import ContainerPaused, DatabaseFailed, OtherEngine
from bastion.model import now
from bastion.runtimes.duties import Duty
from bastion.sessions import Sessions
from bastion.sessions.duty_table import open_duties
from bastion.sessions.sql import SqlStore
from tests.postgresql import Postgresql, postgresql
from tests.unit.memory_runtime import MemoryRuntime
from tests.unit.stores import TARGET, node

DEAD = "another-machine pid:[1] 1 1"
DUTY = Duty("0123456789abcdef", "here", "engine-1", TARGET.container_id, TARGET.container_name, "sh", user="app")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bastion.db"
    return str(request.getfixturevalue("server").url())


class Work:
    """A registry whose duties are carried out on one runtime, and the ledger's lines about them."""

    def __init__(self, sessions: Sessions, runtime: MemoryRuntime) -> None:
        self.duties = sessions.duties
        self.runtime = runtime
        self.notes: list[dict[str, object]] = []

    async def note(self, event: str, **facts: object) -> None:
        self.notes.append({"event": event, **facts})

    def reasons(self) -> list[object]:
        return [note["reason"] for note in self.notes]


@asynccontextmanager
async def work(url: str | None, runtime: MemoryRuntime, name: str = "node") -> AsyncIterator[Work]:
    async with node(url, name) as sessions:
        made = Work(sessions, runtime)
        running = asyncio.create_task(made.duties.run({"here": runtime}, made.note))
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(done: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


async def left_by_a_dead_node(url: str, *duties: Duty) -> None:
    """Have duties of a node that has stopped without a word."""
    store = SqlStore(url, "dead", process=DEAD)
    await store.open()
    for duty in duties:
        await store.duties.add(duty)
    async with store._database.writing() as connection:  # noqa: SLF001 - what another node does 25 s later
        await connection.exec_driver_sql("DELETE FROM nodes WHERE name = 'dead'")
    await store._database.close()  # noqa: SLF001 - as kill -9 does


async def rows(url: str) -> int:
    store = SqlStore(url, "looking")
    try:
        return len(await store.duties.claim(["here"], []))
    finally:
        await store._database.close()  # noqa: SLF001


def test_a_duty_knows_its_session() -> None:
    """A further program of a session has a marker of its own, with the session's uid behind a number."""
    assert replace(DUTY, uid="3-0123456789abcdef").session == DUTY.session == "0123456789abcdef"


@pytest.mark.parametrize("is_kept", [True, False], ids=["database", "memory"])
async def test_a_duty_is_tried_until_it_is_done(url: str, *, is_kept: bool) -> None:
    """One that fails, since its container is paused, is tried again, and at once when something has changed."""
    runtime = MemoryRuntime([TARGET], name="here")
    runtime.paused = True
    async with work(url if is_kept else None, runtime) as made:
        await made.duties.add(DUTY)
        made.duties.failed(DUTY, ContainerPaused("the container is paused"))
        await until(lambda: len(runtime.reaped) >= 2)
        assert made.duties.open == 1
        assert made.notes == []
        runtime.paused = False
        made.duties.retry_now()
        await until(lambda: made.notes)
        assert made.duties.open == 0
        assert made.reasons() == ["ended after its session"]
        assert made.notes[0]["uid"] == DUTY.session


async def test_what_is_done_at_its_sessions_end_is_no_news(url: str) -> None:
    """It leaves no row and no line in the ledger, and nothing is asked of the engine."""
    runtime = MemoryRuntime([TARGET], name="here")
    async with work(url, runtime) as made:
        await made.duties.add(DUTY)
        made.duties.done(DUTY)
        await made.duties.flush()
        assert made.notes == []
    assert runtime.reaped == []
    assert await rows(url) == 0


async def test_duties_of_a_stopped_node_are_done_once(url: str) -> None:
    """Of two nodes that both see a hundred of them each is done and told once; one whose container is gone as such."""
    left = [replace(DUTY, uid=f"0123456789abc{number:03}") for number in range(100)]
    left[0] = replace(left[0], container_id="removed")
    await left_by_a_dead_node(url, *left)
    runtime = MemoryRuntime([TARGET], name="here")
    async with work(url, runtime, "one") as one, work(url, runtime, "two") as two:
        await until(lambda: len(one.notes) + len(two.notes) == 100)
    assert sorted(str(note["uid"]) for note in one.notes + two.notes) == [duty.uid for duty in left]
    assert (one.reasons() + two.reasons()).count("container gone") == 1
    assert await rows(url) == 0


async def test_what_is_open_is_counted(url: str) -> None:
    """`bastion check` counts what was tried in vain or is of a stopped node, and no duty of a session that runs."""
    assert await open_duties(url) == (0, None)
    async with node(url) as sessions:
        await sessions.duties.add(DUTY)
        assert (await open_duties(url))[0] == 0
        await left_by_a_dead_node(url, replace(DUTY, uid="fedcba9876543210", created_at=now()))
        count, oldest = await open_duties(url)
        assert count == 1
        assert oldest is not None
        assert abs((now() - oldest).total_seconds()) < 60


async def test_a_node_that_cannot_do_it_leaves_it_to_others(url: str) -> None:
    """What one node's engine does not know is given back, and done by a node whose engine does."""

    class Elsewhere(MemoryRuntime):
        async def reap(self, duty: Duty) -> Any:
            self.reaped.append(duty)
            raise OtherEngine("no such container here")

    await left_by_a_dead_node(url, DUTY)
    elsewhere, here = Elsewhere([], name="here"), MemoryRuntime([TARGET], name="here")
    async with work(url, elsewhere, "one") as one:
        await until(lambda: elsewhere.reaped)
        await until(lambda: one.duties.open == 0)
        async with work(url, here, "two") as two:
            await until(lambda: two.notes)
        assert one.notes == []


async def test_an_engine_that_does_not_answer_is_none_that_is_gone(url: str) -> None:
    """Its duties stay on record over a stop of the bastion, and are done when it answers."""
    runtime = MemoryRuntime([TARGET], name="here")
    runtime.answers = False
    async with work(url, runtime) as made:
        await made.duties.add(DUTY)
        made.duties.failed(DUTY, ContainerPaused("the container is paused"))
        await until(lambda: len(runtime.reaped) >= 2)
        assert (made.duties.open, made.notes) == (1, [])
    runtime.answers = True
    async with work(url, runtime) as made:
        await until(lambda: made.notes)


async def test_without_the_database_nothing_is_added_and_nothing_is_lost(server: Postgresql) -> None:
    """A duty that cannot be written down is an error; one that is done meanwhile leaves its row when it is back."""
    url = server.url()
    runtime = MemoryRuntime([TARGET], name="here")
    async with work(url, runtime) as made:
        await made.duties.add(DUTY)
        server.stop()
        with pytest.raises(DatabaseFailed):
            await made.duties.add(replace(DUTY, uid="another-0123456789"))
        made.duties.done(DUTY)
        await asyncio.to_thread(server.start)
        await until(lambda: not made.duties._done)  # noqa: SLF001 - what is still to be removed
    assert await rows(url) == 0
