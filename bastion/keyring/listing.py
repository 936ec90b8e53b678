"""A line of the key home as people read it: whose key it is, what it opens, and whether it is still good."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bastion.keyring.snapshot import Entry, Snapshot

State = Literal["good", "expired", "revoked", "duplicate", "authority"]


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One key of one user, for people to read; `path` and `line` say where its line is.

    Of a line in the database the path is `database`, the line its row's number.
    """

    user: str
    fingerprint: str
    key_type: str
    comment: str
    stack: str | None
    service: str | None
    expires: datetime | None
    state: State
    path: Path
    line: int


def listed(snapshot: Snapshot, entry: Entry, moment: float) -> ListedKey:
    """Return what there is to say of a line at a moment, in seconds since the epoch."""
    key, options = entry.key, entry.key.options
    return ListedKey(
        user=entry.user,
        fingerprint=key.fingerprint,
        key_type=key.key_type,
        comment=key.comment,
        stack=options.stack,
        service=options.service,
        expires=None if options.expires is None else datetime.fromtimestamp(options.expires, UTC),
        state=_state(snapshot, entry, moment),
        path=entry.path,
        line=entry.number,
    )


def _state(snapshot: Snapshot, entry: Entry, moment: float) -> State:
    options = entry.key.options
    if entry.key.fingerprint in snapshot.revoked.keys:
        return "revoked"
    if not options.is_authority and entry.key.blob not in snapshot.accepted:
        return "duplicate"
    if options.expires is not None and moment > options.expires:
        return "expired"
    return "authority" if options.is_authority else "good"
