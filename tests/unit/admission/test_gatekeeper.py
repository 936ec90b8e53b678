"""One decision from penalties, budget and table, and what each refused client reads."""

import pytest

from bastion.admission import Gatekeeper, Refusal, Startup
from bastion.admission.gatekeeper import PENALISED, TOO_FAST, TOO_MANY
from bastion.admission.rates import HandshakeBudget
from bastion.config import SshSettings
from tests.unit.admission.test_penalties import Hands


def settings(**options: object) -> SshSettings:
    return SshSettings.model_validate({"max_handshakes": 0, "max_handshakes_per_source": 0, **options})


def keeper(clock: Hands, **options: object) -> Gatekeeper:
    return Gatekeeper(settings(**options), clock, lambda: 0.0)


def arrive(gatekeeper: Gatekeeper, address: str) -> Startup | Refusal:
    return gatekeeper.arrive(address, lambda: None)


def inside(gatekeeper: Gatekeeper, address: str) -> Startup:
    startup = arrive(gatekeeper, address)
    assert isinstance(startup, Startup)
    return startup


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_penalised_source_is_refused_and_its_neighbours_are_not(address: str) -> None:
    """By /32 and /64: another address of the same /64 is refused too, the next network is not."""
    clock = Hands()
    gatekeeper = keeper(clock)
    for _ in range(3):
        gatekeeper.penalise(address, "authfail")
    assert arrive(gatekeeper, address) == PENALISED
    same, other = ("192.0.2.7", "192.0.2.8") if "." in address else ("2001:db8::ffff", "2001:db8:0:1::7")
    assert arrive(gatekeeper, same) == PENALISED
    assert arrive(gatekeeper, f"::ffff:{other}" if "." in other else other) not in {PENALISED, TOO_MANY}
    clock.moment += 15
    inside(gatekeeper, address)


def test_B2_nobody_is_refused_where_somebody_is_logged_in() -> None:
    """A penalty locks out no colleague of who is logged in from the same address; it waits until they have left."""
    gatekeeper = keeper(Hands())
    colleague = inside(gatekeeper, "192.0.2.7")
    gatekeeper.log_in(colleague)
    for _ in range(10):
        gatekeeper.penalise("192.0.2.7", "authfail")
    second = inside(gatekeeper, "192.0.2.7")
    gatekeeper.leave(second, logged_in=False)
    gatekeeper.leave(colleague, logged_in=True)
    assert arrive(gatekeeper, "192.0.2.7") == PENALISED


def test_B2_exempt_addresses_are_never_penalised() -> None:
    """Of `penalty_exempt` nothing is remembered; by default those are the loopback addresses of local proxies."""
    gatekeeper = keeper(Hands(), penalty_exempt=["192.0.2.0/24", "2001:db8::/32"])
    for address in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "127.0.0.1"):
        for _ in range(10):
            gatekeeper.penalise(address, "authfail")
    assert [isinstance(arrive(gatekeeper, one), Startup) for one in ("192.0.2.7", "2001:db8::7")] == [True, True]
    assert arrive(gatekeeper, "127.0.0.1") == PENALISED
    default = keeper(Hands())
    assert [default.is_exempt(one) for one in ("127.0.0.1", "::1", "127.0.0.2", "", "x")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_B5_handshakes_of_one_source_have_a_budget() -> None:
    """Twenty handshakes at once, then twenty a second; one refused by the table costs nothing of it."""
    clock = Hands()
    gatekeeper = keeper(clock, max_handshakes_per_source=20, max_startups_per_source=100)
    decisions = [arrive(gatekeeper, "192.0.2.7") for _ in range(30)]
    assert [isinstance(one, Startup) for one in decisions] == [True] * 20 + [False] * 10
    assert decisions[-1] == TOO_FAST
    clock.moment += 0.5
    assert sum(isinstance(arrive(gatekeeper, "192.0.2.7"), Startup) for _ in range(30)) == 10


def test_B5_half_of_the_budget_is_for_those_who_spend_little() -> None:
    """Fast sources can use up one half of all handshakes; a source that has spent nothing lately finds the other."""
    clock = Hands()
    budget = HandshakeBudget(100, 20, clock)
    spent = 0
    for number in range(10):
        while budget.allows(f"10.0.0.{number}"):
            budget.spend(f"10.0.0.{number}")
            spent += 1
    assert spent == 51 + 7  # the seven whose turn came after that were served once each
    assert budget.allows("192.0.2.1")
    assert budget.allows("10.0.0.1", exempt=True)


def test_budget_of_all_is_the_end() -> None:
    """When it is used up nobody begins a handshake, exempt or not, and a second later again."""
    clock = Hands()
    budget = HandshakeBudget(10, 0, clock)
    for _ in range(10):
        assert budget.allows("a", exempt=True)
        budget.spend("a")
    assert not budget.allows("a", exempt=True)
    assert not budget.allows("b")
    clock.moment += 0.1
    assert budget.allows("b")


def test_E6_an_exempt_source_waits_with_any_number() -> None:
    """`max_startups_per_source` is for sources of one client, not for a proxy's address."""
    gatekeeper = keeper(Hands(), penalty_exempt=["192.0.2.0/24"], max_startups_per_source=2)
    for _ in range(5):
        inside(gatekeeper, "192.0.2.7")
    inside(gatekeeper, "198.51.100.1")
    inside(gatekeeper, "198.51.100.1")
    assert arrive(gatekeeper, "198.51.100.1") == TOO_MANY
