"""What is made for a user: a key with its line in the key home, or a certificate; each for a place and a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.keyring import changes, files, making
from bastion.keyring.home import private_keys
from bastion.keyring.making import IssuedKey
from bastion.keyring.names import check_user
from bastion.keyring.options import InvalidLineError, check_name, quote, read_addresses
from bastion.keyring.snapshot import Snapshot
from bastion.keyring.store import Store
from bastion.keyring.strength import judge

_BEHIND = 60  # seconds that another node's clock may be behind ours when it is shown a new certificate


@dataclass(frozen=True, slots=True)
class Order:
    """What a key is to be for; `expires` is how long from now, `sources` where it may be used: none is anywhere."""

    user: str
    stack: str | None
    service: str | None
    expires: timedelta | None
    sources: Sequence[str]


def issue(store: Store, order: Order, moment: float) -> IssuedKey:
    """Make an Ed25519 pair for a user and add its public half.

    Raises:
        ConfigurationError: the name, the place or the time cannot be, or the home cannot be written.
    """
    present = datetime.fromtimestamp(moment, UTC)
    until = None if order.expires is None else f"{_expiry(present, order.expires):%Y%m%d%H%M%SZ}"
    sources = ",".join(order.sources) or None
    options = {"stack": order.stack, "service": order.service, "expiry-time": until, "from": sources}
    bounds = ",".join(f"{name}={quote(value)}" for name, value in options.items() if value is not None)
    place = "@".join(filter(None, (order.service, order.stack)))
    key = making.make_pair()
    line = " ".join(filter(None, (bounds, making.public_text(key), order.user, place, f"{present:%Y-%m-%d}")))
    return IssuedKey(making.private_text(key), line, changes.add(store, judge, order.user, line))


def certify(home: Path, order: Order, moment: float, authority: str | None, snapshot: Snapshot) -> IssuedKey:
    """Make an Ed25519 pair and a certificate for a user, with the key ca/AUTHORITY, or the only one.

    `snapshot` is what is trusted now.

    Raises:
        ConfigurationError: a name, the time or an address cannot be, or there is no such authority that is trusted.
    """
    check_user(order.user)
    _check(order)
    key = _authority_key(home / "ca", authority)
    present = datetime.fromtimestamp(moment, UTC)
    until = present if order.expires is None else _expiry(present, order.expires)
    issued = making.certify(
        key,
        making.Bounds(
            user=order.user,
            valid_after=int(moment) - _BEHIND,
            valid_before=int(until.timestamp()),
            stack=order.stack,
            service=order.service,
            sources=order.sources,
        ),
    )
    trusted = {entry.key.fingerprint for lines in snapshot.authorities.values() for entry in lines}
    if issued.authority not in trusted - snapshot.revoked.keys:
        raise ConfigurationError(
            f"{key}: its certificates are not accepted here", f"its public half must be {key}.pub, and not revoked"
        )
    return issued


def _check(order: Order) -> None:
    if any(set(source) & set("!*?") for source in order.sources):
        raise ConfigurationError("a certificate is for addresses and networks, no patterns", "write 192.0.2.0/24")
    try:
        for value, what in ((order.stack, "stack"), (order.service, "service")):
            if value is not None:
                check_name(value, what)
        if order.sources:
            read_addresses(",".join(order.sources))
    except InvalidLineError as error:
        raise ConfigurationError(f"the certificate {error}", "give names, and networks such as 192.0.2.0/24") from error


def _authority_key(folder: Path, name: str | None) -> Path:
    try:
        chosen = [path for path in private_keys(folder) if name in {None, path.name}]
    except OSError as error:
        raise ConfigurationError(f"{folder}: {files.words(error)}", f"chmod 700 {folder}") from error
    if not chosen:
        words = f"no private key {name}" if name else "no private key"
        raise ConfigurationError(f"{folder}: holds {words}", "bastion keys init --ca makes one")
    if len(chosen) > 1:
        names = ", ".join(path.name for path in chosen)
        raise ConfigurationError(f"{folder}: holds several private keys", f"name one with --ca: {names}")
    return chosen[0]


def _expiry(present: datetime, expires: timedelta) -> datetime:
    if expires <= timedelta(0):
        raise ConfigurationError("a key cannot expire before it is issued", "give a time such as 90d")
    try:
        return present + expires
    except OverflowError:
        raise ConfigurationError("a key cannot expire that late", "give a time such as 90d") from None
