"""One decision for a connection that arrives, from penalties, the budget of handshakes and the table of startups."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bastion.admission.penalties import Offence, Penalties
from bastion.admission.rates import HandshakeBudget
from bastion.admission.sources import parse_address, source_of
from bastion.admission.startups import Startup, StartupTable
from bastion.config import SshSettings

Reason = Literal["penalty", "handshake-rate", "max-startups", "descriptors"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection may not begin to log in; `line` is for its client, in the words of sshd(8)."""

    reason: Reason
    line: str


PENALISED: Final = Refusal("penalty", "Not allowed at this time")
TOO_FAST: Final = Refusal("handshake-rate", "Exceeded handshake rate")
TOO_MANY: Final = Refusal("max-startups", "Exceeded MaxStartups")


class Gatekeeper:
    """Decides who may begin to log in; it knows addresses only.

    A penalty refuses nobody at a source from which somebody is logged in: behind one address there may be many people.
    """

    def __init__(
        self,
        settings: SshSettings,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._exempt = settings.penalty_exempt
        self._startups = StartupTable(settings.max_startups, settings.max_startups_per_source, chance)
        self._penalties = Penalties(settings.penalties, clock)
        self._budget = HandshakeBudget(settings.max_handshakes, settings.max_handshakes_per_source, clock)
        self._logged_in: Counter[str] = Counter()

    def arrive(self, address: str, evict: Callable[[], None]) -> Startup | Refusal:
        """Take a connection in, to wait for its login; `evict` is called if it has to go for another."""
        source, exempt = source_of(address), self.is_exempt(address)
        if not exempt and source not in self._logged_in and self._penalties.refused_seconds(source):
            return PENALISED
        if not self._budget.allows(source, exempt=exempt):
            return TOO_FAST
        startup = self._startups.admit(source, evict)
        if startup is None:
            return TOO_MANY
        self._budget.spend(source)
        return startup

    def log_in(self, startup: Startup) -> None:
        """Count the connection as logged in."""
        self._startups.release(startup)
        self._logged_in[startup.source] += 1

    def leave(self, startup: Startup, *, logged_in: bool) -> None:
        """Forget a connection that is lost."""
        self._startups.release(startup)
        if logged_in:
            self._logged_in[startup.source] -= 1
            if not self._logged_in[startup.source]:
                del self._logged_in[startup.source]

    def penalise(self, address: str, offence: Offence) -> None:
        """Hold against the address's source that a connection ended so without a login."""
        if not self.is_exempt(address):
            self._penalties.penalise(source_of(address), offence)

    def is_exempt(self, address: str) -> bool:
        """Tell whether the address is in `penalty_exempt`."""
        parsed = parse_address(address)
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self._exempt
        )
