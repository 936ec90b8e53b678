"""Two bastions on one PostgreSQL are one to their users: limits, lists and ends count for both, and one may die."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.postgresql import Postgresql

LIMIT: Final = 15


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


@pytest.fixture
def pair(place: Place, tmp_path: Path, postgresql: Postgresql) -> Iterator[tuple[Bastion, Bastion]]:
    """Give two running bastions with keys and transcripts of their own, on one database."""
    sections = (
        f'{place.sections}[sessions]\ndatabase = "{postgresql.url()}"\nper_user = 100\nper_user_per_service = 15\n'
    )
    servers = [Bastion(tmp_path / name, sections) for name in ("one", "two")]
    for server in servers:
        server.config.write_text(server.config.read_text().replace("[ssh]", "[ssh]\nmax_startups_per_source = 50"))
    try:
        yield servers[0].start(), servers[1].start()
    finally:
        statuses = [server.stop() for server in servers]
    assert statuses == [0, 0]
    assert not [server.events("internal error") for server in servers if server.events("internal error")]


class Clients:
    """Clients that stay for as long as they are let in."""

    def __init__(self, servers: Sequence[Bastion], count: int) -> None:
        self._started = [
            subprocess.Popen(
                servers[number % len(servers)].command("cat"),
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
            for number in range(count)
        ]  # fmt: skip

    def refused(self) -> list[subprocess.Popen[bytes]]:
        return [client for client in self._started if client.poll() is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._started:
            client.kill()
            client.communicate()


def _live(server: Bastion, state: str = "active") -> list[dict[str, Any]]:
    return [session for session in server.sessions() if session["state"] == state]


def test_forty_logins_at_once_get_fifteen_places(pair: tuple[Bastion, Bastion]) -> None:
    """Of forty at once on two bastions exactly fifteen are active; the rest leave with 253 and the holders' names."""
    with Clients(pair, 40) as clients:
        assert _wait(90, lambda: len(clients.refused()) == 40 - LIMIT)
        for client in clients.refused():
            assert client.stderr is not None
            words = client.stderr.read()
            assert client.returncode == 253, words
            assert b"web@mystack has 15 sessions, and 15 is its limit" in words
            assert b"held by alice (15)" in words
        for server in pair:
            assert _wait(20, lambda server=server: len(_live(server)) == LIMIT)  # type: ignore[misc]
            assert len(server.sessions()) == LIMIT
        assert len(clients.refused()) == 40 - LIMIT
        assert pair[0].ssh("true", name="small@mystack").returncode == 0
    for server in pair:
        assert _wait(20, lambda server=server: server.sessions() == [])  # type: ignore[misc]


def test_a_killed_node_gives_its_places_back(pair: tuple[Bastion, Bastion]) -> None:
    """After kill -9 of one bastion the other lets as many in as it held, within 30 s."""
    one, two = pair
    with Clients([one], LIMIT):
        assert _wait(60, lambda: len(_live(one)) == LIMIT)
        assert two.ssh("true").returncode == 253
        one.kill()
        assert _wait(30, lambda: two.ssh("true").returncode == 0)
        assert two.sessions() == []
    with Clients([two], LIMIT) as clients:
        assert _wait(60, lambda: len(_live(two)) == LIMIT)
        assert clients.refused() == []
    one.start()


def test_a_start_after_a_kill_finds_its_places_free(pair: tuple[Bastion, Bastion]) -> None:
    """A bastion that was killed and starts again has none of its old sessions, at once."""
    one, _ = pair
    with Clients([one], LIMIT):
        assert _wait(60, lambda: len(_live(one)) == LIMIT)
        one.kill()
        one.start()
        assert one.ssh("true").returncode == 0


def test_a_session_is_ended_from_the_other_bastion(pair: tuple[Bastion, Bastion]) -> None:
    """`bastion sessions end` on one ends a session of the other with the reason and 253."""
    one, two = pair
    with subprocess.Popen(one.command("cat"), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert _wait(20, lambda: len(_live(two)) == 1)
        (session,) = two.sessions()
        assert session == one.sessions()[0]
        two.cli("sessions", "end", session["uid"], "--reason", "maintenance window")
        assert client.stderr is not None
        assert client.wait(20) == 253
        assert b"the session was ended: maintenance window" in client.stderr.read()
    assert _wait(20, lambda: one.sessions() == two.sessions() == [])


def test_without_its_database_a_bastion_lets_nobody_in_and_ends_nobody(
    pair: tuple[Bastion, Bastion], postgresql: Postgresql
) -> None:
    """A new session is refused with 255 and a hint, one that runs goes on; with the database back all is as before."""
    one, _ = pair
    with subprocess.Popen(
        one.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert _wait(20, lambda: len(_live(one)) == 1)
        postgresql.stop()
        refused = one.ssh("true")
        assert refused.returncode == 255
        assert b"bastion: error: the sessions' database does not answer" in refused.stderr
        assert b"bastion: hint: try again in a moment" in refused.stderr
        checked = one.cli("check", check=False)
        assert checked.returncode == 1
        assert "the sessions' database cannot be used" in checked.stderr
        output, _ = client.communicate(b"still here\n", timeout=20)
        assert (client.returncode, output) == (0, b"still here\n")
    postgresql.start()
    assert _wait(20, lambda: one.ssh("true").returncode == 0)
    ended = "SELECT count(*) FROM sessions WHERE state = 'terminated' AND exit_status = 0"
    assert _wait(20, lambda: int(postgresql.sql(ended)) >= 2)
