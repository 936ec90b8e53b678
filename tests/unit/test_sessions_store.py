"""Every store keeps the same promises: places under limits, histories, reservations; two of its nodes are as one."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.config import GrantSettings, SessionsSettings
from bastion.errors import LimitReached, SessionEnded
from bastion.model import now
from bastion.sessions import Sessions, Wanted
from tests.postgresql import Postgresql, postgresql
from tests.unit.stores import OTHER, TARGET, identity, live, node, request

SHARED = ("sqlite", "postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with postgresql() as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "memory":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/bastion.db"
    return str(request.getfixturevalue("server").url())


@pytest.fixture
async def sessions(url: str | None) -> AsyncIterator[Sessions]:
    async with node(url) as kept:
        yield kept


async def _until(done: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.02)


everywhere = pytest.mark.parametrize("url", ["memory", *SHARED], indirect=True)
shared = pytest.mark.parametrize("url", SHARED, indirect=True)


@everywhere
async def test_a_session_is_kept_from_its_beginning_to_its_end(sessions: Sessions) -> None:
    """Each state has its time, in order; what ended is found by its uid, with its exit status and reason."""
    async with live(sessions, "1") as session:
        session.update(started_at=now())
        assert sessions.get("1") == session.session
        session.update(exit_status=7, reason="the program ended")
    assert sessions.list() == []
    ((ended,), total) = await sessions.history(Wanted())
    assert (ended.uid, ended.state, ended.exit_status, ended.reason, total) == (
        "1",
        "terminated",
        7,
        "the program ended",
        1,
    )
    assert ended.provisioning_at is not None
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.created_at <= ended.provisioning_at <= ended.started_at <= ended.ended_at
    assert await sessions.find("1") == ended == session.session
    assert await sessions.find("2") is None


@everywhere
async def test_history_is_filtered_and_paged(sessions: Sessions) -> None:
    """Every filter narrows it; pages come newest first, and each says how many there are in all."""
    for number in range(5):
        async with live(sessions, f"a{number}", "alice"):
            pass
    async with live(sessions, "b0", "bob", OTHER), live(sessions, "b1", "bob"):

        async def uids(**wanted: object) -> tuple[list[str], int]:
            found, total = await sessions.history(Wanted(**wanted))  # type: ignore[arg-type]
            return [session.uid for session in found], total

        assert (await uids(per_page=3))[0] == ["b1", "b0", "a4"]
        assert await uids(per_page=3, page=3) == (["a0"], 7)
        assert await uids(per_page=3, page=4) == ([], 7)
        assert await uids(user="alice", per_page=2) == (["a4", "a3"], 5)
        assert await uids(state="active") == (["b1", "b0"], 2)
        assert await uids(service="db", stack="mystack") == (["b0"], 1)
        assert await uids(stack="other") == ([], 0)
        assert (await uids(since=now() - timedelta(hours=1)))[1] == 7
        assert await uids(since=now() + timedelta(hours=1)) == ([], 0)
    for wrong in ({"page": 0}, {"per_page": 0}, {"per_page": 1001}):
        with pytest.raises(ValueError, match="page"):
            Wanted(**wrong)  # type: ignore[arg-type]


@everywhere
async def test_limits_hold_for_service_user_and_grant(url: str | None) -> None:
    """One more than each is refused in words; one that ends makes room at once."""
    grant = GrantSettings(users=("*",), stacks=("mystack",), max_sessions=1)
    async with node(url, limits=SessionsSettings(per_service=2, per_user=2)) as sessions:
        async with live(sessions, "1"), live(sessions, "2", "bob", grant=grant):
            with pytest.raises(LimitReached, match="2 is its limit") as refusal:
                await sessions.reserve(identity(), TARGET)
            assert "alice (1), bob (1)" in refusal.value.hint
            with pytest.raises(LimitReached, match="1 sessions at a time"):
                await sessions.reserve(identity("carol"), OTHER, grant)
            async with live(sessions, "3", target=OTHER):
                with pytest.raises(LimitReached, match="alice has 2 sessions"):
                    await sessions.reserve(identity(), OTHER)
        for number in range(20):
            async with live(sessions, f"again-{number}"), live(sessions, f"more-{number}", "bob", grant=grant):
                pass


@everywhere
async def test_E9_a_user_has_a_share_of_a_service(url: str | None) -> None:
    """Reservations count as sessions do; others, and other services, are not concerned."""
    limits = SessionsSettings(per_service=3, per_user_per_service=2)
    async with node(url, limits=limits) as sessions, live(sessions, "1"):
        reserved = await sessions.reserve(identity(), TARGET)
        with pytest.raises(LimitReached, match="alice has 2 sessions of web@mystack, and 2 is one user's share"):
            await sessions.reserve(identity(), TARGET)
        async with live(sessions, "2", target=OTHER), live(sessions, "3", "bob"):
            pass
        async with live(sessions, "4") as session:  # takes the reservation over
            assert session.session.reserved_as == reserved.uid


@everywhere
async def test_E9_a_users_transcripts_have_a_quota(url: str | None) -> None:
    """What runs and what ended today count together: at the quota the user's sessions end, and none is opened."""
    async with node(url, user_quota=1000) as sessions:
        async with live(sessions, "1") as first:
            first.transcript_bytes = lambda: 400
        async with live(sessions, "2") as second, live(sessions, "3", "bob") as other:
            other.transcript_bytes = lambda: 999
            second.transcript_bytes = lambda: 600
            with pytest.raises(SessionEnded, match="have reached their quota of 1000 B"), second.interruptible():
                await asyncio.sleep(60)
            with other.interruptible():
                await asyncio.sleep(0)
        with pytest.raises(LimitReached, match="quota of 1000 B") as refusal:
            await sessions.reserve(identity(), TARGET)
        assert "user_quota" in refusal.value.hint
        await sessions.reserve(identity("bob"), TARGET)
    if url is not None:
        async with node(url, "next", user_quota=1000) as sessions:
            with pytest.raises(LimitReached, match="quota"):
                await sessions.reserve(identity(), TARGET)


@everywhere
async def test_a_reservation_is_taken_over_by_its_users_session(url: str | None) -> None:
    """It holds a place; only that user's session in that service takes it, and is then found by its uid."""
    async with node(url, limits=SessionsSettings(per_service=1)) as sessions:
        reserved = await sessions.reserve(identity(), TARGET)
        assert (reserved.state, sessions.list()) == ("provisioning", [reserved])
        with pytest.raises(LimitReached, match="1 is its limit"):
            async with live(sessions, "1", "bob"):
                pytest.fail("a second session was opened")
        async with live(sessions, "2", target=OTHER) as other, live(sessions, "3") as session:
            assert (other.session.reserved_as, session.session.reserved_as) == (None, reserved.uid)
            assert sessions.get(reserved.uid) == session.session
            assert {one.uid for one in sessions.list()} == {"2", "3"}
        ended = await sessions.find(reserved.uid)
        assert ended is not None
        assert (ended.uid, ended.state) == ("3", "terminated")


@everywhere
async def test_a_reservation_that_nobody_uses_is_free_again(url: str | None) -> None:
    """After its time, or when it is ended, its place is free and the history says why."""
    async with node(url, limits=SessionsSettings(per_service=1)) as sessions:
        lapsing = await sessions.reserve(identity(), TARGET, seconds=0.1)
        await _until(lambda: not sessions.list())
        ended = await sessions.reserve(identity(), TARGET)
        assert sessions.end(ended.uid, "not needed")
        async with live(sessions, "1", "bob"):
            pass
        found, _ = await sessions.history(Wanted(user="alice"))
        assert {one.uid: one.reason for one in found} == {
            lapsing.uid: "nobody connected in time", ended.uid: "not needed",
        }  # fmt: skip


@everywhere
async def test_what_ended_long_ago_is_forgotten(url: str | None) -> None:
    """Sessions older than `[sessions] history` are removed; those that live are not, however old."""
    async with node(url, limits=SessionsSettings(history=0.5)) as sessions, live(sessions, "old but live"):
        async with live(sessions, "over"):
            pass
        async with asyncio.timeout(20):
            while await sessions.find("over") is not None:
                await asyncio.sleep(0.3)
        assert (await sessions.history(Wanted()))[1] == 1


@shared
async def test_forty_at_once_from_two_nodes_get_exactly_the_places_there_are(url: str) -> None:
    """Of forty logins at once, twenty on each of two nodes, exactly `per_service` are let in."""
    async with node(url, "one") as one, node(url, "two") as two, AsyncExitStack() as opened:
        refused = []

        async def log_in(number: int) -> None:
            sessions = (one, two)[number % 2]
            try:
                await opened.enter_async_context(live(sessions, f"{number}", f"user{number}"))
            except LimitReached as refusal:
                refused.append(refusal)

        await asyncio.gather(*(log_in(number) for number in range(40)))
        assert len(refused) == 25
        assert all("15 is its limit" in refusal.public and "user" in refusal.hint for refusal in refused)
        await _until(lambda: len(one.list()) == len(two.list()) == 15)
        assert len(one.own()) + len(two.own()) == 15


@shared
async def test_limits_of_user_and_grant_hold_over_two_nodes_at_once(url: str) -> None:
    """Crosswise logins to many services never have more places than the user and the grant, and none waits for ever."""
    limits = SessionsSettings(per_user=5)
    grant = GrantSettings(users=("*",), stacks=("*",), max_sessions=7)
    async with node(url, "one", limits) as one, node(url, "two", limits) as two, AsyncExitStack() as opened:

        async def log_in(number: int) -> bool:
            target = (TARGET, OTHER)[number // 2 % 2]
            entering = live((one, two)[number % 2], f"{number}", ("alice", "bob")[number // 4 % 2], target, grant)
            try:
                await opened.enter_async_context(entering)
            except LimitReached:
                return False
            return True

        let_in = await asyncio.gather(*(log_in(number) for number in range(40)))
        assert sum(let_in) == 7
        users = [session.user for session in (*one.own(), *two.own())]
        assert max(users.count("alice"), users.count("bob")) <= 5


@shared
async def test_a_session_is_ended_from_another_node(url: str) -> None:
    """`end` on one node ends a session of another with the reason; what is not there is not ended."""
    async with node(url, "one") as one, node(url, "two") as two, live(one, "1") as session:
        await _until(lambda: two.get("1"))
        assert two.get("1") == session.session
        assert two.live("1") is None
        assert two.end("1", "maintenance")
        assert not two.end("2", "maintenance")
        with pytest.raises(SessionEnded, match="maintenance"), session.interruptible():
            await asyncio.sleep(20)


@shared
async def test_what_began_elsewhere_this_moment_is_found_when_it_is_asked_for(url: str) -> None:
    """A node that has not heard of a session of another yet asks the store, and can end it."""
    async with node(url, "one") as one, node(url, "two") as two:
        await asyncio.sleep(0)
        async with live(one, "1") as session:
            found = await two.find_live("1")
            assert found is not None
            assert (found.uid, found.node) == ("1", "one")  # its state may be on its way to the store
            assert await two.find_live("2") is None
            assert two.end("1", "maintenance")
            with pytest.raises(SessionEnded, match="maintenance"), session.interruptible():
                await asyncio.sleep(20)
        assert await one.find_live("1") is None


@shared
async def test_a_reservation_is_taken_over_and_ended_on_another_node(url: str) -> None:
    """What one node reserved a session on another takes over; the first forgets it, and its time ends nothing."""
    async with node(url, "one") as one, node(url, "two") as two:
        first = await one.reserve(identity(), TARGET, seconds=4)
        async with live(two, "1") as session:
            assert session.session.reserved_as == first.uid
            await _until(lambda: [one_.uid for one_ in one.list()] == ["1"])
            await asyncio.sleep(4.1)
            found = await one.find(first.uid)
            assert found is not None
            assert (found.uid, found.state) == ("1", "active")
        second = await one.reserve(identity(), TARGET)
        await _until(lambda: two.get(second.uid))
        assert two.end(second.uid, "not needed")
        await _until(lambda: not one.list())


@shared
async def test_a_clean_stop_releases_at_once(url: str) -> None:
    """What a node still has when it closes is ended, with the reason, before the database is let go."""
    async with node(url, "two") as two:
        async with node(url, "one") as one:
            left = one.open(identity(), request("1"), TARGET)
            await left.__aenter__()
        found = await two.find("1")
        assert found is not None
        assert (found.state, found.reason) == ("terminated", "its bastion stopped")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_text_of_a_client_is_text(url: str, sessions: Sessions) -> None:
    """Quotes, NUL, lone surrogates and a mebibyte in a command are kept as text, cut and cleaned."""
    hostile = ["'; DROP TABLE sessions; --", 'a"b\\', "a\0b", "\udcff", "%s :uid ?", "x" * 2**20]
    for number, command in enumerate(hostile):
        async with sessions.open(identity(), request(f"{number}", command), TARGET):
            pass
    found, total = await sessions.history(Wanted())
    kept = [session.command for session in reversed(found)]
    assert total == len(hostile)
    assert kept == [
        "'; DROP TABLE sessions; --",
        'a"b\\',
        "a\N{REPLACEMENT CHARACTER}b",
        "\N{REPLACEMENT CHARACTER}",
        "%s :uid ?",
        "x" * 4096,
    ]
    assert await sessions.find("' OR 1=1 --") is None
    assert (await sessions.history(Wanted(user="' OR 1=1 --\0\udcff")))[1] == 0
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_text_of_a_client_is_text_on_postgresql_too(sessions: Sessions) -> None:
    """PostgreSQL takes neither NUL nor lone surrogates; a session with them is opened all the same."""
    async with sessions.open(identity("o'brien\0"), request("1", "a\0b\udcff'"), TARGET) as session:
        session.update(reason="a\0b", exit_status=2**40)
    found = await sessions.find("1")
    assert found is not None
    assert (found.command, found.reason) == (
        "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}'",
        "a\N{REPLACEMENT CHARACTER}b",
    )
