"""The counting of what happens too often: a few singly, then numbers, in a bounded number of groups and lines."""

from bastion.tally import MAX_SAMPLES, OTHERS, Tally


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


def test_first_few_are_single_and_the_rest_are_counted() -> None:
    """Five of a hundred are written themselves; a minute after the first, one line has the number of the others."""
    clock = Hands()
    tally = Tally(clock=clock)
    singles = [tally.add("refused", {"user": "bob"}, singly=5, names="web@x") for _ in range(100)]
    assert singles == [True] * 5 + [False] * 95
    assert tally.due() == []
    clock.moment += 60
    assert tally.due() == [("refused", {"user": "bob", "count": 95, "seconds": 60, "names": ["web@x"]})]
    assert tally.add("refused", {"user": "bob"}, singly=5)
    assert tally.due(everything=True) == []
    assert len(tally) == 0


def test_groups_are_counted_apart_and_events_too() -> None:
    """One user's flood takes nothing from another's first few."""
    tally = Tally(clock=Hands())
    for _ in range(10):
        tally.add("refused", {"user": "bob"}, singly=1)
    assert tally.add("refused", {"user": "alice"}, singly=1)
    assert tally.add("other", {"user": "bob"}, singly=1)
    assert tally.due(everything=True) == [("refused", {"user": "bob", "count": 9, "seconds": 0})]


def test_samples_are_bounded() -> None:
    """Of a thousand different names some are kept, and the line says that there were more."""
    tally = Tally(clock=Hands())
    for number in range(1000):
        tally.add("refused", {"user": "bob"}, singly=0, names=f"web-{number}@x")
    ((_, facts),) = tally.due(everything=True)
    assert facts["names"] == [f"web-{number}@x" for number in range(MAX_SAMPLES)]
    assert facts["more"] is True


def test_groups_are_bounded_and_nothing_goes_uncounted() -> None:
    """What comes when there are too many groups is counted together."""
    tally = Tally(max_groups=10, clock=Hands())
    for number in range(1000):
        tally.add("refused", {"source": str(number)}, singly=0)
    assert len(tally) == 11
    lines = [facts for _, facts in tally.due(everything=True)]
    assert sum(int(str(facts["count"])) for facts in lines) == 1000
    assert [facts["count"] for facts in lines if facts["source"] == OTHERS] == [990]


def test_singles_of_all_groups_are_bounded() -> None:
    """A flood from a thousand sources is not a thousand lines."""
    clock = Hands()
    tally = Tally(max_singles=20, clock=clock)
    assert sum(tally.add("refused", {"source": str(number)}, singly=5) for number in range(100)) == 20
    clock.moment += 60
    assert tally.add("refused", {"source": "new"}, singly=5)
