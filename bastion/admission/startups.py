"""Connections that wait to log in: `MaxStartups` of sshd_config(5), but the source that holds most of them loses one.

sshd drops the newcomer, at random or always, so that an attacker who fills the table keeps everybody out. Here a
connection is dropped under the same conditions as in sshd, but the choice of the connection is fair:

- a source over its own limit is refused, unless many clients share it (`penalty_exempt`);
- below `full`, a newcomer of a source with no waiting connection is not subject to the random drop; at `full` the
  newcomer takes another connection's place;
- a newcomer of a source with fewer waiting connections than the largest source has takes the place of the largest
  source's oldest connection;
- a newcomer of the largest source is refused.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from bastion.admission.sources import wide_source_of
from bastion.config import MaxStartups

SOURCES_PER_WIDE_SOURCE: Final = 4  # a /48 of IPv6 may have as many waiting connections as this many sources


class Startup:
    """One connection that waits to log in; `evict` is called when the connection must be closed for another one."""

    __slots__ = ("evict", "source", "wide_source")

    def __init__(self, source: str, evict: Callable[[], None]) -> None:
        self.source = source
        self.wide_source = wide_source_of(source)
        self.evict = evict


class StartupTable:
    """All connections of a listener that wait to log in; every operation takes constant time."""

    def __init__(self, limits: MaxStartups, per_source: int, chance: Callable[[], float] = random.random) -> None:
        self._limits = limits
        self._per_source = per_source
        self._chance = chance
        self._size = 0
        self._waiting: dict[str, dict[Startup, None]] = {}  # by source, the oldest first
        self._by_count: dict[int, dict[str, None]] = {}  # the sources by their number of waiting connections
        self._largest = 0
        self._wide: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._size

    def waiting(self, source: str) -> int:
        """Return the number of the source's waiting connections."""
        return len(self._waiting.get(source, ()))

    def admit(self, source: str, evict: Callable[[], None], *, is_shared: bool = False) -> Startup | None:
        """Add a connection, evicting another one if necessary; return None when the newcomer is refused.

        A source that is shared, such as a load balancer's, has no limit of its own: the oldest connection goes.
        """
        startup = Startup(source, evict)
        count = self.waiting(source)
        if not is_shared and self._is_over_its_limit(startup, count):
            return None
        if self._is_one_too_many(is_first=count == 0):
            if not is_shared and count and count >= self._largest:
                return None
            self._evict_from_largest()
        self._add(startup)
        return startup

    def release(self, startup: Startup) -> None:
        """Remove a connection that has logged in or was lost; a connection already removed is ignored."""
        waiting = self._waiting.get(startup.source)
        if waiting is None or startup not in waiting:
            return
        del waiting[startup]
        self._size -= 1
        self._move(startup.source, len(waiting) + 1, len(waiting))
        if not waiting:
            del self._waiting[startup.source]
        if startup.wide_source:
            self._wide[startup.wide_source] -= 1
            if not self._wide[startup.wide_source]:
                del self._wide[startup.wide_source]

    def _is_over_its_limit(self, startup: Startup, count: int) -> bool:
        wide = startup.wide_source
        return count >= self._per_source or (
            wide is not None and self._wide[wide] >= self._per_source * SOURCES_PER_WIDE_SOURCE
        )

    def _is_one_too_many(self, *, is_first: bool) -> bool:
        start, rate, full = self._limits.start, self._limits.rate, self._limits.full
        if self._size >= full:
            return True
        if self._size < start or is_first:
            return False
        percent = rate + (100 - rate) * (self._size - start) / (full - start)
        return self._chance() * 100 < percent

    def _evict_from_largest(self) -> None:
        source = next(iter(self._by_count[self._largest]))
        oldest = next(iter(self._waiting[source]))
        self.release(oldest)
        oldest.evict()

    def _add(self, startup: Startup) -> None:
        waiting = self._waiting.setdefault(startup.source, {})
        waiting[startup] = None
        self._size += 1
        self._move(startup.source, len(waiting) - 1, len(waiting))
        if startup.wide_source:
            self._wide[startup.wide_source] += 1

    def _move(self, source: str, before: int, after: int) -> None:
        """Move a source from the set of one count to the set of the next count up or down."""
        if before:
            del self._by_count[before][source]
            if not self._by_count[before]:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[source] = None
        if after > self._largest or (before == self._largest and before not in self._by_count):
            self._largest = after
