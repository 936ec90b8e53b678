"""Whose key this is, what bounds it, and how keys are made, added, listed and revoked, in files or a database."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bastion.errors import ConfigurationError, DatabaseFailed
from bastion.keyring import auditors, changes, home, issuing
from bastion.keyring.admitting import Admission, KeyObjection, NotAdmitted, admit_certificate, admit_key
from bastion.keyring.authorized_keys import fingerprint
from bastion.keyring.certificates import InvalidCertificateError, fingerprint_of, is_certificate, parse
from bastion.keyring.changes import Copied
from bastion.keyring.clock import Clock
from bastion.keyring.file_store import AuthorityFolder, FileStore, folder_stamp
from bastion.keyring.issuing import Order
from bastion.keyring.listing import ListedKey, listed
from bastion.keyring.making import IssuedKey
from bastion.keyring.revoked import FINGERPRINT, HIGHEST_SERIAL, normal
from bastion.keyring.snapshot import Snapshot, take
from bastion.keyring.store import Store
from bastion.keyring.strength import judge
from bastion.model import Identity

if TYPE_CHECKING:
    from bastion.config import Settings

__all__ = [
    "Admission",
    "Copied",
    "IssuedKey",
    "KeyObjection",
    "Keyring",
    "ListedKey",
    "NotAdmitted",
    "copy_keys",
    "fingerprint_of",
    "open_keyring",
]

KEY_LIFETIME: Final = timedelta(days=90)
CERTIFICATE_LIFETIME: Final = timedelta(hours=8)
_HEARING_SECONDS: Final = 5.0  # how far apart two calls of `refresh` may be without one being late
_SETTLED: Final = 0.1  # seconds after which a file's time tells a new change from the last


class Keyring:
    """Finds the user of a key in memory, and keeps that memory equal to the store (without one: the files).

    `admit` and `objection` only read one immutable snapshot, so that `refresh` may run in a thread beside them.

    - When a store has not answered for `grace` seconds, nobody new is admitted.
    - When a file could not be read for `grace` seconds, nobody new is admitted by its lines.
    - `objection` uses the last snapshot: a user who is logged in stays logged in.
    """

    def __init__(
        self, home: Path, *, wall: Callable[[], float] = time.time, store: Store | None = None, grace: float = 60.0
    ) -> None:
        self.home = home
        self._store: Store = store or FileStore(home)
        self._authorities = AuthorityFolder(home / "ca")
        self._grace = grace
        self._unread_since: Mapping[Path, float] = {}
        self._silence = ""
        self._heard_at = time.monotonic()
        self._clock = Clock(home / "clock", wall)
        self._snapshot = Snapshot()
        self._stamp: tuple[object, ...] = ()
        self._read_at: float | None = None  # None once a second reading found the same: file times are coarse
        self._known_problems: Sequence[str] = []
        self._expired_until = 0.0

    def load(self) -> None:
        """Check the key home and read it and the store; lines that are not accepted are in `problems`.

        Raises:
            ConfigurationError: a private file or folder is missing, is open to others, or is no key; the hint mends it.
                Or the store cannot be used.
            DatabaseFailed: the store does not answer.
        """
        if faults := self.faults():
            raise faults[0]
        self._store.open()
        self._clock.load()
        self._expired_until = self._clock.persisted or self._clock.now()
        self._heard_at = time.monotonic()
        self._read(self._heard_at)
        self._known_problems = self.problems

    def now(self) -> float:
        """Return the present in seconds since the epoch; it never goes back, whatever the wall clock does."""
        return self._clock.now()

    def faults(self) -> "list[ConfigurationError]":
        """Return everything that keeps the key home from being used, each with the command that mends it."""
        return home.faults(self.home)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def refresh(self) -> bool:
        """Read again what changed; tell whether that changed who may enter, or `problems`. Never raises.

        Meant to be called every 2 s; while nothing changes it costs one `stat` a file, and one row of a database. While
        the store does not answer, what was known last counts until the grace is over.
        """
        self._clock.persist()
        before, known, at = self._snapshot, self._known_problems, time.monotonic()
        try:
            self._read(at)
            self._silence = ""
        except DatabaseFailed as error:
            self._silence = error.detail
        self._known_problems = self.problems
        return before != self._snapshot or known != self._known_problems

    def _read(self, at: float) -> None:
        current = (self._store.stamp(), self._authorities.stamp())
        if current != self._stamp or self._read_at is not None or self._snapshot.unread:
            settled = current == self._stamp and self._read_at is not None and at - self._read_at > _SETTLED
            self._snapshot = self._judged(self._snapshot)
            self._stamp, self._read_at = current, None if settled else at
            since = self._unread_since
            self._unread_since = {path: since.get(path, at) for path in self._snapshot.unread}
        self._heard_at = at

    def _judged(self, before: Snapshot) -> Snapshot:
        return take(self._store.read(), judge, before, authorities=self._authorities.read())

    @property
    def _is_forsaken(self) -> bool:
        patience = self._grace if self._silence else self._grace + _HEARING_SECONDS
        return time.monotonic() - self._heard_at > patience

    @property
    def _forsaken_files(self) -> frozenset[Path]:
        """The files that could not be read for longer than `grace` seconds."""
        now = time.monotonic()
        return frozenset(path for path, since in self._unread_since.items() if now - since > self._grace)

    @property
    def problems(self) -> list[str]:
        """What is wrong with lines, files and the store, each as `PLACE: words`; the server logs them."""
        words = [*self._snapshot.problems, *self._clock.problems]
        forsaken = self._forsaken_files
        unread = self._snapshot.unread
        for path in sorted(path for path in unread if path.parent not in unread):
            until = "lets nobody new in" if path in forsaken else f"counts as it was read last for {self._grace:g} s"
            words.append(f"{path}: cannot be read, and {until}")
        if self._silence:
            until = "nobody new is let in" if self._is_forsaken else f"the last keys count for {self._grace:g} s"
            words.append(f"database: does not answer, {until}: {self._silence}")
        return words

    def admit(self, key_data: bytes, client_address: str) -> Admission:
        """Return whose key or certificate this is (SSH wire format), and what a signature of it must show.

        Raises:
            NotAdmitted: it lets nobody in from there.
        """
        forsaken, moment = self._forsaken_files, self._clock.now()
        snapshot = self._snapshot.without(forsaken)
        if snapshot.closed or self._is_forsaken or self.home / "revoked" in forsaken:
            raise NotAdmitted("it is not known which keys are revoked", "keys-unreadable")
        if is_certificate(key_data):
            return _admit_certificate(snapshot, key_data, client_address, moment)
        entry = snapshot.accepted.get(key_data)
        if entry is None and fingerprint(key_data) in snapshot.revoked.keys:
            raise NotAdmitted("the key was revoked", "revoked")
        if entry is None:
            raise NotAdmitted("the key is nobody's", "unknown-key")
        return admit_key(snapshot, entry, client_address, moment)

    def identify(self, key_data: bytes, client_address: str) -> Identity | None:
        """Return whose key or certificate this is; None when it lets nobody in from there."""
        try:
            return self.admit(key_data, client_address).identity
        except NotAdmitted:
            return None

    def objection(self, identity: Identity) -> str | None:
        """Say why a key or certificate that was accepted earlier is no longer good, or None while it is."""
        snapshot, moment = self._snapshot, self._clock.now()
        try:
            if identity.certificate is not None:
                again = _admit_certificate(
                    snapshot, identity.certificate.blob, identity.client_address, moment, known=True
                )
            elif identity.key_fingerprint in snapshot.revoked.keys:
                return "the key was revoked"
            else:
                entry = snapshot.fingerprints.get(identity.key_fingerprint)
                if entry is None or entry.user != identity.user:
                    return "the key was removed"
                again = admit_key(snapshot, entry, identity.client_address, moment)
        except NotAdmitted as refusal:
            return str(refusal)
        return None if again.identity == identity else "the key's options changed"

    def newly_expired(self) -> "list[ListedKey]":
        """List the keys that have expired since the last call, or since the clock was last written down before it."""
        since, self._expired_until = self._expired_until, self._clock.now()
        snapshot = self._snapshot
        return [
            listed(snapshot, entry, self._expired_until)
            for entry in snapshot.accepted.values()
            if entry.key.options.expires is not None and since <= entry.key.options.expires < self._expired_until
        ]

    def host_keys(self) -> "list[Path]":
        """List the server's private keys: the files of host/ that do not end in .pub.

        Raises:
            OSError: the folder cannot be listed.
        """
        return home.private_keys(self.home / "host")

    @property
    def signing_key(self) -> Path:
        """The private key that transcripts and the ledger are signed with."""
        return home.signing_key(self.home)

    def auditor_recipients(self) -> list[str]:
        """List every recipient in auditors/, without comments and repetitions: `age1…`, `ssh-ed25519 …`.

        Raises:
            ConfigurationError: the folder or a file cannot be read, others can write it, or a file holds a secret key.
        """
        return auditors.recipients(self.home / "auditors")

    def auditors_stamp(self) -> object:
        """Return a stamp that differs whenever a file of auditors/ has changed; by stat(2) only. Never raises."""
        return folder_stamp(self.home / "auditors")

    def init(self, *, authority: bool = False) -> None:
        """Make the folders, a host key and the audit signing key; what is there stays as it is, but for folders' modes.

        With `authority` also a key that signs users' certificates, where there is none.

        Raises:
            ConfigurationError: the home cannot be written.
        """
        home.init(self.home, authority=authority)

    def issue(
        self,
        user: str,
        *,
        stack: str | None = None,
        service: str | None = None,
        expires: timedelta | None = KEY_LIFETIME,
        sources: Sequence[str] = (),
    ) -> IssuedKey:
        """Make an Ed25519 pair for a user and add its public half; the private half is returned and kept nowhere.

        `sources` are the addresses and networks that it may be used from, none meaning any.

        Raises:
            ConfigurationError: the name, the place or the time cannot be, or the home cannot be written.
        """
        return issuing.issue(self._store, Order(user, stack, service, expires, sources), self._clock.now())

    def certify(
        self,
        user: str,
        *,
        stack: str | None = None,
        service: str | None = None,
        expires: timedelta = CERTIFICATE_LIFETIME,
        sources: Sequence[str] = (),
        authority: str | None = None,
    ) -> IssuedKey:
        """Make an Ed25519 pair and a certificate for a user, with the key ca/AUTHORITY; neither is kept.

        Raises:
            ConfigurationError: a name, the time or an address cannot be, or there is no such authority that is trusted.
        """
        order = Order(user, stack, service, expires, sources)
        return issuing.certify(self.home, order, self._clock.now(), authority, self._judged(Snapshot()))

    def add(self, user: str, public_line: str) -> str:
        """Add a line in authorized_keys format to a user's file and return the key's fingerprint.

        Raises:
            ConfigurationError: the name or the line is not accepted, the key is there already or revoked.
        """
        return changes.add(self._store, judge, user, public_line)

    def revoke(self, whom: str, *, stack: str | None = None) -> Sequence[str]:
        """Revoke one key by its fingerprint, or a user's keys, or those bound to a stack; return the fingerprints.

        Raises:
            ConfigurationError: there is no such key, or the home cannot be written.
        """
        return changes.revoke(self._store, judge, whom, stack)

    def revoke_id(self, key_id: str) -> None:
        """Revoke every certificate of a key id, whoever signed it.

        Raises:
            ConfigurationError: it is empty, or the home cannot be written.
        """
        if not (words := normal(key_id)):
            raise ConfigurationError("a key id cannot be empty", "ssh-keygen -L -f FILE-cert.pub shows it")
        changes.revoke_certificates(self._store, f"id {words}")

    def revoke_serial(self, serial: int, authority: str) -> None:
        """Revoke the certificate of a serial, of the authority with this fingerprint.

        Raises:
            ConfigurationError: it is no fingerprint, no serial can be that, or the home cannot be written.
        """
        if not FINGERPRINT.fullmatch(authority) or not 0 <= serial <= HIGHEST_SERIAL:
            raise ConfigurationError(
                "that is no serial and no authority's fingerprint", "ssh-keygen -L -f FILE-cert.pub shows both"
            )
        changes.revoke_certificates(self._store, f"serial {authority} {serial}")

    def list(self) -> "list[ListedKey]":
        """List every well-formed key as it is kept now, by user and line; changes nothing that `refresh` compares with.

        Raises:
            DatabaseFailed: the store does not answer.
        """
        self._clock.load()
        snapshot = self._judged(self._snapshot)
        return [listed(snapshot, entry, self._clock.now()) for entry in snapshot.entries]


def open_keyring(settings: "Settings") -> Keyring:
    """Return the keyring over the configured store; nothing is opened before it is used."""
    keys = settings.keys
    if keys.store == "files":
        return Keyring(keys.home, grace=keys.grace)
    return Keyring(keys.home, store=_database_store(settings), grace=keys.grace)


def copy_keys(settings: "Settings", *, to_database: bool) -> Copied:
    """Copy users' keys and what is revoked from the files to the database, or back.

    Raises:
        ConfigurationError: it is in doubt what is revoked, or where they go cannot be written.
        DatabaseFailed: the database does not answer.
    """
    files, database = FileStore(settings.keys.home), _database_store(settings)
    try:
        database.open()
        return changes.copy(files, database, judge) if to_database else changes.copy(database, files, judge)
    finally:
        database.close()


def _database_store(settings: "Settings") -> Store:
    from bastion.keyring.database_store import DatabaseStore  # noqa: PLC0415 - SQLAlchemy costs 0.2 s

    return DatabaseStore(settings.keys.home, settings.database)


def _admit_certificate(
    snapshot: Snapshot, blob: bytes, client_address: str, moment: float, *, known: bool = False
) -> Admission:
    try:
        certificate = parse(blob)
    except InvalidCertificateError as error:
        raise NotAdmitted(f"the certificate {error}", "certificate") from error
    return admit_certificate(snapshot, certificate, client_address, moment, known=known)
