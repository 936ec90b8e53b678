"""Changes to users' keys and to what is revoked: a line is added, a key is revoked, all is taken over elsewhere."""

from dataclasses import dataclass

from bastion.errors import ConfigurationError
from bastion.keyring.authorized_keys import AuthorizedKey, parse
from bastion.keyring.names import check_user
from bastion.keyring.options import InvalidLineError
from bastion.keyring.revoked import FINGERPRINT, read_line
from bastion.keyring.snapshot import Entry, Judge, Snapshot, take
from bastion.keyring.store import Change, Contents, Store


@dataclass(slots=True)
class Copied:
    """What was new to where it was copied to: each key as its user and fingerprint, and lines of what is revoked.

    `problems` are what was left behind, and why.
    """

    keys: list[tuple[str, str]]
    revoked: list[str]
    problems: list[str]


def add(store: Store, judge: Judge, user: str, public_line: str) -> str:
    """Add a line to a user's and return the key's fingerprint.

    Raises:
        ConfigurationError: the name or the line is not accepted, the key is there already or revoked.
    """
    check_user(user)
    line = public_line.strip().encode("utf-8", "replace")
    key = _acceptable(line, judge)

    def decide(contents: Contents) -> Change:
        _refuse_known(_judged(contents, judge), user, key)
        return Change(added=[(user, line)])

    store.change(decide)
    return key.fingerprint


def revoke(store: Store, judge: Judge, whom: str, stack: str | None) -> list[str]:
    """Revoke the key of a fingerprint, or every key of a user, or those of the user that are bound to a stack.

    A fingerprint that nobody holds is revoked all the same. An authority that is trusted for a user is not revoked with
    the user, since others may trust it too: its line is removed.

    Raises:
        ConfigurationError: there is no such key, or the store cannot be written.
    """
    by_fingerprint = FINGERPRINT.fullmatch(whom) is not None
    if not by_fingerprint:
        check_user(whom)
    fingerprints: list[str] = []

    def decide(contents: Contents) -> Change:
        snapshot = _judged(contents, judge)
        doomed = [entry for entry in snapshot.entries if _is_meant(entry, whom, stack, by_fingerprint=by_fingerprint)]
        fingerprints[:] = sorted({entry.key.fingerprint for entry in doomed} | ({whom} if by_fingerprint else set()))
        if not fingerprints:
            raise ConfigurationError(f"{whom} has no such key", "bastion keys list shows every key")
        own = {entry.key.fingerprint for entry in doomed if not entry.key.options.is_authority}
        gone = fingerprints if by_fingerprint else sorted(own)
        comment = "" if by_fingerprint else f" {whom}"
        lost = {
            (entry.path, entry.number) for entry in snapshot.entries if entry in doomed or entry.key.fingerprint in gone
        }
        return Change(
            revoked=[f"{one}{comment}" for one in gone if one not in snapshot.revoked.keys],
            removed=[line for line in contents.users if (line.path, line.number) in lost],
        )

    store.change(decide)
    return fingerprints


def revoke_certificates(store: Store, line: str) -> None:
    """Add a line about certificates to the list of what is revoked, unless it is there.

    Raises:
        ConfigurationError: the store cannot be written.
    """
    store.change(
        lambda contents: Change(revoked=[line] if line.encode() not in {one.text for one in contents.revoked} else [])
    )


def copy(source: Store, target: Store, judge: Judge) -> Copied:
    """Copy what is revoked and users' keys that are good there; what the target has stays as it is.

    Raises:
        ConfigurationError: it is in doubt what is revoked at either, or the target cannot be written.
    """
    kept = source.read()
    ours = _judged(kept, judge)
    if ours.closed:
        raise ConfigurationError("it is not known which keys are revoked", ours.problems[-1])
    texts = {(line.path, line.number): line.text.strip() for line in kept.users}
    copied = Copied([], [], [])

    def decide(contents: Contents) -> Change:
        theirs = _judged(contents, judge)
        if theirs.closed:
            raise ConfigurationError("it is not known which keys are revoked there", theirs.problems[-1])
        copied.problems[:] = ours.problems
        added = []
        for entry in _new(ours, theirs, copied.problems):
            copied.keys.append((entry.user, entry.key.fingerprint))
            added.append((entry.user, texts[entry.path, entry.number]))
        for line in kept.revoked:
            if read_line(line.text) | theirs.revoked != theirs.revoked:
                copied.revoked.append(line.text.decode().strip())
        return Change(added=added, revoked=copied.revoked)

    target.change(decide)
    return copied


def _new(ours: Snapshot, theirs: Snapshot, problems: list[str]) -> list[Entry]:
    """Return the lines that the others lack and may have."""
    new = []
    holders: dict[tuple[bytes, bool], list[str]] = {}
    for entry in theirs.entries:
        holders.setdefault((entry.key.blob, entry.key.options.is_authority), []).append(entry.user)
    revoked = ours.revoked.keys | theirs.revoked.keys
    for entry in ours.entries:
        is_authority = entry.key.options.is_authority
        users = holders.get((entry.key.blob, is_authority), [])
        if entry.key.fingerprint in revoked or entry.user in users:
            continue
        if not is_authority and (users or entry.key.blob not in ours.accepted):
            if users:
                problems.append(f"{entry.path}:{entry.number}: the same key is {users[0]}'s there")
            continue
        holders.setdefault((entry.key.blob, is_authority), []).append(entry.user)
        new.append(entry)
    return new


def _judged(contents: Contents, judge: Judge) -> Snapshot:
    return take(contents, judge, Snapshot())


def _acceptable(line: bytes, judge: Judge) -> AuthorizedKey:
    hint = "give one line such as ssh-keygen writes into a .pub file"
    try:
        key = parse(line)
        if key is not None:
            judge(key)
    except InvalidLineError as error:
        raise ConfigurationError(f"the line {error}", hint) from error
    if key is None:
        raise ConfigurationError("the line is empty or a comment", hint)
    return key


def _refuse_known(snapshot: Snapshot, user: str, key: AuthorizedKey) -> None:
    """Refuse a key that is on a line already; an authority may speak of several users."""
    if key.fingerprint in snapshot.revoked.keys:
        raise ConfigurationError(f"the key {key.fingerprint} was revoked", "make a new key: bastion keys issue")
    for entry in snapshot.entries:
        is_authority = key.options.is_authority
        if (
            entry.key.blob == key.blob
            and entry.key.options.is_authority == is_authority
            and (entry.user == user or not is_authority)
        ):
            raise ConfigurationError(
                f"the key {key.fingerprint} is already in {entry.path}:{entry.number}",
                "one key is one line of one user; remove that line first",
            )


def _is_meant(entry: Entry, whom: str, stack: str | None, *, by_fingerprint: bool) -> bool:
    if by_fingerprint:
        return entry.key.fingerprint == whom
    return entry.user == whom and stack in {None, entry.key.options.stack}
