"""The numbers: counted once, in a registry of their own, with no label from outside."""

from datetime import UTC, datetime, timedelta

from bastion.metrics import Metrics
from bastion.model import Session

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


def ended(status: int | None) -> Session:
    return Session(
        uid="0123456789abcdef",
        title="",
        service_name="CANARY-service",
        namespace=None,
        command="CANARY-command",
        deployment_name=None,
        pod_name=None,
        container_name="c",
        stack="CANARY-stack",
        user="CANARY-user",
        state="terminated",
        created_at=MOMENT,
        ended_at=MOMENT + timedelta(seconds=3),
        exit_status=status,
        client_address="192.0.2.1",
        key_fingerprint="SHA256:x",
        node="here",
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_sessions_are_counted_by_what_their_status_says() -> None:
    """Each outcome has a series; no status known is a failure of the runtime, never a success."""
    metrics = Metrics()
    for status in (0, 1, 250, 253, 254, None):
        metrics.session_ended(ended(status), bytes_in=10, bytes_out=100)
    outcomes = {"success": 1, "failure": 2, "ended": 1, "recording": 1, "runtime": 1}
    assert {name: value(metrics, "bastion_sessions_total", outcome=name) for name in outcomes} == outcomes
    assert value(metrics, "bastion_session_bytes_total", direction="in") == 60
    assert value(metrics, "bastion_session_bytes_total", direction="out") == 600
    assert value(metrics, "bastion_session_seconds_sum") == 18


def test_open_sessions_are_asked_for_when_the_numbers_are_read() -> None:
    """The gauge is what the registry says at that moment."""
    metrics = Metrics()
    live: list[int] = []
    metrics.watch(lambda: len(live))
    live.append(1)
    assert b"bastion_sessions_active 1.0" in metrics.render()


def test_nothing_that_a_peer_chose_is_in_the_numbers() -> None:
    """Users, stacks, services and commands are no labels."""
    metrics = Metrics()
    metrics.session_ended(ended(0), bytes_in=0, bytes_out=0)
    metrics.refused("refused")
    metrics.login()
    metrics.turned_away("penalty")
    assert b"CANARY" not in metrics.render()
    assert value(metrics, "bastion_refused_total", code="refused") == 1


def test_two_registries_do_not_share_numbers() -> None:
    """No number is global: a second object starts at nothing."""
    first, second = Metrics(), Metrics()
    first.login()
    assert value(first, "bastion_logins_total") == 1
    assert value(second, "bastion_logins_total") == 0
