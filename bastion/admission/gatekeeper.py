"""Admit or refuse each new connection by penalties, the budget of handshakes and the table of startups."""

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
    """Decides by its address alone whether a connection may begin to log in.

    A penalty does not apply to a source from which a user is logged in: many people may share one address (NAT).
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
        """Admit a connection to wait for its login; `evict` is called if a newcomer takes the connection's place."""
        source, exempt = source_of(address), self.is_exempt(address)
        if not exempt and source not in self._logged_in and self._penalties.refused_seconds(source):
            return PENALISED
        if not self._budget.allows(source, exempt=exempt):
            return TOO_FAST
        startup = self._startups.admit(source, evict, is_shared=exempt)
        if startup is None:
            return TOO_MANY
        self._budget.spend(source)
        return startup

    def log_in(self, startup: Startup) -> None:
        """Count the connection as logged in."""
        self._startups.release(startup)
        self._logged_in[startup.source] += 1

    def leave(self, startup: Startup, *, logged_in: bool) -> None:
        """Remove a connection that was lost from every count."""
        self._startups.release(startup)
        if logged_in:
            self._logged_in[startup.source] -= 1
            if not self._logged_in[startup.source]:
                del self._logged_in[startup.source]

    def penalise(self, address: str, offence: Offence) -> None:
        """Penalise the address's source for a connection that ended by `offence` without a login."""
        if not self.is_exempt(address):
            self._penalties.penalise(source_of(address), offence)

    def is_exempt(self, address: str) -> bool:
        """Tell whether the address is in `penalty_exempt`."""
        parsed = parse_address(address)
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self._exempt
        )
