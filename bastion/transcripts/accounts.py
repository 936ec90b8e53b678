"""What the signed lines of the ledger say of each session: one account a session."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from bastion.transcripts.layout import SUFFIX, UID
from bastion.transcripts.ledger import Entry

Claim = tuple[int, str]
"""How many bytes, from a file's first on, and their SHA-256 in hexadecimal."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_REASON_CHARACTERS: Final = 200


class MalformedLine(ValueError):
    """A signed line does not have the members of its event."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a session's files had come: claims about the age file and, by name, the write-ahead files.

    `wraps` holds the SHA-256 of each wrap with which a write-ahead file of this session may begin.
    """

    age: Claim
    wal: dict[str, Claim]
    wraps: tuple[str, ...] = ()

    def as_fields(self) -> dict[str, object]:
        """Return the members of a ledger line."""
        fields: dict[str, object] = {"age": self.age, "wal": self.wal}
        return fields | {"wraps": self.wraps} if self.wraps else fields


@dataclass(slots=True)
class Account:
    """One session as the ledger has it.

    `opened` is the number of its `opened` line, 0 without one; `begin` what that line pins, None where a version
    wrote it that pinned nothing; `files` what `closed` or `sealed` says of each file.
    """

    path: str
    opened: int = 0
    begin: State | None = None
    checkpoint: State | None = None
    wraps: frozenset[str] = frozenset()
    last: Literal["opened", "closed", "sealed"] = "opened"
    files: dict[str, Claim] = field(default_factory=dict)
    reason: str = ""
    forgery: str = ""

    @property
    def state(self) -> State | None:
        """How far the files of the session came at least, as the ledger has it; None where it says nothing."""
        return self.checkpoint or self.begin


@dataclass(slots=True)
class Accounts:
    """Every account, in the ledger's order; or those of the `wanted` uids only."""

    wanted: frozenset[str] | None = None
    of: dict[str, Account] = field(default_factory=dict)
    last_break: int = 0

    def note(self, entry: Entry) -> None:
        """Take one line of the ledger into account.

        Raises:
            MalformedLine: it is signed, and its members are not those of its event.
        """
        if entry.problem is not None:
            self.last_break = entry.number
        event, uid = entry.fields.get("event"), entry.fields.get("uid")
        if event == "checkpoint":
            self._checkpoint(entry.fields)
        elif event in ("opened", "closed", "sealed") and self._wants(uid):
            path = entry.fields.get("path")
            if not isinstance(uid, str) or not isinstance(path, str) or not _is_transcript(path, uid):
                raise MalformedLine(f"is signed, and its path is not one of a transcript: {event}")
            if event == "opened":
                self._open(entry.number, uid, path, entry.fields)
            elif event == "closed":
                self._close(uid, path, entry.fields)
            else:
                self._seal(uid, path, entry.fields)

    def _wants(self, uid: object) -> bool:
        return self.wanted is None or uid in self.wanted

    def _checkpoint(self, fields: dict[str, Any]) -> None:
        for uid, value in _mapping(fields.get("sessions")).items():
            account = self.of.get(uid)
            if account is not None and account.last == "opened":
                account.checkpoint = read_state(uid, value)
                account.wraps |= frozenset(account.checkpoint.wraps)

    def _open(self, number: int, uid: str, path: str, fields: dict[str, Any]) -> None:
        account = self.of.setdefault(uid, Account(path))
        if account.opened:
            account.forgery = "the ledger has two `opened` lines of it"
            return
        account.opened = number
        if "beginning" in fields:
            account.begin = read_state(uid, fields["beginning"])
            account.wraps |= frozenset(account.begin.wraps)

    def _close(self, uid: str, path: str, fields: dict[str, Any]) -> None:
        account = self.of.setdefault(uid, Account(path))
        if account.last == "sealed":
            account.forgery = "the ledger has it `closed` after `sealed`"
        account.last = "closed"
        account.files = {uid + SUFFIX: _claim([fields.get("size"), fields.get("sha256")])}
        account.checkpoint = None

    def _seal(self, uid: str, path: str, fields: dict[str, Any]) -> None:
        account = self.of.setdefault(uid, Account(path))
        if not account.opened:
            account.forgery = "the ledger has it `sealed`, and never `opened`"
        elif account.last == "closed":
            account.forgery = "the ledger has it `sealed` after `closed`"
        account.last = "sealed"
        account.files = _claims(uid, fields.get("files"), with_age=True)
        if uid + SUFFIX not in account.files:
            raise MalformedLine("is signed, and seals no transcript")
        account.reason = str(fields.get("reason"))[:_MAX_REASON_CHARACTERS]


def read_accounts(entries: Iterable[Entry], uids: Iterable[str] | None = None) -> Accounts:
    """Return the accounts of these sessions, or of all; a malformed line counts as a break of the chain.

    Raises:
        OSError: the ledger cannot be read.
    """
    accounts = Accounts(None if uids is None else frozenset(uids))
    for entry in entries:
        try:
            accounts.note(entry)
        except MalformedLine:
            accounts.last_break = entry.number
    return accounts


def read_state(uid: str, value: object) -> State:
    """Return a session's state from a ledger line's member.

    Raises:
        MalformedLine: it is none.
    """
    fields = _mapping(value)
    wraps = fields.get("wraps", [])
    if not isinstance(wraps, list) or not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in wraps):
        raise MalformedLine("is signed, and its wraps are malformed")
    return State(_claim(fields.get("age")), _claims(uid, fields.get("wal")), tuple(wraps))


def _is_transcript(path: str, uid: str) -> bool:
    pure = PurePosixPath(path)
    return (
        UID.fullmatch(uid) is not None
        and not pure.is_absolute()
        and ".." not in pure.parts
        and "\0" not in path
        and pure.name == uid + SUFFIX
    )


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedLine("is signed, and a member is no object")
    return value


def _claims(uid: str, value: object, *, with_age: bool = False) -> dict[str, Claim]:
    claims = {}
    for name, claim in _mapping(value).items():
        stem, _, number = name.removesuffix(".wal").rpartition(".")
        is_part = name.endswith(".wal") and stem == uid and number.isascii() and number.isdecimal()
        if not is_part and not (with_age and name == uid + SUFFIX):
            raise MalformedLine("is signed, and names a file of another session")
        claims[name] = _claim(claim)
    return claims


def _claim(value: object) -> Claim:
    match value:
        case [int(size), str(digest)] if 0 <= size < 2**63 and not isinstance(size, bool) and _SHA256.fullmatch(digest):
            return size, digest
    raise MalformedLine("is signed, and a size or a digest is malformed")
