"""Reads users/, ca/ and revoked into one immutable picture of which key is whose, without the lines in doubt."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bastion.keyring.authorized_keys import AuthorizedKey, parse
from bastion.keyring.files import public_fault, read, visible
from bastion.keyring.options import InvalidLineError
from bastion.keyring.revoked import NOTHING, Revoked, read_revoked
from bastion.model import Identity

USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Judge = Callable[[AuthorizedKey], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, the user whose file it is in, and the place of its line; `number` counts from 1.

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

    `entries` is every well-formed line of a user, `accepted` those of them that may let somebody in, by blob, and
    `fingerprints` the same by fingerprint. `authorities` are the lines that trust who signs certificates, by blob.
    While `closed`, nobody is let in, since it is not known what is revoked.
    """

    entries: tuple[Entry, ...] = ()
    accepted: Mapping[bytes, Entry] = field(default_factory=dict)
    fingerprints: Mapping[str, Entry] = field(default_factory=dict)
    authorities: Mapping[bytes, tuple[Entry, ...]] = field(default_factory=dict)
    revoked: Revoked = NOTHING
    closed: bool = False
    problems: tuple[str, ...] = ()


def stamp(home: Path) -> tuple[object, ...]:
    """Return what changes whenever a file that `take` reads does: cheap, by stat only, never raising."""
    return (_stat(home / "revoked"), *(_folder_stamp(home / name) for name in ("users", "ca")))


def _folder_stamp(path: Path) -> tuple[object, ...]:
    try:
        names = sorted(file.name for file in path.iterdir())
    except OSError as error:
        return (error.errno,)
    folder = _stat(path)
    return (folder and folder[:3], *((name, _stat(path / name)) for name in names))


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mode, found.st_uid, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def take(home: Path, judge: Judge, before: Snapshot) -> Snapshot:
    """Read the key home; `judge` raises InvalidLineError for a key that is too weak. Never raises.

    A file that cannot be read is a file without keys. When the list of revoked keys cannot be read, what was revoked
    `before` stays revoked and nobody is let in.
    """
    problems: list[str] = []
    entries = list(_read_users(home / "users", judge, problems))
    trusted = [entry for entry in entries if entry.key.options.is_authority]
    trusted += _read_authorities(home / "ca", judge, problems)
    revoked, closed = read_revoked(home / "revoked", before.revoked, problems)
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
    authorities: dict[bytes, tuple[Entry, ...]] = {}
    for entry in trusted:
        authorities[entry.key.blob] = (*authorities.get(entry.key.blob, ()), entry)
    return Snapshot(tuple(entries), accepted, fingerprints, authorities, revoked, closed, tuple(problems))


def _read_users(folder: Path, judge: Judge, problems: list[str]) -> Iterator[Entry]:
    if wrong := public_fault(folder):
        problems.append(f"{folder}: {wrong}")
        return
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.append(f"{folder}: {(error.strerror or 'cannot be read').lower()}")
        return
    for path in paths:
        if path.suffix != ".pub" or not USER.fullmatch(path.stem):
            problems.append(f"{folder}: {path.name!a} is not NAME.pub and is left out")
            continue
        yield from _read_lines(path, path.stem, judge, problems)


def _read_authorities(folder: Path, judge: Judge, problems: list[str]) -> Iterator[Entry]:
    """Give the lines of ca/*.pub, whether they say cert-authority or not; private keys may lie beside them."""
    if not folder.exists():
        return
    if wrong := public_fault(folder):
        problems.append(f"{folder}: {wrong}")
        return
    for path in visible(folder):
        if path.suffix != ".pub":
            continue
        for entry in _read_lines(path, "", judge, problems):
            yield replace(entry, key=replace(entry.key, options=replace(entry.key.options, is_authority=True)))


def _read_lines(path: Path, user: str, judge: Judge, problems: list[str]) -> Iterator[Entry]:
    """Give the well-formed lines of one file; what is wrong is added to the problems."""
    try:
        lines = read(path).split(b"\n")
    except OSError as error:
        problems.append(f"{path}: {(error.strerror or 'cannot be read').lower()}")
        return
    for number, line in enumerate(lines, 1):
        try:
            key = parse(line)
            if key is not None:
                judge(key)
                yield Entry(user, key, path, number)
        except InvalidLineError as error:
            problems.append(f"{path}:{number}: {error}")
