"""Limits of `[ssh]` before a login, in the syntax of sshd_config(5), so that values can be copied from sshd."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from bastion.config.values import UNITS

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_STARTUPS: Final = re.compile(r"(-?\d{1,6})(?::(\d{1,3}):(\d{1,6}))?", re.ASCII)
_PENALTY: Final = re.compile(rf"([a-z-]{{1,20}}):(\d{{1,9}})({'|'.join(UNITS)})?", re.ASCII)
_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class MaxStartups:
    """Bounds the connections that wait to log in: from `start` on, `rate` percent are dropped, at `full` all."""

    start: int
    rate: int
    full: int

    def __str__(self) -> str:
        return f"{self.start}:{self.rate}:{self.full}"


@dataclass(frozen=True, slots=True)
class PenaltyRules:
    """The penalty in seconds of each kind of failure, and the bounds `min` and `max` of a source's sum."""

    authfail: float = 5
    noauth: float = 1
    grace_exceeded: float = 10
    min: float = 15
    max: float = 600
    max_sources: int = 65536

    @property
    def are_off(self) -> bool:
        """Whether nothing is ever penalised."""
        return not (self.authfail or self.noauth or self.grace_exceeded)


NO_PENALTIES: Final = PenaltyRules(authfail=0, noauth=0, grace_exceeded=0)


def read_max_startups(value: object) -> object:
    """Read `start:rate:full` of sshd_config(5) or one number, which is both start and full.

    Raises:
        ValueError: the value is neither, or start is above full.
    """
    if isinstance(value, MaxStartups):
        return value
    match = _MAX_STARTUPS.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None:
        raise ValueError('must be a whole number, or "start:rate:full" such as "50:30:200"')
    start = int(match[1])
    if start < 1:
        raise ValueError("must be at least 1")
    rate, full = (int(match[2]), int(match[3])) if match[2] else (_PERCENT, start)
    if start > full or not 1 <= rate <= _PERCENT:
        raise ValueError("must have a start that is no more than full, and a rate of 1 to 100")
    return MaxStartups(start, rate, full)


def read_penalties(value: object) -> object:
    """Read `PerSourcePenalties` of sshd_config(5): words such as `authfail:5s`, or `no`.

    Raises:
        ValueError: a word is unknown, is repeated or has no duration.
    """
    if isinstance(value, PenaltyRules):
        return value
    if not isinstance(value, str):
        raise ValueError('must be words such as "authfail:5s noauth:1s", or "no"')  # noqa: TRY004 - for pydantic
    if value in {"no", "off"}:
        return NO_PENALTIES
    names = {field.name.replace("_", "-"): field.name for field in fields(PenaltyRules)}
    durations: dict[str, Any] = {}
    for word in value.split():
        match = _PENALTY.fullmatch(word)
        if match is None or match[1] not in names:
            raise ValueError(f"has {word}, and must be KIND:DURATION of {', '.join(names)}")
        name = names[match[1]]
        if name in durations:
            raise ValueError(f"has {match[1]} twice")
        durations[name] = _amount(name, match)
    rules = replace(PenaltyRules(), **durations)
    if rules.max_sources < 1 or rules.min > rules.max:
        raise ValueError("must have max-sources of 1 or more, and a min no longer than max")
    return rules


def _amount(name: str, match: re.Match[str]) -> float:
    if name != "max_sources":
        return float(match[2]) * _seconds(match[3])
    if match[3]:
        raise ValueError("has a unit behind max-sources, which is a number")
    return int(match[2])


def _seconds(unit: str | None, units: Mapping[str, float] = UNITS) -> float:
    return units[unit] if unit else 1


def read_networks(value: object) -> object:
    """Read addresses and networks in CIDR notation; a network with host bits set is an error.

    Raises:
        ValueError: a value is neither an address nor a network.
    """
    if not isinstance(value, list | tuple):
        return value
    return tuple(_network(element) for element in value)


def _network(element: object) -> object:
    if not isinstance(element, str):
        return element
    try:
        return ipaddress.ip_network(element)
    except ValueError:
        raise ValueError(f"has {element}, which is no address or network such as 10.0.0.0/8") from None


Startups = Annotated[MaxStartups, NoDecode, BeforeValidator(read_max_startups)]
Penalties = Annotated[PenaltyRules, NoDecode, BeforeValidator(read_penalties)]
Networks = Annotated[tuple[IpNetwork, ...], BeforeValidator(read_networks)]
