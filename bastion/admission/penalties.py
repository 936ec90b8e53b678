"""`PerSourcePenalties` of sshd_config(5): failures before the login add seconds for which their source is refused.

- Each failure adds its seconds; the sum decreases with time.
- Once the sum reaches `min`, every connection of the source is refused until the whole sum has passed.
- Further failures, of connections that are open already, add to the sum, up to `max`.
- Below `min` nothing is refused.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bastion.admission.sources import SourceMemory
from bastion.config import PenaltyRules

Offence = Literal["authfail", "noauth", "grace_exceeded"]


@dataclass(frozen=True, slots=True)
class _Penalty:
    until: float
    is_active: bool


class Penalties:
    """The penalised sources, bounded in number: the source penalised longest ago is forgotten first."""

    def __init__(self, rules: PenaltyRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._penalties: SourceMemory[_Penalty] = SourceMemory(rules.max_sources)

    def __len__(self) -> int:
        return len(self._penalties)

    def penalise(self, source: str, offence: Offence) -> None:
        """Add the offence's seconds to the source's sum."""
        seconds: float = getattr(self._rules, offence)
        if not seconds:
            return
        moment = self._clock()
        before = self._penalties.get(source)
        began = before.until if before is not None and before.until > moment else moment
        until = min(began + seconds, moment + self._rules.max)
        was_active = before is not None and before.is_active and before.until > moment
        self._penalties.set(source, _Penalty(until, was_active or until - moment >= self._rules.min))

    def refused_seconds(self, source: str) -> float:
        """Return the seconds for which the source is still refused; 0 when the source is not refused."""
        penalty = self._penalties.get(source)
        if penalty is None:
            return 0
        left = penalty.until - self._clock()
        if left <= 0:
            self._penalties.forget(source)
            return 0
        return left if penalty.is_active else 0
