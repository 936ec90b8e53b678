"""A budget of handshakes: a key exchange costs the server milliseconds and its client next to nothing (CVE-2002-20001).

There is one token bucket for all sources together and one for each source; each bucket holds one second's tokens.
When less than half of the common bucket is left, only a source whose own bucket is full may begin a handshake, so
that a few fast sources cannot use up the common budget.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bastion.admission.sources import SourceMemory

MAX_SOURCES: Final = 65536  # of IPv4, and as many of IPv6


@dataclass(frozen=True, slots=True)
class _Bucket:
    tokens: float
    filled_at: float

    def at(self, moment: float, rate: float) -> "_Bucket":
        """Return the bucket refilled up to `moment` by `rate` tokens a second, one second's tokens at most."""
        return _Bucket(min(_capacity(rate), self.tokens + (moment - self.filled_at) * rate), moment)

    def less_one(self) -> "_Bucket":
        return _Bucket(self.tokens - 1, self.filled_at)


def _capacity(rate: float) -> float:
    return max(1.0, rate)


class HandshakeBudget:
    """Bounds how many handshakes begin in a second; a rate of 0 is no limit."""

    def __init__(self, rate: float, per_source: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._per_source = per_source
        self._clock = clock
        self._all = _Bucket(_capacity(rate), clock())
        self._sources: SourceMemory[_Bucket] = SourceMemory(MAX_SOURCES)

    def allows(self, source: str, *, exempt: bool = False) -> bool:
        """Tell whether the source may begin a handshake; only the common budget bounds an exempt source."""
        moment = self._clock()
        own = self._own(source, moment)
        if not exempt and self._per_source and own.tokens < 1:
            return False
        if not self._rate:
            return True
        left = self._all.at(moment, self._rate).tokens
        is_fresh = exempt or own.tokens >= _capacity(self._per_source)
        return left >= (1 if is_fresh or not self._per_source else max(1.0, _capacity(self._rate) / 2))

    def spend(self, source: str) -> None:
        """Count a handshake that begins."""
        moment = self._clock()
        if self._rate:
            self._all = self._all.at(moment, self._rate).less_one()
        if self._per_source:
            own = self._own(source, moment)
            self._sources.set(source, _Bucket(max(0.0, own.tokens - 1), moment))

    def _own(self, source: str, moment: float) -> _Bucket:
        bucket = self._sources.get(source)
        if bucket is None:
            return _Bucket(_capacity(self._per_source), moment)
        return bucket.at(moment, self._per_source)
