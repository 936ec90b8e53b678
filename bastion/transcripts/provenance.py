"""Hold the files of an unfinished transcript against what the ledger pins: is this what the bastion wrote?

The `opened` line pins the header of the age file and of the first write-ahead file. The keys inside them are known to
the bastion and the auditors alone, so that what decrypts behind a pinned header was written by one of them. A
checkpoint pins every byte up to a size; what lies behind it is unproven until an auditor decrypts it.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bastion.errors import TranscriptError
from bastion.transcripts import age
from bastion.transcripts.accounts import Account, Claim
from bastion.transcripts.layout import open_regular, signature_path
from bastion.transcripts.signing import COMPLETE, MAX_SIGNATURE_BYTES, UNCLEAN, Verifier
from bastion.transcripts.wal import read_wrap

Verdict = Literal[
    "good",
    "unclean",
    "open",
    "missing",
    "altered",
    "truncated",
    "unsigned",
    "re-signed",
    "unknown",
    "forged",
    "unproven",
    "broken chain",
]

_BLOCK_BYTES: Final = 2**20
_NO_LINE: Final = "the ledger has no `opened` line of it there"


class Unproven(Exception):
    """A transcript is not what the ledger says of it, or the ledger says nothing."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Proof:
    """The files of a transcript that extend what the ledger pins: size and SHA-256 of each, and how much is proven."""

    files: dict[str, Claim]
    proven: dict[str, int]

    def __str__(self) -> str:
        """Say up to which byte each file is proven, and what is not."""
        return ", ".join(
            f"{name} is proven up to byte {self.proven[name]}"
            + (f" and unproven after it, to byte {size}" if size > self.proven[name] else ", which is all of it")
            for name, (size, _) in self.files.items()
        )


@dataclass(frozen=True, slots=True)
class Digests:
    """A file's size, the SHA-256 of all of it, and those of its beginnings by their sizes."""

    size: int
    whole: str
    beginnings: dict[int, str]

    def match(self, claim: Claim) -> bool:
        """Tell whether the file begins as claimed."""
        return self.beginnings.get(claim[0]) == claim[1]


def hash_file(path: Path, sizes: Iterable[int] = ()) -> Digests:
    """Read a file once; return the digest of all of it and of its first n bytes for each size n that it has.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    beginnings = {}
    position = 0
    with open_regular(path) as file:
        end = os.fstat(file.fileno()).st_size  # it may grow while we read
        for size in sorted({size for size in sizes if size <= end} | {end}):
            while position < size and (block := file.read(min(_BLOCK_BYTES, size - position))):
                digest.update(block)
                position += len(block)
            if position == size:
                beginnings[size] = digest.hexdigest()
    return Digests(position, digest.hexdigest(), beginnings)


def prove(path: Path, parts: Sequence[Path], account: Account) -> Proof:
    """Return the proof that these are a session's own files, as the ledger pins them.

    Raises:
        Unproven: they are not, or the ledger pins nothing.
        OSError: a file cannot be read.
    """
    state = account.state
    if state is None:
        raise Unproven("unproven", "its `opened` line pins no beginning, and no checkpoint followed")
    pinned = account.begin.wal if account.begin is not None else {}
    by_name = {part.name: part for part in parts}
    files = {path.name: _prove_file(path, state.age, account.begin.age if account.begin is not None else None)}
    proven = {path.name: state.age[0]}
    wraps = set(account.wraps)
    for name, claim in state.wal.items():
        if name not in by_name:
            raise Unproven("truncated", f"{name} is not there, and the ledger has {claim[0]} bytes of it")
        files[name] = _prove_file(by_name[name], claim, pinned.get(name))
        proven[name] = claim[0]
        if wrap := wrap_digest(by_name[name]):
            wraps.add(wrap)
    for part in parts:
        if part.name not in files:
            require_wrap(part, wraps)
            digests = hash_file(part)
            files[part.name], proven[part.name] = (digests.size, digests.whole), 0
    return Proof(files, proven)


def _prove_file(path: Path, claim: Claim, beginning: Claim | None) -> Claim:
    digests = hash_file(path, [claim[0], *([beginning[0]] if beginning else [])])
    if beginning is not None and not digests.match(beginning) and digests.size >= beginning[0]:
        raise Unproven("forged", f"{path.name} does not begin as the bastion began it: it was replaced")
    if digests.size < claim[0]:
        raise Unproven("truncated", f"{path.name} has {digests.size} bytes of {claim[0]}")
    if not digests.match(claim):
        raise Unproven("altered", f"{path.name} is not what was written")
    return digests.size, digests.whole


def require_finished(path: Path, parts: Sequence[Path], account: Account) -> None:
    """Require that the files are those that the ledger has as closed or sealed.

    Raises:
        Unproven: they are not.
        OSError: a file cannot be read.
    """
    by_name = {part.name: part for part in parts} | {path.name: path}
    pinned = {path.name: account.begin.age, **account.begin.wal} if account.begin is not None else {}
    pledged = {path.name: account.state.age, **account.state.wal} if account.state is not None else {}
    names = account.files.keys() | pledged.keys() if account.last == "sealed" else account.files.keys()
    for name in sorted(names):
        claim = account.files.get(name)
        if claim is None:
            raise Unproven("truncated", f"{name} was not there when it was sealed, and the ledger has it before")
        if name not in by_name:
            raise Unproven("missing", f"{name} is not there")
        _require_file(by_name[name], claim, pinned.get(name), pledged.get(name))
    for part in parts:
        if account.last == "sealed" and part.name not in account.files:
            raise Unproven("altered", f"{part.name} was not there when it was sealed")
        if account.last == "closed" and account.begin is not None:
            require_wrap(part, account.wraps)


def _require_file(file: Path, claim: Claim, beginning: Claim | None, pledged: Claim | None) -> None:
    digests = hash_file(file, [one[0] for one in (claim, beginning, pledged) if one is not None])
    if beginning is not None and not digests.match(beginning) and digests.size >= beginning[0]:
        raise Unproven("forged", f"{file.name} does not begin as the bastion began it: it was replaced")
    if digests.size < claim[0]:
        raise Unproven("truncated", f"{file.name} has {digests.size} bytes of {claim[0]}")
    if digests.size > claim[0]:
        raise Unproven("altered", f"{file.name} has {digests.size} bytes and should have {claim[0]}")
    if not digests.match(claim):
        raise Unproven("altered", f"{file.name} is not what was written")
    # What was sealed may itself have been cut or changed between the crash and the start that sealed it.
    if pledged is not None and not digests.match(pledged):
        verdict: Verdict = "truncated" if digests.size < pledged[0] else "altered"
        raise Unproven(verdict, f"{file.name} was not what was written when it was sealed")


def require_wrap(part: Path, wraps: Iterable[str]) -> None:
    """Require that a write-ahead file begins with one of a session's wraps, or holds nothing.

    Raises:
        Unproven: it does not.
        OSError: it cannot be read.
    """
    wrap = wrap_digest(part)
    if wrap is not None and wrap not in wraps:
        raise Unproven("forged", f"{part.name} does not begin as a write-ahead file of this session")


def wrap_digest(part: Path) -> str | None:
    """Return the SHA-256 of a write-ahead file's wrap, None where the header is cut short, "" where it is malformed.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(part) as file:
        try:
            wrap = read_wrap(file)
        except TranscriptError:
            return ""
    return None if wrap is None else hashlib.sha256(wrap).hexdigest()


def holds_nothing(path: Path, parts: Sequence[Path]) -> bool:
    """Tell whether no record lies in these files: what a crash leaves before the `opened` line is written.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        with open_regular(path) as file:
            if age.has_payload(file):
                return False
        for part in parts:
            with open_regular(part) as file:
                if read_wrap(file) is not None and file.read(1):
                    return False
    except TranscriptError:
        return False
    return True


def judge_stranger(path: Path, parts: Sequence[Path], verifier: Verifier) -> None:
    """Require of a transcript without an `opened` line that no record lies in it: a crash left it before that line.

    Raises:
        Unproven: one does, or it is signed.
        OSError: a file cannot be read.
    """
    if is_signed(path, verifier, COMPLETE, UNCLEAN):
        raise Unproven("unknown", f"{_NO_LINE}, but it is signed: it is a copy, or the ledger was cut or replaced")
    if signature_path(path).exists() or not holds_nothing(path, parts):
        raise Unproven("forged", f"{_NO_LINE}: the bastion did not begin it")


def is_signed(path: Path, verifier: Verifier, *namespaces: str) -> bool:
    """Tell whether a transcript's signature is ours in one of these namespaces.

    Raises:
        OSError: a file cannot be read.
    """
    if not signature_path(path).exists():
        return False
    digest = hash_file(path).whole
    return any(check_signature(signature_path(path), digest, namespace, verifier) is None for namespace in namespaces)


def check_signature(signature: Path, digest: str, namespace: str, verifier: Verifier) -> tuple[Verdict, str] | None:
    """Return what is wrong with a signature over a file with that SHA-256, or None.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open_regular(signature) as file:
            armored = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return "unsigned", f"{signature.name} is not there"
    if len(armored) > MAX_SIGNATURE_BYTES:
        return "re-signed", f"{signature.name} is no signature"
    problem = verifier.verify_file(bytes.fromhex(digest), namespace, armored)
    return ("re-signed", f"{signature.name}: {problem}") if problem else None
