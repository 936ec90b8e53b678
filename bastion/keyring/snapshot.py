"""Reads users/ and revoked into one immutable picture of which key is whose, without the lines that are in doubt."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bastion.keyring.authorized_keys import AuthorizedKey, InvalidLineError, decode_key, fingerprint, parse
from bastion.keyring.files import public_fault, read
from bastion.model import Identity

USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

Judge = Callable[[AuthorizedKey], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, the user whose file it is in, and the place of its line; `number` counts from 1."""

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
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The key home at one moment.

    `entries` is every well-formed line, `accepted` those of them that may let somebody in, by blob, and `fingerprints`
    the same by fingerprint. While `closed`, nobody is let in, since it is not known what is revoked.
    """

    entries: tuple[Entry, ...] = ()
    accepted: Mapping[bytes, Entry] = field(default_factory=dict)
    fingerprints: Mapping[str, Entry] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    closed: bool = False
    problems: tuple[str, ...] = ()


def stamp(home: Path) -> tuple[object, ...]:
    """Return what changes whenever a file that `take` reads does: cheap, by stat only, never raising."""
    users = home / "users"
    try:
        names = sorted(path.name for path in users.iterdir())
    except OSError as error:
        return (error.errno, _stat(home / "revoked"))
    folder = _stat(users)
    return (folder and folder[:3], _stat(home / "revoked"), *((name, _stat(users / name)) for name in names))


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
    revoked, closed = _read_revoked(home / "revoked", before, problems)
    holders: defaultdict[bytes, list[Entry]] = defaultdict(list)
    for entry in entries:
        holders[entry.key.blob].append(entry)
    for same in holders.values():
        if len(same) > 1:
            places = [f"{entry.path}:{entry.number}" for entry in same]
            others = places[1:] + places[:1]
            problems += [f"{at}: the same key is also in {other}" for at, other in zip(places, others, strict=True)]
    accepted = {blob: same[0] for blob, same in holders.items() if len(same) == 1}
    fingerprints = {entry.key.fingerprint: entry for entry in accepted.values()}
    return Snapshot(tuple(entries), accepted, fingerprints, revoked, closed, tuple(problems))


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
        yield from _read_user(path, judge, problems)


def _read_user(path: Path, judge: Judge, problems: list[str]) -> Iterator[Entry]:
    """Give the well-formed lines of one user's file; what is wrong is added to the problems."""
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
                yield Entry(path.stem, key, path, number)
        except InvalidLineError as error:
            problems.append(f"{path}:{number}: {error}")


def _read_revoked(path: Path, before: Snapshot, problems: list[str]) -> tuple[frozenset[str], bool]:
    try:
        lines = read(path).split(b"\n")
    except FileNotFoundError:
        if before.revoked:
            problems.append(f"{path}: is gone; nobody is let in until it is back")
        return before.revoked, bool(before.revoked)
    except OSError as error:
        problems.append(
            f"{path}: {(error.strerror or 'cannot be read').lower()}; nobody is let in until it can be read"
        )
        return before.revoked, True
    revoked: set[str] = set()
    closed = False
    for number, line in enumerate(lines, 1):
        try:
            revoked |= _revoked_key(line)
        except InvalidLineError as error:
            closed = True
            problems.append(f"{path}:{number}: {error}; nobody is let in until it is mended")
    return (frozenset(revoked) | before.revoked if closed else frozenset(revoked)), closed


def _revoked_key(line: bytes) -> set[str]:
    """Read a SHA256 fingerprint or a public key; what stands behind it on the line is a comment."""
    words = line.decode("ascii", "replace").split()
    if not words or words[0].startswith("#"):
        return set()
    if FINGERPRINT.fullmatch(words[0]):
        return {words[0]}
    if len(words) > 1:
        return {fingerprint(decode_key(words[0], words[1]))}
    raise InvalidLineError("is neither a SHA256 fingerprint nor a public key")
