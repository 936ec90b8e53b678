"""The numbers an operator watches: sessions, refusals, logins and bytes, in a registry of their own."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from bastion.model import Session

_SECONDS: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 8 * 3600)
_OUTCOMES: Final = {0: "success", 251: "no-such-target", 252: "refused", 253: "ended", 254: "recording", 255: "runtime"}


class Metrics:
    """Counts what happens; one object is made by the composition root and passed down.

    No label takes a value from outside (no user, stack or service), so that nobody can grow the number of series.
    """

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._active = Gauge("bastion_sessions_active", "Sessions that are open now", registry=self.registry)
        self._duties = Gauge(
            "bastion_duties_open",
            "Programs of sessions that ended, or of a bastion that stopped, which this one has yet to end",
            registry=self.registry,
        )
        self._sessions = Counter(
            "bastion_sessions",
            "Sessions that ended, by what their exit status says (a program may itself end with 251 to 255)",
            ["outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "bastion_session_seconds", "How long sessions lasted", buckets=_SECONDS, registry=self.registry
        )
        self._refused = Counter(
            "bastion_refused", "Requests that were refused, by the error's code", ["code"], registry=self.registry
        )
        self._logins = Counter("bastion_logins", "Connections that logged in", registry=self.registry)
        self._login_failures = Counter(
            "bastion_login_failures",
            "Connections that did not log in, by why; those that were turned away are among them",
            ["reason"],
            registry=self.registry,
        )
        self._turned_away = Counter(
            "bastion_turned_away",
            "Connections refused before a key exchange: penalty, handshake-rate, max-startups, descriptors",
            ["reason"],
            registry=self.registry,
        )
        self._bytes = Counter(
            "bastion_session_bytes",
            "Bytes of sessions that ended: in is to the program, out is from it",
            ["direction"],
            registry=self.registry,
        )

        self._internal_errors = Counter(
            "bastion_internal_errors",
            "Faults of the bastion's own that no session was told of: each is a line in the log",
            registry=self.registry,
        )

    def watch(self, active: Callable[[], int]) -> None:
        """Ask this function for the number of open sessions whenever the numbers are read."""
        self._active.set_function(active)

    def watch_duties(self, count: Callable[[], int]) -> None:
        """Call `count` for the number of open duties whenever the metrics are read."""
        self._duties.set_function(count)

    def session_ended(self, session: Session, *, bytes_in: int, bytes_out: int) -> None:
        """Count a session that has ended, its length and its bytes each way."""
        status = 255 if session.exit_status is None else session.exit_status
        self._sessions.labels(_OUTCOMES.get(status, "failure")).inc()
        self._bytes.labels("in").inc(bytes_in)
        self._bytes.labels("out").inc(bytes_out)
        if session.ended_at is not None:
            self._seconds.observe((session.ended_at - session.created_at).total_seconds())

    def refused(self, code: str) -> None:
        """Count a request that was refused, by its error's code."""
        self._refused.labels(code).inc()

    def login(self) -> None:
        """Count a connection that logged in."""
        self._logins.inc()

    def login_failed(self, reason: str) -> None:
        """Count a connection that did not log in; `reason` is one of a bounded set."""
        self._login_failures.labels(reason).inc()

    def turned_away(self, reason: str) -> None:
        """Count a connection that was refused before its key exchange; `reason` is one of a bounded set."""
        self._turned_away.labels(reason).inc()

    def watch_room(self, free: Callable[[], float], reserve: Callable[[], float]) -> None:
        """Call `free` and `reserve` for the bytes of the transcripts' volume whenever the metrics are read."""
        for name, words, function in (
            ("free", "Bytes that are free on the transcripts' volume", free),
            ("reserve", "Bytes of the transcripts' volume below which no session is opened", reserve),
        ):
            Gauge(f"bastion_transcripts_volume_{name}_bytes", words, registry=self.registry).set_function(function)

    def internal_error(self) -> None:
        """Count an internal error."""
        self._internal_errors.inc()

    def render(self) -> bytes:
        """Return everything in the Prometheus text format 0.0.4, whose content type is `content_type`."""
        return generate_latest(self.registry)
