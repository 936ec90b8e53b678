"""Map client addresses to sources, and remember a bounded number of sources, of IPv4 and of IPv6 apart."""

import ipaddress
from collections import OrderedDict
from typing import Final, Generic, TypeVar

WIDE_PREFIX_BITS: Final = 48  # of IPv6: the prefix that one customer commonly gets (RFC 6177), 65,536 sources

_Value = TypeVar("_Value")


def source_of(address: str) -> str:
    """Return the source of a client's address: the IPv4 address itself, or the IPv6 /64, which one client may own."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def wide_source_of(source: str) -> str | None:
    """Return the /48 of an IPv6 source; None for every other source."""
    if not source.endswith("/64"):
        return None
    return str(ipaddress.IPv6Network(source).supernet(new_prefix=WIDE_PREFIX_BITS))


def parse_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address without its zone, IPv4 mapped into IPv6 as IPv4; None for text that is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


class SourceMemory(Generic[_Value]):
    """Remembers one value for each of the `max_sources` sources that were set last, of each family of addresses."""

    def __init__(self, max_sources: int) -> None:
        self._max_sources = max_sources
        self._values: tuple[OrderedDict[str, _Value], OrderedDict[str, _Value]] = (OrderedDict(), OrderedDict())

    def __len__(self) -> int:
        return sum(map(len, self._values))

    def get(self, source: str) -> _Value | None:
        """Return the source's value; None when the source has no value."""
        return self._values[":" in source].get(source)

    def set(self, source: str, value: _Value) -> None:
        """Remember a source's value; above `max_sources` the source that was set longest ago is forgotten."""
        values = self._values[":" in source]
        values[source] = value
        values.move_to_end(source)
        if len(values) > self._max_sources:
            values.popitem(last=False)

    def forget(self, source: str) -> None:
        """Remove the source's value."""
        self._values[":" in source].pop(source, None)
