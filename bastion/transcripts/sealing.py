"""Sign what there is of a transcript: a finished one as complete, what a crash or a failure left as unclean.

Only what the ledger proves is signed. Everything else is left as it lies, and named.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bastion.transcripts import ledger as ledgers
from bastion.transcripts.accounts import Account, Accounts, Claim, read_accounts
from bastion.transcripts.layout import Parts, signature_path, transcripts_in, uid_of
from bastion.transcripts.provenance import (
    Unproven,
    Verdict,
    check_signature,
    judge_stranger,
    prove,
    require_finished,
    wrap_digest,
)
from bastion.transcripts.signing import COMPLETE, UNCLEAN, Signer, Verifier

MAX_NAMED: Final = 100  # transcripts that one ledger line names; whoever invents more adds to its count only


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A transcript that was left without our signature, and why."""

    uid: str
    path: str
    verdict: Verdict
    reason: str


def write_signature(path: Path, signature: bytes) -> None:
    """Put a signature beside its transcript, all of it or nothing, and bring both names to the disk.

    Raises:
        OSError: the volume did not take it.
    """
    target = signature_path(path)
    partial = target.with_suffix(".sig.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.write(signature)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk.

    Raises:
        OSError: the volume did not take it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(path: Path, files: Mapping[str, Claim], signer: Signer, ledger: ledgers.Ledger, reason: str) -> None:
    """Sign an unfinished transcript as unclean, and put every file of it on the ledger with its size and SHA-256.

    `files` is what `prove` read, so that what is signed is what was proven, whatever lies there by now.

    Raises:
        OSError: the volume did not take the signature.
        RecordingFailed: the ledger did not take the line.
    """
    write_signature(path, signer.sign_file(bytes.fromhex(files[path.name][1]), UNCLEAN))
    relative = str(path.relative_to(ledger.path.parent))
    ledger.write("sealed", {"uid": uid_of(path), "path": relative, "files": files, "reason": reason})


def seal_leftovers(directory: Path, signer: Signer, ledger: ledgers.Ledger) -> list[Unsealed]:
    """Seal every transcript that a crash left unfinished, and finish the removal of what was closed before it.

    Returns what is not sealed because the ledger does not prove it; it is on the ledger too, in one line.

    Raises:
        OSError: the ledger cannot be read, a file cannot be removed, or the volume did not take a signature.
        RecordingFailed: the ledger did not take a line.
    """
    folders = Parts()
    leftovers = {
        path: parts
        for path in transcripts_in(directory)
        if (parts := folders.of(path)) or not signature_path(path).exists()
    }
    if not leftovers:
        return []
    verifier = signer.verifier()
    accounts = read_accounts(ledgers.read(ledger.path, verifier), map(uid_of, leftovers))
    leftover = _Leftovers(directory, signer, verifier, ledger, accounts)
    unsealed = []
    for path, parts in leftovers.items():
        try:
            leftover.settle(path, parts)
        except Unproven as error:
            relative = str(path.relative_to(directory))
            unsealed.append(Unsealed(uid_of(path), relative, error.verdict, error.reason))
    if unsealed:
        _note_unsealed(ledger, unsealed, verifier)
    return unsealed


class _Leftovers:
    def __init__(
        self, directory: Path, signer: Signer, verifier: Verifier, ledger: ledgers.Ledger, accounts: Accounts
    ) -> None:
        self._directory = directory
        self._signer = signer
        self._verifier = verifier
        self._ledger = ledger
        self._accounts = accounts

    def settle(self, path: Path, parts: Sequence[Path]) -> None:
        """Seal one transcript, or close it where that is what a crash interrupted.

        Raises:
            Unproven: the ledger does not prove that it is ours.
        """
        account = self._accounts.of.get(uid_of(path))
        try:
            if account is None or not account.opened or account.path != str(path.relative_to(self._directory)):
                self._settle_stranger(path, parts)
            elif account.last == "opened":
                self._settle_open(path, parts, account)
            elif not signature_path(path).exists():
                _reading(require_finished, path, parts, account)
                raise Unproven("unsigned", f"the ledger has it {account.last}, and its signature is not there")
            elif account.last == "closed":
                _remove_closed_parts(parts, account)
        except (UnreadableFile, IsADirectoryError) as error:
            raise Unproven("unproven", str(error)) from error

    def _settle_stranger(self, path: Path, parts: Sequence[Path]) -> None:
        _reading(judge_stranger, path, parts, self._verifier)
        for file in (*parts, path):
            file.unlink()

    def _settle_open(self, path: Path, parts: Sequence[Path], account: Account) -> None:
        if self._accounts.last_break >= account.opened:
            raise Unproven(
                "unproven", f"line {self._accounts.last_break} of the ledger breaks the chain behind its `opened` line"
            )
        proof = _reading(prove, path, parts, account)
        size, digest = proof.files[path.name]
        if _reading(check_signature, signature_path(path), digest, COMPLETE, self._verifier) is None:
            # It was signed as complete, and the bastion was killed before the ledger had it.
            fields = {"uid": uid_of(path), "path": account.path, "size": size, "sha256": digest}
            self._ledger.write("closed", fields | {"reason": "signed before the bastion was killed"})
            _remove_closed_parts(parts, account)
        else:
            seal(path, proof.files, self._signer, self._ledger, "the bastion ended while it was open")


class UnreadableFile(Exception):
    """A file of a transcript cannot be read; it is not taken for one that is gone."""


def _reading(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except OSError as error:
        raise UnreadableFile(f"{Path(str(error.filename)).name} cannot be read: {error.strerror}") from error


def _remove_closed_parts(parts: Sequence[Path], account: Account) -> None:
    """Remove the write-ahead files that were still there when a crash interrupted the closing, and no others."""
    foreign = []
    for part in parts:
        if account.begin is None or _reading(wrap_digest, part) in {None, *account.wraps}:
            part.unlink()
        else:
            foreign.append(part.name)
    if foreign:
        raise Unproven("forged", f"{', '.join(foreign[:3])} is not of this session, which is closed")


def _note_unsealed(ledger: ledgers.Ledger, unsealed: Sequence[Unsealed], verifier: Verifier) -> None:
    """Name them in one line, unless the last such line says the same: a start adds nothing that is known."""
    named = [
        {"uid": one.uid, "path": one.path, "verdict": one.verdict, "reason": one.reason} for one in unsealed[:MAX_NAMED]
    ]
    last: dict[str, Any] = {}
    for entry in ledgers.read(ledger.path, verifier):
        if entry.fields.get("event") == "not sealed":
            last = entry.fields
    if (last.get("transcripts"), last.get("count")) != (named, len(unsealed)):
        ledger.write("not sealed", {"count": len(unsealed), "transcripts": named})
