"""The options in front of a key in OpenSSH's authorized_keys, read one by one into the bounds they put on it."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bastion.grammar import NAME_PART
from bastion.patterns import name_matcher

_NAME_RULE = "letters, digits, dots, dashes and underscores, no dot or dash first"
_NAME = re.compile(NAME_PART)
_TIME = re.compile(r"(\d{8})(\d{4})?(\d{2})?(Z?)", re.ASCII)
_OPTION = re.compile(r"([A-Za-z0-9-]{1,32})(=)?")
_ADDRESS_PATTERN = re.compile(r"[0-9A-Fa-f.:*?]{1,64}")
_PERMIT_OPEN = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9][A-Za-z0-9._-]{0,252})):(\*|[1-9][0-9]{0,4})")
_HIGHEST_PORT = 65535
_PRINCIPAL = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]{1,255}")
_IGNORED = frozenset({"x11-forwarding", "user-rc"})  # nobody gets these here, so "no" is kept
_NEVER = {
    "command": "a grant says what a key may run",
    "environment": "a key sets no environment here",
    "permitlisten": "nothing is listened on for clients",
    "tunnel": "there are no tunnels here",
}

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class InvalidLineError(ValueError):
    """The line is not accepted; the message says why, in words for the operator."""


@dataclass(frozen=True, slots=True)
class AddressRule:
    """One element of `from=`: a network in CIDR notation or a pattern of `*` and `?`, possibly negated."""

    pattern: str
    negated: bool
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None

    def matches(self, address: IpAddress) -> bool:
        """Tell whether the address is in the network, or fits the pattern."""
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return name_matcher(self.pattern).fits(str(address))


@dataclass(frozen=True, slots=True)
class Options:
    """The bounds that a line puts on its key; `expires` is in seconds since the epoch.

    Where `is_authority`, the key logs nobody in but signs certificates, whose keys are bounded so; `principals` are
    those of which a certificate must name one, none meaning the user's own name.
    """

    stack: str | None = None
    service: str | None = None
    expires: float | None = None
    sources: tuple[AddressRule, ...] = ()
    may_pty: bool = True
    may_forward: bool = True
    permit_open: tuple[str, ...] = ()
    may_agent: bool = True
    touch_required: bool = True
    verify_required: bool = False
    is_authority: bool = False
    principals: tuple[str, ...] = ()

    def admits(self, client_address: str) -> bool:
        """Tell whether `from=` lets this address in; a negated match outweighs every other, as in OpenSSH."""
        return not self.sources or admits(self.sources, client_address)


def admits(rules: Sequence[AddressRule], client_address: str) -> bool:
    """Tell whether the rules match the address, and none of those that match is negated."""
    address = parse_address(client_address)
    matching = [] if address is None else [rule for rule in rules if rule.matches(address)]
    return bool(matching) and not any(rule.negated for rule in matching)


def parse_address(text: str) -> IpAddress | None:
    """Read an IP address; an IPv4 address mapped into IPv6 is the IPv4 address, a zone is left out."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def quote(value: str) -> str:
    """Put an option's value in quotes, as sshd(8) reads them: only a quote is escaped."""
    return '"' + value.replace('"', '\\"') + '"'


def check_name(value: str, what: str) -> str:
    """Return a stack's or service's name if it can be one.

    Raises:
        InvalidLineError: it cannot.
    """
    if not _NAME.fullmatch(value):
        raise InvalidLineError(f"has a {what} that is not one name of {_NAME_RULE}")
    return value


def read_options(text: str) -> tuple[Options, str]:
    """Read the options one after the other, since a later one may undo an earlier; return them and what follows.

    Raises:
        InvalidLineError: one is unknown, malformed, doubled or cannot be enforced.
    """
    options, position, seen = Options(), 0, set()
    while True:
        match = _OPTION.match(text, position)
        if match is None:
            raise InvalidLineError("has neither a key type nor an option where one must be")
        name, position, value = match[1].lower(), match.end(), None
        if match[2]:
            value, position = _quoted(text, position, name)
        if name in seen and name not in {"permitopen", "expiry-time"}:
            raise InvalidLineError(f"has the option {name} twice")
        seen.add(name)
        options = _apply(options, name, value)
        if position == len(text):
            raise InvalidLineError("has options but no key")
        if text[position] in " \t":
            if options.principals and not options.is_authority:
                raise InvalidLineError("has principals= without cert-authority")
            return options, text[position:]
        if text[position] != ",":
            raise InvalidLineError(f"has something other than a comma or a space after the option {name}")
        position += 1


def _quoted(text: str, position: int, name: str) -> tuple[str, int]:
    if text[position : position + 1] != '"':
        raise InvalidLineError(f"has no quotes around the value of {name}")
    value, position = "", position + 1
    while position < len(text):
        if text[position] == '"':
            return value, position + 1
        if text.startswith('\\"', position):
            position += 1
        value += text[position]
        position += 1
    raise InvalidLineError(f"has no closing quote after the value of {name}")


def _apply(options: Options, name: str, value: str | None) -> Options:
    if name in _NEVER:
        raise InvalidLineError(f"has the option {name}: {_NEVER[name]}")
    if value is None:
        return _apply_flag(options, name)
    if name not in _VALUES:
        raise InvalidLineError(f"has an unknown option {name}=")
    return _VALUES[name](options, value)


def _apply_flag(options: Options, name: str) -> Options:
    word, allowed = (name.removeprefix("no-"), not name.startswith("no-"))
    if name == "restrict":
        return replace(options, may_pty=False, may_forward=False, may_agent=False)
    if name in _BARE:
        return _BARE[name](options)
    if word in _FLAGS:
        return _FLAGS[word](options, allowed)
    if word in _IGNORED:
        return options
    raise InvalidLineError(f"has an unknown option {name}" if name not in _VALUES else f"has no value for {name}")


def _stack(options: Options, value: str) -> Options:
    return replace(options, stack=check_name(value, "stack="))


def _service(options: Options, value: str) -> Options:
    return replace(options, service=check_name(value, "service="))


def _expiry(options: Options, value: str) -> Options:
    match = _TIME.fullmatch(value)
    if match is None or (match[3] and not match[2]):
        raise InvalidLineError("has an expiry-time that is not YYYYMMDD[HHMM[SS]][Z]")
    try:
        moment = datetime.strptime(match[1] + (match[2] or "0000") + (match[3] or "00") + "+0000", "%Y%m%d%H%M%S%z")
        if not match[4]:
            moment = moment.replace(tzinfo=None).astimezone(UTC)
        expires = moment.timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidLineError("has an expiry-time that is no date") from None
    return replace(options, expires=expires if options.expires is None else min(options.expires, expires))


def _from(options: Options, value: str) -> Options:
    return replace(options, sources=read_addresses(value))


def read_addresses(text: str) -> tuple[AddressRule, ...]:
    """Read what `from=` and `source-address` hold: networks, addresses and patterns, with commas between.

    Raises:
        InvalidLineError: it is none, or only excludes.
    """
    rules = tuple(_address_rule(element) for element in text.split(","))
    if all(rule.negated for rule in rules):
        raise InvalidLineError("has a from= that only excludes, and so lets nobody in")
    return rules


def _address_rule(element: str) -> AddressRule:
    negated, pattern = element.startswith("!"), element.removeprefix("!")
    if "/" in pattern:
        try:
            return AddressRule(pattern, negated, ipaddress.ip_network(pattern))
        except ValueError:
            raise InvalidLineError("has a from= with a network that is not ADDRESS/LENGTH") from None
    address = parse_address(pattern)
    if address is not None:
        return AddressRule(str(address), negated, None)
    if _ADDRESS_PATTERN.fullmatch(pattern) is None:
        raise InvalidLineError("has a from= with something other than addresses: names are not looked up")
    return AddressRule(pattern.lower(), negated, None)


def _permit_open(options: Options, value: str) -> Options:
    match = _PERMIT_OPEN.fullmatch(value)
    address = parse_address(match[1]) if match and match[1] else None
    if match is None or (match[1] and address is None) or (match[3] != "*" and int(match[3]) > _HIGHEST_PORT):
        raise InvalidLineError("has a permitopen= that is not HOST:PORT")
    host = f"[{address}]" if match[1] else match[2].lower()
    return replace(options, permit_open=(*options.permit_open, f"{host}:{match[3]}"))


def _principals(options: Options, value: str) -> Options:
    names = tuple(value.split(","))
    if not all(_PRINCIPAL.fullmatch(name) for name in names):
        raise InvalidLineError("has a principals= that is not names with commas between")
    return replace(options, principals=names)


_FLAGS: dict[str, Callable[[Options, bool], Options]] = {
    "pty": lambda options, allowed: replace(options, may_pty=allowed),
    "port-forwarding": lambda options, allowed: replace(options, may_forward=allowed),
    "agent-forwarding": lambda options, allowed: replace(options, may_agent=allowed),
}
_BARE: dict[str, Callable[[Options], Options]] = {
    "cert-authority": lambda options: replace(options, is_authority=True),
    "no-touch-required": lambda options: replace(options, touch_required=False),
    "verify-required": lambda options: replace(options, verify_required=True),
}
_VALUES: dict[str, Callable[[Options, str], Options]] = {
    "stack": _stack,
    "service": _service,
    "expiry-time": _expiry,
    "from": _from,
    "permitopen": _permit_open,
    "principals": _principals,
}
