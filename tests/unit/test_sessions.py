"""The registry: places, limits, and how a session is ended without cutting its clean-up short."""

import asyncio

import pytest

from bastion.config import GrantSettings, SessionsSettings
from bastion.errors import ClientGone, LimitReached, SessionEnded
from bastion.model import STDERR, STDIN, STDOUT, Data, Identity, Name, Request, Target
from bastion.sessions import Sessions

TARGET = Target(runtime="here", stack="mystack", service="web", container_id="0", container_name="web-1")


def _request(uid: str) -> Request:
    return Request(uid=uid, name=Name("web", stack="mystack"), kind="shell")


def _identity(user: str = "alice") -> Identity:
    return Identity(user=user, key_fingerprint="SHA256:x", client_address="192.0.2.1")


async def test_the_limit_of_a_grant_counts_its_own_sessions() -> None:
    """`max_sessions` bounds the sessions by one grant, whoever has them; by another grant there is room."""
    sessions = Sessions(SessionsSettings(), "node")
    narrow = GrantSettings(users=("*",), stacks=("mystack",), max_sessions=1)
    wide = GrantSettings(users=("*",), stacks=("mystack",))
    async with sessions.open(_identity(), _request("1"), TARGET, narrow):
        with pytest.raises(LimitReached, match="1 sessions at a time"):
            async with sessions.open(_identity("bob"), _request("2"), TARGET, narrow):
                pytest.fail("a second session was opened")
        async with sessions.open(_identity("bob"), _request("3"), TARGET, wide):
            assert len(sessions.list()) == 2


async def test_the_limit_of_a_service_names_its_holders() -> None:
    """One session more than `per_service` is refused with who holds the places; another service has its own."""
    sessions = Sessions(SessionsSettings(per_service=2), "node")
    async with (
        sessions.open(_identity(), _request("1"), TARGET),
        sessions.open(_identity("bob"), _request("2"), TARGET),
    ):
        with pytest.raises(LimitReached) as refusal:
            async with sessions.open(_identity(), _request("3"), TARGET):
                pytest.fail("a third session was opened")
        assert "2" in refusal.value.public
        assert "alice (1)" in refusal.value.hint
        assert "bob (1)" in refusal.value.hint
        assert refusal.value.exit_status == 253
    async with sessions.open(_identity(), _request("4"), TARGET):
        assert [session.uid for session in sessions.list()] == ["4"]
    assert sessions.list() == []


async def test_the_limit_of_a_user_is_over_all_services() -> None:
    """`per_user` counts a user's sessions wherever they are."""
    sessions = Sessions(SessionsSettings(per_user=1), "node")
    other = Target(runtime="here", stack="mystack", service="db", container_id="1", container_name="db-1")
    async with sessions.open(_identity(), _request("1"), TARGET):
        with pytest.raises(LimitReached):
            async with sessions.open(_identity(), _request("2"), other):
                pytest.fail("a second session was opened")
        async with sessions.open(_identity("bob"), _request("3"), other):
            pass


async def test_a_session_that_hangs_is_ended_with_its_reason() -> None:
    """`end` stops what runs inside `interruptible` and becomes the reason it was given."""
    sessions = Sessions(SessionsSettings(), "node")
    async with sessions.open(_identity(), _request("1"), TARGET) as session:
        asyncio.get_running_loop().call_soon(sessions.end, "1", "maintenance")
        with pytest.raises(SessionEnded, match="maintenance"), session.interruptible():
            await asyncio.Event().wait()
    assert not sessions.end("1", "again")


async def test_what_is_ended_before_it_begins_does_not_begin() -> None:
    """A reason given before `interruptible` is raised on its entry."""
    sessions = Sessions(SessionsSettings(), "node")
    async with sessions.open(_identity(), _request("1"), TARGET) as session:
        session.end(ClientGone("the client went away"))
        with pytest.raises(ClientGone), session.interruptible():
            pytest.fail("it began")


async def test_clean_up_is_never_cut_short() -> None:
    """Outside of `interruptible`, `end` stops nothing, and the first reason is the one that counts."""
    sessions = Sessions(SessionsSettings(), "node")
    async with sessions.open(_identity(), _request("1"), TARGET) as session:
        with session.interruptible():
            await asyncio.sleep(0)
        session.end(SessionEnded("first"))
        session.end(SessionEnded("second"))
        await asyncio.sleep(0.01)
        with pytest.raises(SessionEnded, match="first"), session.interruptible():
            pytest.fail("it began")


async def test_a_cancelled_task_is_not_mistaken_for_an_ended_session() -> None:
    """Cancelling the task from outside cancels it, whatever the session says."""
    sessions = Sessions(SessionsSettings(), "node")

    async def run() -> None:
        async with sessions.open(_identity(), _request("1"), TARGET) as session:
            with session.interruptible():
                await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sessions.list() == []


async def test_end_all_waits_for_clean_up() -> None:
    """`end_all` returns when every session has cleaned up."""
    sessions = Sessions(SessionsSettings(), "node")
    cleaned = []

    async def run(uid: str) -> None:
        async with sessions.open(_identity(), _request(uid), TARGET) as session:
            try:
                with session.interruptible():
                    await asyncio.Event().wait()
            except SessionEnded:
                await asyncio.sleep(0.02)
                cleaned.append(uid)

    tasks = [asyncio.create_task(run(uid)) for uid in "abc"]
    await asyncio.sleep(0)
    await sessions.end_all(SessionEnded("the end"), grace=5)
    assert sorted(cleaned) == ["a", "b", "c"]
    await asyncio.gather(*tasks)


async def test_traffic_is_counted_by_direction() -> None:
    """Input counts as in, output and errors as out."""
    sessions = Sessions(SessionsSettings(), "node")
    async with sessions.open(_identity(), _request("1"), TARGET) as session:
        for stream in (STDIN, STDOUT, STDERR):
            session.count(Data(stream, b"abc"))
        assert (session.bytes_in, session.bytes_out) == (3, 6)


def test_a_share_of_a_service_follows_its_limit() -> None:
    """Two thirds, rounded up, where nothing is configured."""
    shares = {places: SessionsSettings(per_service=places).share_of_service for places in (1, 2, 3, 15, 100)}
    assert shares == {1: 1, 2: 2, 3: 2, 15: 10, 100: 67}
    assert SessionsSettings(per_service=15, per_user_per_service=4).share_of_service == 4
