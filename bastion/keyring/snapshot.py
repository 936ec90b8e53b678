"""Judges users' lines, ca/ and what is revoked: one immutable picture of which key is whose, less what is in doubt."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

from bastion.keyring.authorized_keys import AuthorizedKey, parse
from bastion.keyring.options import InvalidLineError
from bastion.keyring.revoked import NOTHING, Revoked, read_revoked
from bastion.keyring.store import Contents, Line
from bastion.model import Identity

Judge = Callable[[AuthorizedKey], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, the user whose it is, and the place of its line; `number` counts from 1.

    The user of an authority in ca/ is empty: whom it speaks of its certificates say.
    """

    user: str
    key: AuthorizedKey
    path: Path
    number: int

    def identity(self, client_address: str) -> Identity:
        """Return who is at the other end when this key's signature verified."""
        options = self.key.options
        return Identity(
            user=self.user,
            key_fingerprint=self.key.fingerprint,
            client_address=client_address,
            key_stack=options.stack,
            key_service=options.service,
            may_pty=options.may_pty,
            may_forward=options.may_forward,
            permit_open=options.permit_open,
            may_agent=options.may_agent,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The key home at one moment.

    - `entries`: every well-formed line of a user.
    - `accepted`: the entries that may admit a user, by blob; `fingerprints`: the same entries by fingerprint.
    - `authorities`: the lines of trusted certificate authorities, by blob.
    - `closed`: nobody is admitted, since the revocation list is unknown.
    - `unread`: the files whose lines are those of an earlier reading.
    """

    entries: tuple[Entry, ...] = ()
    accepted: Mapping[bytes, Entry] = field(default_factory=dict)
    fingerprints: Mapping[str, Entry] = field(default_factory=dict)
    authorities: Mapping[bytes, tuple[Entry, ...]] = field(default_factory=dict)
    revoked: Revoked = NOTHING
    closed: bool = False
    problems: tuple[str, ...] = ()
    unread: frozenset[Path] = frozenset()

    def without(self, paths: AbstractSet[Path]) -> "Snapshot":
        """Return the same snapshot, except that the lines of these files admit nobody."""
        if not paths:
            return self
        lines_of = {
            blob: tuple(e for e in entries if e.path not in paths) for blob, entries in self.authorities.items()
        }
        return replace(
            self,
            accepted={blob: entry for blob, entry in self.accepted.items() if entry.path not in paths},
            authorities={blob: entries for blob, entries in lines_of.items() if entries},
        )


def take(contents: Contents, judge: Judge, before: Snapshot, *, authorities: Contents | None = None) -> Snapshot:
    """Judge the lines of users and of authorities; `judge` raises InvalidLineError for a weak key. Never raises.

    When the revocation list is in doubt, the revocations of `before` stay in force and nobody is admitted.
    """
    problems = list(contents.problems)
    entries = list(_entries(contents.users, judge, problems))
    trusted = [entry for entry in entries if entry.key.options.is_authority]
    authorities = authorities or Contents()
    problems += authorities.problems
    for entry in _entries(authorities.users, judge, problems):
        options = replace(entry.key.options, is_authority=True)  # whether the line says so or not
        trusted.append(replace(entry, key=replace(entry.key, options=options)))
    revoked, closed = read_revoked(contents, before.revoked, problems)
    holders: defaultdict[bytes, list[Entry]] = defaultdict(list)
    for entry in entries:
        if not entry.key.options.is_authority:
            holders[entry.key.blob].append(entry)
    for same in holders.values():
        if len(same) > 1:
            places = [f"{entry.path}:{entry.number}" for entry in same]
            others = places[1:] + places[:1]
            problems += [f"{at}: the same key is also in {other}" for at, other in zip(places, others, strict=True)]
    accepted = {blob: same[0] for blob, same in holders.items() if len(same) == 1}
    fingerprints = {entry.key.fingerprint: entry for entry in accepted.values()}
    trust: dict[bytes, tuple[Entry, ...]] = {}
    for entry in trusted:
        trust[entry.key.blob] = (*trust.get(entry.key.blob, ()), entry)
    unread = contents.unread | authorities.unread
    return Snapshot(tuple(entries), accepted, fingerprints, trust, revoked, closed, tuple(problems), unread)


def _entries(lines: Iterable[Line], judge: Judge, problems: list[str]) -> Iterator[Entry]:
    """Give the well-formed lines; what is wrong is added to the problems."""
    for line in lines:
        try:
            key = parse(line.text)
            if key is not None:
                judge(key)
                yield Entry(line.user, key, line.path, line.number)
        except InvalidLineError as error:
            problems.append(f"{line}: {error}")
