"""Hold the transcripts against the ledger and the signatures, with the public half of the signing key alone."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bastion.errors import TranscriptError
from bastion.transcripts import ledger as ledgers
from bastion.transcripts.accounts import Account, Accounts, MalformedLine, read_accounts
from bastion.transcripts.layout import LOCK, Parts, signature_path, transcripts_in, uid_of
from bastion.transcripts.provenance import (
    Proof,
    Unproven,
    Verdict,
    check_signature,
    hash_file,
    holds_nothing,
    is_signed,
    judge_stranger,
    prove,
    require_finished,
)
from bastion.transcripts.signing import COMPLETE, UNCLEAN, Verifier, load_verifier

GOOD: Final[frozenset[Verdict]] = frozenset({"good", "unclean", "open"})
MAX_BROKEN_LINES: Final = 1000  # each is a finding; those after it are counted in one
MAX_LOOKS: Final = 3  # at a session that changed while we looked


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one transcript, or of one line of the ledger (then `uid` is empty).

    `proven` says of an unclean transcript up to which byte each file is as the ledger has it; what follows is unproven.
    """

    uid: str
    verdict: Verdict
    words: str
    proven: dict[str, int] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether this is what an untouched directory shows; `unclean` is: a crash or a failure is no manipulation."""
        return self.verdict in GOOD


def verify(directory: Path, public_key: Path) -> list[Finding]:
    """Walk the ledger against the files; name everything that is not as it was written.

    Broken lines come first, then a finding for each transcript in the ledger's order, then files it does not know.

    Raises:
        ConfigurationError: the public key cannot be used.
        TranscriptError: there is no ledger, or it cannot be read.
    """
    verifier = load_verifier(public_key)
    ledger = directory / ledgers.FILE
    try:
        stamp = _stamp(ledger)
        accounts, broken = _walk(ledger, verifier)
        judge = _Judge(directory, verifier)
        of_accounts = {uid: judge.judge(uid, account) for uid, account in accounts.of.items()}
        of_strangers = {path: judge.judge_stranger(path) for path in _strangers(directory, accounts)}
        if judge.live or _stamp(ledger) != stamp:  # the server stopped or started meanwhile
            _look_again(judge, of_accounts, of_strangers)
    except OSError as error:
        raise TranscriptError(
            f"cannot verify {directory}: {error.strerror}", "look at the modes of its files"
        ) from error
    return [*broken, *of_accounts.values(), *of_strangers.values()]


def _look_again(judge: "_Judge", of_accounts: dict[str, Finding], of_strangers: dict[Path, Finding]) -> None:
    """Judge anew what does not fit: while the server writes, the ledger may have what explains it by now.

    The ledger is read once a look, however much does not fit.
    """
    for _ in range(MAX_LOOKS):
        uids = {uid for uid, finding in of_accounts.items() if not finding.is_sound and judge.was_open(uid)}
        paths = [path for path in of_strangers if uid_of(path) not in of_accounts]
        if not uids and not paths:
            return
        accounts = judge.read_accounts(uids.union(map(uid_of, paths)))
        for uid in uids & accounts.of.keys():
            of_accounts[uid] = judge.judge(uid, accounts.of[uid])
        for path in paths:
            account = accounts.of.get(uid_of(path))
            if account is not None and judge.is_at(path, account):
                del of_strangers[path]
                of_accounts[uid_of(path)] = judge.judge(uid_of(path), account)


def verify_one(path: Path, directory: Path, public_key: Path) -> Finding:
    """Return what is known of the transcript at `path`; of the ledger only the lines about it are checked.

    Raises:
        ConfigurationError: the public key cannot be used.
        TranscriptError: there is no ledger, or it cannot be read.
    """
    verifier = load_verifier(public_key)
    uid, ledger = uid_of(path), directory / ledgers.FILE
    try:
        for _ in range(MAX_LOOKS):
            stamp = _stamp(ledger)
            judge = _Judge(directory, verifier)
            entries = ledgers.read_about(ledger, verifier, uid)
            account = read_accounts(entries, [uid]).of.get(uid)
            known = account is not None and judge.is_at(path, account)
            finding = judge.judge(uid, account) if account is not None and known else judge.judge_stranger(path)
            if finding.is_sound or (not judge.live and _stamp(ledger) == stamp):
                break
    except OSError as error:
        raise TranscriptError(
            f"cannot verify {path.name}: {error.strerror}", "look at the modes of the files in its folder"
        ) from error
    return finding


def _walk(path: Path, verifier: Verifier) -> tuple[Accounts, list[Finding]]:
    accounts = Accounts()
    findings: list[Finding] = []
    broken = 0
    for entry in ledgers.read(path, verifier):
        problem = entry.problem
        try:
            accounts.note(entry)
        except MalformedLine as error:
            problem = str(error)
        if problem is not None:
            broken += 1
            if broken <= MAX_BROKEN_LINES:
                findings.append(Finding("", "broken chain", f"line {entry.number} of the ledger {problem}"))
    if broken > MAX_BROKEN_LINES:
        findings.append(Finding("", "broken chain", f"and {broken - MAX_BROKEN_LINES} more lines of the ledger"))
    return accounts, findings


def _strangers(directory: Path, accounts: Accounts) -> Iterator[Path]:
    """Give the transcripts that are not where the ledger has them, if it has them at all."""
    for path in transcripts_in(directory):
        account = accounts.of.get(uid_of(path))
        if account is None or account.path != str(path.relative_to(directory)):
            yield path


class _Judge:
    def __init__(self, directory: Path, verifier: Verifier) -> None:
        self.live = _is_live(directory)
        self._directory = directory
        self._verifier = verifier
        self._parts = Parts()
        self._open: set[str] = set()

    def read_accounts(self, uids: set[str]) -> Accounts:
        """Return what the ledger says of these sessions by now; folders are listed anew too."""
        self._parts = Parts()
        return read_accounts(ledgers.read(self._directory / ledgers.FILE, self._verifier), uids)

    def is_at(self, path: Path, account: Account) -> bool:
        """Tell whether the ledger has the session there."""
        return account.path == str(path.relative_to(self._directory))

    def was_open(self, uid: str) -> bool:
        """Tell whether the session was open when it was judged."""
        return uid in self._open

    def judge(self, uid: str, account: Account) -> Finding:
        """Judge a session by what the ledger says of it."""
        path = self._directory / account.path
        if account.last == "opened":
            self._open.add(uid)
        return self._judge(uid, account, path, self._parts.of(path))

    def judge_stranger(self, path: Path) -> Finding:
        """Judge a transcript of which the ledger has no `opened` line for this place."""
        uid = uid_of(path)
        try:
            judge_stranger(path, self._parts.of(path), self._verifier)
        except Unproven as error:
            return Finding(uid, error.verdict, f"{path.relative_to(self._directory)}: {error.reason}")
        except OSError as error:
            return _unreadable(uid, path, error)
        return Finding(uid, "unclean", "it holds no record: the bastion was killed before its session was open")

    def _judge(self, uid: str, account: Account, path: Path, parts: Sequence[Path]) -> Finding:
        try:
            if account.forgery and not (account.last == "sealed" and not account.opened and holds_nothing(path, parts)):
                return Finding(uid, "forged", account.forgery)
            judge = self._judge_open if account.last == "opened" else self._judge_finished
            return judge(uid, account, path, parts)
        except Unproven as error:
            return Finding(uid, error.verdict, error.reason)
        except FileNotFoundError as error:
            return Finding(uid, "missing", f"{Path(str(error.filename)).name} is not there")
        except OSError as error:
            return _unreadable(uid, path, error)

    def _judge_finished(self, uid: str, account: Account, path: Path, parts: Sequence[Path]) -> Finding:
        require_finished(path, parts, account)
        digest = account.files[path.name][1]
        namespace = COMPLETE if account.last == "closed" else UNCLEAN
        if problem := check_signature(signature_path(path), digest, namespace, self._verifier):
            return Finding(uid, *problem)
        if account.last == "closed":
            return Finding(uid, "good", f"{account.files[path.name][0]} bytes, complete and signed")
        return _unclean(uid, f"sealed: {account.reason}", _proof_of(path, account))

    def _judge_open(self, uid: str, account: Account, path: Path, parts: Sequence[Path]) -> Finding:
        if account.state is None:
            hash_file(path)  # whether it is there
            return Finding(uid, "unclean", "it was never closed; its `opened` line pins nothing, so it is not sealed")
        try:
            proof = prove(path, parts, account)
        except Unproven as error:
            if error.verdict == "truncated" and is_signed(path, self._verifier, COMPLETE):
                words = "it is signed as complete, and what goes after `closed` is gone: the ledger's end was cut"
                return Finding(uid, "broken chain", words)
            raise
        if self.live and not signature_path(path).exists():
            return Finding(uid, "open", "it is being written")
        return _unclean(uid, "it was never closed", proof)


def _proof_of(path: Path, account: Account) -> Proof | None:
    if account.state is None:
        return None
    claims = {path.name: account.state.age} | account.state.wal
    return Proof(account.files, {name: claims[name][0] if name in claims else 0 for name in account.files})


def _unclean(uid: str, words: str, proof: Proof | None) -> Finding:
    return Finding(uid, "unclean", f"{words}; {proof}" if proof else words, proof.proven if proof else {})


def _unreadable(uid: str, path: Path, error: OSError) -> Finding:
    name = Path(str(error.filename or path)).name
    return Finding(uid, "unproven", f"{name} cannot be read: {error.strerror}")


def _stamp(ledger: Path) -> tuple[int, int]:
    """Return what changes with every line that is appended: the inode and the size.

    Raises:
        OSError: there is no ledger, or it cannot be looked at.
    """
    status = ledger.stat()
    return status.st_ino, status.st_size


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
