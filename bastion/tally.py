"""Count events that are too frequent to log one by one, in a bounded number of groups; no I/O.

The first events of a group in a minute may be written singly. Later events are counted, and when the minute is over,
one line of the group has their number. A flood costs a few lines a minute, and every event is at least counted.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 60.0
MAX_SAMPLES: Final = 16  # different values of one field in a group's line
OTHERS: Final = "(others)"  # the group of every event above the bound on groups


@dataclass(slots=True)
class _Group:
    event: str
    facts: dict[str, str]
    began_at: float
    written: int = 0
    counted: int = 0
    samples: dict[str, dict[str, None]] = field(default_factory=dict)
    has_more: bool = False


class Tally:
    """Groups of events of the last minute; at most `max_groups`, of which `max_singles` are written singly."""

    def __init__(
        self, *, max_groups: int = 1024, max_singles: int = 600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_groups = max_groups
        self._max_singles = max_singles
        self._clock = clock
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._singles = 0
        self._singles_since = clock()

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, event: str, facts: Mapping[str, str], *, singly: int, **samples: str) -> bool:
        """Count an event of the group that `facts` name; return whether the event is among the first `singly` ones.

        The group's line has some of the values of each field in `samples`.
        """
        group = self._group(event, facts)
        if group.written < singly and self._take_single():
            group.written += 1
            return True
        group.counted += 1
        for name, value in samples.items():
            values = group.samples.setdefault(name, {})
            if len(values) < MAX_SAMPLES or value in values:
                values[value] = None
            else:
                group.has_more = True
        return False

    def due(self, *, everything: bool = False) -> list[tuple[str, dict[str, object]]]:
        """Remove the groups whose minute is over, or all; return (event, facts) of each group with counted events.

        The facts are the group's facts, `count`, `seconds`, and each field's samples as a list.
        """
        moment = self._clock()
        over = {
            key: group for key, group in self._groups.items() if everything or moment - group.began_at >= WINDOW_SECONDS
        }
        for key in over:
            del self._groups[key]
        return [(group.event, _line(group, moment)) for group in over.values() if group.counted]

    def _group(self, event: str, facts: Mapping[str, str]) -> _Group:
        if (event, *facts.values()) not in self._groups and len(self._groups) >= self._max_groups:
            facts = dict.fromkeys(facts, OTHERS)
        return self._groups.setdefault((event, *facts.values()), _Group(event, dict(facts), self._clock()))

    def _take_single(self) -> bool:
        moment = self._clock()
        if moment - self._singles_since >= WINDOW_SECONDS:
            self._singles, self._singles_since = 0, moment
        self._singles += 1
        return self._singles <= self._max_singles


def _line(group: _Group, moment: float) -> dict[str, object]:
    facts: dict[str, object] = dict(group.facts)
    facts |= {"count": group.counted, "seconds": round(moment - group.began_at)}
    facts |= {name: list(values) for name, values in group.samples.items()}
    if group.has_more:
        facts["more"] = True
    return facts
