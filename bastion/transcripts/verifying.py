"""Hold the transcripts against the ledger and the signatures, with the public half of the signing key alone."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from bastion.errors import TranscriptError
from bastion.transcripts import ledger as ledgers
from bastion.transcripts.layout import LOCK, SUFFIX, UID, parts_of, signature_path, transcripts_in, uid_of
from bastion.transcripts.signing import COMPLETE, UNCLEAN, Verifier, file_digest

Verdict = Literal[
    "good", "unclean", "open", "missing", "altered", "truncated", "unsigned", "re-signed", "unknown", "broken chain"
]

GOOD: Final[frozenset[Verdict]] = frozenset({"good", "unclean", "open"})
_BLOCK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one transcript, or of one line of the ledger (then `uid` is empty)."""

    uid: str
    verdict: Verdict
    words: str

    @property
    def is_sound(self) -> bool:
        """Whether this is what an untouched directory shows; `unclean` is: a crash or a failure is no manipulation."""
        return self.verdict in GOOD


@dataclass(slots=True)
class _Account:
    path: str
    last: str = "opened"
    fields: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None


def verify(directory: Path, public_key: Path) -> list[Finding]:
    """Walk the ledger against the files; name everything that is not as it was written.

    Broken lines come first, then a finding for each transcript in the ledger's order, then files it does not know.

    Raises:
        ConfigurationError: the public key cannot be used.
        TranscriptError: there is no ledger, or a file cannot be read.
    """
    verifier = Verifier(public_key)
    try:
        accounts, findings = _walk(directory / ledgers.FILE, verifier)
        live = _is_live(directory)
        for uid, account in accounts.items():
            findings.append(Finding(uid, *_judge(directory, uid, account, verifier, live=live)))
        known = {uid: account.path for uid, account in accounts.items()}
        for path in transcripts_in(directory):
            relative = str(path.relative_to(directory))
            if known.get(uid_of(path)) != relative:
                findings.append(Finding(uid_of(path), "unknown", f"the ledger does not know {relative}"))
    except OSError as error:
        raise TranscriptError(
            f"cannot verify {directory}: {error.strerror}", "look at the modes of its files"
        ) from error
    return findings


def _walk(path: Path, verifier: Verifier) -> tuple[dict[str, _Account], list[Finding]]:
    accounts: dict[str, _Account] = {}
    findings = []
    for entry in ledgers.read(path, verifier):
        if entry.problem is not None:
            findings.append(Finding("", "broken chain", f"line {entry.number} of the ledger {entry.problem}"))
        _note(accounts, entry.fields)
    return accounts, findings


def _note(accounts: dict[str, _Account], fields: dict[str, Any]) -> None:
    event, uid = fields.get("event"), fields.get("uid")
    if event == "checkpoint":
        for changed, state in fields["sessions"].items():
            if changed in accounts:
                accounts[changed].checkpoint = state
    elif event == "opened" and _is_ours(uid, fields.get("path")):
        accounts.setdefault(str(uid), _Account(str(fields["path"])))
    elif event in ("closed", "sealed") and _is_ours(uid, fields.get("path")):
        account = accounts.setdefault(str(uid), _Account(str(fields["path"])))
        account.last, account.fields = str(event), fields


def _is_ours(uid: object, path: object) -> bool:
    return isinstance(uid, str) and isinstance(path, str) and UID.fullmatch(uid) is not None and _is_inside(path, uid)


def _is_inside(path: str, uid: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and pure.name == uid + SUFFIX


def _judge(directory: Path, uid: str, account: _Account, verifier: Verifier, *, live: bool) -> tuple[Verdict, str]:
    path = directory / account.path
    if not path.is_file():
        return "missing", f"{account.path} is not there"
    if account.last == "closed":
        return _judge_closed(path, account.fields, verifier)
    if account.last == "sealed":
        return _judge_sealed(path, account, verifier)
    if problem := _against_checkpoint(path, account.checkpoint):
        return problem
    if live and not signature_path(path).exists():
        return "open", "it is being written"
    return (
        "unclean",
        f"{uid} was never closed; it is as the last checkpoint says" if account.checkpoint else "it was never closed",
    )


def _judge_closed(path: Path, fields: dict[str, Any], verifier: Verifier) -> tuple[Verdict, str]:
    if problem := _against(path, fields["size"], fields["sha256"]):
        return problem
    return _against_signature(path, COMPLETE, verifier) or ("good", f"{fields['size']} bytes, complete and signed")


def _judge_sealed(path: Path, account: _Account, verifier: Verifier) -> tuple[Verdict, str]:
    files = account.fields["files"]
    for name, (size, digest) in files.items():
        file = path.with_name(PurePosixPath(name).name)
        if not file.is_file():
            return "missing", f"{name} is not there"
        if problem := _against(file, size, digest):
            return problem
    for part in parts_of(path):
        if part.name not in files:
            return "altered", f"{part.name} was not there when it was sealed"
    # what was sealed may itself have been cut between the crash and the next start
    if problem := _against_checkpoint(path, account.checkpoint):
        return problem
    return _against_signature(path, UNCLEAN, verifier) or ("unclean", f"sealed: {account.fields.get('reason')}")


def _against_checkpoint(path: Path, checkpoint: dict[str, Any] | None) -> tuple[Verdict, str] | None:
    if checkpoint is None:
        return None
    claims = {path.name: checkpoint["age"]} | checkpoint["wal"]
    for name, (size, digest) in claims.items():
        file = path.with_name(PurePosixPath(name).name)
        if not file.is_file():
            return "truncated", f"{name} is not there, and the last checkpoint has it"
        if problem := _against(file, size, digest, prefix=True):
            return problem
    return None


def _against(file: Path, size: int, digest: str, *, prefix: bool = False) -> tuple[Verdict, str] | None:
    found = file.stat().st_size
    if found < size:
        return "truncated", f"{file.name} has {found} bytes of {size}"
    if found > size and not prefix:
        return "altered", f"{file.name} has {found} bytes and should have {size}"
    if _prefix_digest(file, size) != digest:
        return "altered", f"{file.name} is not what was written"
    return None


def _against_signature(path: Path, namespace: str, verifier: Verifier) -> tuple[Verdict, str] | None:
    signature = signature_path(path)
    if not signature.is_file():
        return "unsigned", f"{signature.name} is not there"
    if signature.stat().st_size > _BLOCK:
        return "re-signed", f"{signature.name} is no signature"
    problem = verifier.verify_file(file_digest(path)[1], namespace, signature.read_bytes())
    return ("re-signed", f"{signature.name}: {problem}") if problem else None


def _prefix_digest(file: Path, size: int) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file, size):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while size and (block := opened.read(min(size, _BLOCK))):
            size -= len(block)
            yield block


def _is_live(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
