"""Penalties of sources, by a clock that the test moves: threshold, sum, maximum, and bounded tables."""

from bastion.admission.penalties import Penalties
from bastion.config import NO_PENALTIES, PenaltyRules

SOURCE = "192.0.2.1"


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


def test_B2_penalties_add_up_to_the_threshold_and_run_down() -> None:
    """Two failed logins refuse nobody, a third refuses the source for the 15 s of all three."""
    clock = Hands()
    penalties = Penalties(PenaltyRules(), clock)
    for left in (0, 0, 15):
        penalties.penalise(SOURCE, "authfail")
        assert penalties.refused_seconds(SOURCE) == left
    clock.moment += 14.9
    assert penalties.refused_seconds(SOURCE) > 0
    clock.moment += 0.2
    assert penalties.refused_seconds(SOURCE) == 0
    assert len(penalties) == 0


def test_failures_far_apart_never_refuse() -> None:
    """One wrong key every six seconds runs down before the next."""
    clock = Hands()
    penalties = Penalties(PenaltyRules(), clock)
    for _ in range(100):
        penalties.penalise(SOURCE, "authfail")
        clock.moment += 6
        assert penalties.refused_seconds(SOURCE) == 0


def test_refusal_lasts_below_the_threshold_until_all_has_run_down() -> None:
    """What once reached the threshold is refused to its last second, as in sshd."""
    clock = Hands()
    penalties = Penalties(PenaltyRules(), clock)
    for _ in range(2):
        penalties.penalise(SOURCE, "grace_exceeded")
    clock.moment += 19
    assert penalties.refused_seconds(SOURCE) == 1
    penalties.penalise(SOURCE, "noauth")
    assert penalties.refused_seconds(SOURCE) == 2


def test_penalties_have_a_maximum() -> None:
    """However many failures at once, ten minutes later the source is heard again."""
    clock = Hands()
    penalties = Penalties(PenaltyRules(), clock)
    for _ in range(1000):
        penalties.penalise(SOURCE, "authfail")
    assert penalties.refused_seconds(SOURCE) == 600


def test_sources_are_bounded_and_families_apart() -> None:
    """A flood of IPv6 sources neither grows the table nor makes an IPv4 source be forgotten; the oldest is."""
    penalties = Penalties(PenaltyRules(min=5, max_sources=100), Hands())
    penalties.penalise(SOURCE, "authfail")
    for number in range(1000):
        penalties.penalise(f"2001:db8:0:{number:x}::/64", "authfail")
    assert len(penalties) == 101
    assert penalties.refused_seconds(SOURCE)
    assert not penalties.refused_seconds("2001:db8:0:0::/64")
    assert penalties.refused_seconds("2001:db8:0:3e7::/64")


def test_no_penalties_where_there_are_none() -> None:
    """`penalties = "no"` remembers nobody."""
    penalties = Penalties(NO_PENALTIES, Hands())
    for _ in range(100):
        penalties.penalise(SOURCE, "authfail")
        penalties.penalise(SOURCE, "grace_exceeded")
    assert len(penalties) == 0
