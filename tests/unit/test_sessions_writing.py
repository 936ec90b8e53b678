"""What becomes of sessions while their database takes nothing: kept in order, newest last, no more than there is."""

import asyncio
from collections.abc import Callable

import pytest

from bastion.config import SessionsSettings
from bastion.errors import DatabaseFailed
from bastion.model import Session
from bastion.sessions import Sessions
from bastion.sessions.limits import Bounds
from bastion.sessions.memory import MemoryStore
from bastion.sessions.store import Changes
from bastion.sessions.writing import Writer
from tests.unit.stores import TARGET, identity, live, request


class Flaky(MemoryStore):
    """A store that answers when it is told to, and remembers what it was asked to write."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = True
        self.asked: list[dict[str, dict[str, object]]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def take(self, session: Session, bounds: Bounds, *, reserve: bool = False) -> Session:
        self._answer()
        return await super().take(session, bounds, reserve=reserve)

    async def write(self, changes: Changes) -> None:
        self.asked.append({uid: dict(fields) for uid, fields in changes.items()})
        self.meanwhile()
        self._answer()
        await super().write(changes)

    def _answer(self) -> None:
        if not self.answers:
            raise DatabaseFailed("the sessions' database does not answer", "try again in a moment")


async def test_what_could_not_be_written_is_written_later_with_what_came_since() -> None:
    """A write that fails is kept; of a field that changed meanwhile the newest value counts, and order stays."""
    store = Flaky()
    writer = Writer(store)
    writer.put("a", state="provisioning", reason="first")
    writer.put("b", state="active")
    store.answers, store.meanwhile = False, lambda: writer.put("a", state="active")
    with pytest.raises(DatabaseFailed):
        await writer.flush()
    assert writer.knows("a")
    store.answers, store.meanwhile = True, lambda: None
    await writer.flush()
    assert list(store.asked[-1].items()) == [("a", {"state": "active", "reason": "first"}), ("b", {"state": "active"})]
    assert not writer.knows("a")
    await writer.flush()
    assert len(store.asked) == 2


async def test_the_background_tries_until_it_is_taken() -> None:
    """Without anybody asking again, what was put is written once the database answers."""
    store = Flaky()
    sessions = Sessions(SessionsSettings(), "node", store)
    keeping = asyncio.create_task(sessions.keep())
    async with live(sessions, "1"):
        store.answers = False
    async with asyncio.timeout(20):
        while not any("ended_at" in changes.get("1", {}) for changes in store.asked):
            await asyncio.sleep(0.01)
        store.answers = True
        while (found := await store.find("1")) is None or found.state != "terminated":
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await sessions.close()


async def test_refused_logins_leave_nothing_to_write() -> None:
    """However many are refused while the database is away, nothing is kept of them."""
    store = Flaky()
    sessions = Sessions(SessionsSettings(), "node", store)
    store.answers = False
    for number in range(100):
        with pytest.raises(DatabaseFailed):
            async with sessions.open(identity(), request(f"{number}"), TARGET):
                pytest.fail("it was opened")
    store.answers = True
    await sessions.close()
    assert store.asked == []
