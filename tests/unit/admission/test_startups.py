"""The table of connections that wait to log in: who is refused, who goes for whom, and what it counts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.admission import Startup, StartupTable
from bastion.config import MaxStartups

ALWAYS, NEVER = (lambda: 0.0), (lambda: 0.999)


class Room:
    """A table and who was evicted from it, in order."""

    def __init__(self, limits: MaxStartups, per_source: int = 10, chance: float = 0.0) -> None:
        self.table = StartupTable(limits, per_source, lambda: chance)
        self.evicted: list[str] = []

    def admit(self, source: str, name: str = "") -> Startup | None:
        return self.table.admit(source, lambda: self.evicted.append(name or source))

    def fill(self, *sources: str, each: int) -> None:
        for source in sources:
            for number in range(each):
                assert self.admit(source, f"{source}#{number}")


def test_source_over_its_own_limit_is_refused() -> None:
    """The eleventh connection of one source is refused while others come in, until one of the ten has gone."""
    room = Room(MaxStartups(50, 30, 200))
    first = room.admit("a")
    room.fill("a", each=9)
    assert room.admit("a") is None
    assert room.admit("b")
    assert first is not None
    room.table.release(first)
    assert room.admit("a")
    assert not room.evicted


def test_E6_full_table_costs_the_largest_source_its_oldest() -> None:
    """A newcomer that waits with nothing yet, or with fewer, takes the place of whoever waits with most."""
    room = Room(MaxStartups(100, 100, 100))
    room.fill(*(f"10.0.0.{number}" for number in range(10)), each=10)
    assert room.admit("192.0.2.1")
    assert room.admit("192.0.2.1")
    assert room.evicted == ["10.0.0.0#0", "10.0.0.1#0"]
    assert len(room.table) == 100


def test_newcomer_of_the_largest_source_is_refused_when_full() -> None:
    """It makes nobody go."""
    room = Room(MaxStartups(8, 100, 8))
    room.fill("a", each=5)
    room.fill("b", each=3)
    assert room.admit("a") is None
    assert not room.evicted
    assert room.admit("b")
    assert room.evicted == ["a#0"]


def test_many_sources_with_one_each_cost_one_of_them_its_place() -> None:
    """Where nobody waits with more than one, the oldest goes for a newcomer."""
    room = Room(MaxStartups(4, 100, 4))
    room.fill("a", "b", "c", "d", each=1)
    assert room.admit("e")
    assert room.evicted == ["a#0"]


@pytest.mark.parametrize(("chance", "goes"), [(0.29, True), (0.31, False)])
def test_random_early_drop_begins_with_the_rate(chance: float, *, goes: bool) -> None:
    """At `start` 30 percent of the newcomers make the largest source's oldest go; a source's first never does."""
    room = Room(MaxStartups(10, 30, 200), chance=chance)
    room.fill("a", each=9)
    room.fill("b", each=1)
    assert room.admit("c")
    assert not room.evicted
    assert room.admit("b")
    assert bool(room.evicted) is goes


def test_random_early_drop_rises_to_all() -> None:
    """One below `full` the chance is as good as one; of the largest source itself it is the newcomer that goes."""
    room = Room(MaxStartups(10, 30, 20), chance=0.92)
    room.fill("a", each=10)
    room.fill(*"bcdefghij", each=1)
    assert len(room.table) == 19
    assert room.admit("b")
    assert room.evicted == ["a#0"]
    few = Room(MaxStartups(2, 100, 20))
    few.fill("a", each=2)
    assert few.admit("a") is None


def test_wide_network_of_ipv6_is_four_sources() -> None:
    """A /48 has 65,536 sources: more than four times one source's limit do not wait of it, wherever they are in it."""
    room = Room(MaxStartups(1000, 100, 1000), per_source=10)
    held = [room.admit(f"2001:db8:1:{number:x}::/64") for number in range(41)]
    assert [startup is None for startup in held] == [False] * 40 + [True]
    assert room.admit("2001:db8:2:1::/64")
    assert held[0] is not None
    room.table.release(held[0])
    assert room.admit("2001:db8:1:ffff::/64")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=200), st.integers())
def test_table_stays_what_it_says(steps: list[tuple[str, bool]], seed: int) -> None:
    """Whatever comes and goes, counts are right, never above the limits, and who was evicted is out."""
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    table = StartupTable(MaxStartups(6, 30, 12), 5, dice.random)
    inside: dict[Startup, str] = {}

    def evict(source: str) -> None:
        victim = next(startup for startup in inside if startup.source == source)  # the oldest of its source
        largest = max(list(inside.values()).count(one) for one in set(inside.values()))
        assert list(inside.values()).count(source) == largest
        del inside[victim]

    for source, arrives in steps:
        if arrives:
            startup = table.admit(source, lambda source=source: evict(source))  # type: ignore[misc]
            if startup is not None:
                inside[startup] = source
        elif startup := next((one for one in inside if one.source == source), None):
            del inside[startup]
            table.release(startup)
            table.release(startup)
        assert len(table) == len(inside) <= 12
        assert all(table.waiting(one) == list(inside.values()).count(one) <= 5 for one in "abcdef")


def test_E6_shared_source_has_no_limit_of_its_own() -> None:
    """Behind a load balancer silent connections keep nobody out: the oldest of them goes for each newcomer."""
    room = Room(MaxStartups(20, 100, 20))
    for number in range(20):
        assert room.table.admit("10.0.0.1", lambda number=number: room.evicted.append(str(number)), is_shared=True)  # type: ignore[misc]
    assert room.table.admit("10.0.0.1", lambda: room.evicted.append("last"), is_shared=True)
    assert room.evicted == ["0"]
    assert len(room.table) == 20
