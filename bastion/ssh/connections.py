"""Connections that have logged in: how many one user, and one source, may hold at a time."""

from collections import Counter
from typing import Final

import structlog

from bastion.log import Repeated

_REPORT_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


class Connections:
    """Counts connections by their user and by their source; the total is bounded by the descriptors there are.

    A user counts whatever the source, so that many addresses are no way around the limit; a source counts whatever
    the user, so that many keys are none.
    """

    def __init__(self, per_user: int, per_source: int) -> None:
        self._per_user = per_user
        self._per_source = per_source
        self._open: dict[object, tuple[str, str]] = {}
        self._of_user: Counter[str] = Counter()
        self._of_source: Counter[str] = Counter()
        self._refusals = Repeated(_REPORT_SECONDS)

    def add(self, connection: object, user: str, source: str) -> str | None:
        """Count a connection that has logged in; return the reason when it must be refused."""
        reason = None
        if self._of_user[user] >= self._per_user:
            reason = f"too many connections of {user}: {self._of_user[user]} are open"
        elif self._of_source[source] >= self._per_source:
            reason = f"too many connections from {source}: {self._of_source[source]} are open"
        if reason is not None:
            if number := self._refusals.count():
                log.warning("connections refused", user=user, source=source, reason=reason, number=number)
            return reason
        self._open[connection] = user, source
        self._of_user[user] += 1
        self._of_source[source] += 1
        return None

    def discard(self, connection: object) -> None:
        """Let go of a connection, counted or not."""
        if (owner := self._open.pop(connection, None)) is None:
            return
        for counter, key in zip((self._of_user, self._of_source), owner, strict=True):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
