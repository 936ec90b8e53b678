"""The key home: whose key this is, what bounds it, and how keys are made, added, listed and revoked."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from bastion.errors import ConfigurationError
from bastion.keyring import auditors, changes, files, making
from bastion.keyring.admitting import Admission, NotAdmitted, admit_certificate, admit_key
from bastion.keyring.certificates import InvalidCertificateError, is_certificate, parse
from bastion.keyring.clock import Clock
from bastion.keyring.making import IssuedKey
from bastion.keyring.options import InvalidLineError, check_name, quote, read_addresses
from bastion.keyring.snapshot import Entry, Snapshot, stamp, take
from bastion.keyring.strength import judge
from bastion.model import Identity

__all__ = ["Admission", "IssuedKey", "Keyring", "ListedKey", "NotAdmitted"]

KEY_LIFETIME: Final = timedelta(days=90)
CERTIFICATE_LIFETIME: Final = timedelta(hours=8)
_BEHIND: Final = 60  # seconds that another node's clock may be behind ours when it is shown a new certificate
_SETTLED: Final = 0.1  # seconds after which a file's time tells a new change from the last
_INIT: Final = "bastion keys init"


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One key of one user, for people to read; `path` and `line` say where its line is."""

    user: str
    fingerprint: str
    key_type: str
    comment: str
    stack: str | None
    service: str | None
    expires: datetime | None
    state: Literal["good", "expired", "revoked", "duplicate", "authority"]
    path: Path
    line: int


class Keyring:
    """Answers whose key this is, from memory, and keeps that memory like the files.

    `identify` and `objection` only read one immutable snapshot, so that `refresh` may run in a thread beside them.
    """

    def __init__(self, home: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.home = home
        self._clock = Clock(home / "clock", wall)
        self._snapshot = Snapshot()
        self._stamp: tuple[object, ...] = ()
        self._read_at: float | None = None  # None once a second reading found the same: file times are coarse
        self._known_problems: Sequence[str] = []
        self._expired_until = 0.0

    def load(self) -> None:
        """Check the key home and read it; lines that are not accepted are in `problems`.

        Raises:
            ConfigurationError: a private file or folder is missing, is open to others, or is no key; the hint mends it.
        """
        if faults := self.faults():
            raise faults[0]
        self._clock.load()
        self._expired_until = self._clock.persisted or self._clock.now()
        self.refresh()

    def now(self) -> float:
        """Return the present in seconds since the epoch; it never goes back, whatever the wall clock does."""
        return self._clock.now()

    def faults(self) -> "list[ConfigurationError]":
        """Return everything that keeps the key home from being used, each with the command that mends it."""
        folders = [self.home, self.home / "host", self.home / "signing"]
        for folder in folders:
            if found := files.private_fault(folder):
                return [found]
        faults = [
            ConfigurationError(f"{self.home / name}: {words}", f"{_INIT} or chmod 700 {self.home / name}")
            for name in ("users", "auditors")
            if (words := files.public_fault(self.home / name))
        ]
        if not self.host_keys():
            faults.append(ConfigurationError(f"{self.home / 'host'}: holds no host key", _INIT))
        private = [*self.host_keys(), self.signing_key, *self.authority_keys()]
        faults += [found for path in private if (found := files.private_fault(path) or making.private_key_fault(path))]
        return [*faults, *auditors.faults(self.home / "auditors")]

    def refresh(self) -> bool:
        """Read the files again if one changed; tell whether that changed who may enter, or `problems`. Never raises.

        Meant to be called every 2 s; while nothing changes it costs one `stat` a file.
        """
        self._clock.persist()
        current, at = stamp(self.home), time.monotonic()
        before, known = self._snapshot, self._known_problems
        if current != self._stamp or self._read_at is not None:
            settled = current == self._stamp and self._read_at is not None and at - self._read_at > _SETTLED
            self._snapshot = take(self.home, judge, before)
            self._stamp, self._read_at = current, None if settled else at
        self._known_problems = self.problems
        return before != self._snapshot or known != self._known_problems

    @property
    def problems(self) -> list[str]:
        """What is wrong with lines and files, each as `PATH:LINE: words`; the server logs them."""
        return [*self._snapshot.problems, *self._clock.problems]

    def admit(self, key_data: bytes, client_address: str) -> Admission:
        """Return whose key or certificate this is (SSH wire format), and what a signature of it must show.

        Raises:
            NotAdmitted: it lets nobody in from there.
        """
        snapshot, moment = self._snapshot, self._clock.now()
        if snapshot.closed:
            raise NotAdmitted("it is not known which keys are revoked")
        if is_certificate(key_data):
            return _admit_certificate(snapshot, key_data, client_address, moment)
        entry = snapshot.accepted.get(key_data)
        if entry is None:
            raise NotAdmitted("the key is nobody's")
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
            self._listed(snapshot, entry)
            for entry in snapshot.accepted.values()
            if entry.key.options.expires is not None and since <= entry.key.options.expires < self._expired_until
        ]

    def _expired(self, entry: Entry) -> bool:
        expires = entry.key.options.expires
        return expires is not None and self._clock.now() > expires

    def host_keys(self) -> list[Path]:
        """List the server's private keys: the files of host/ that do not end in .pub."""
        return [path for path in files.visible(self.home / "host") if path.suffix != ".pub"]

    def authority_keys(self) -> list[Path]:
        """List the private keys that sign users' certificates: the files of ca/ that do not end in .pub."""
        return [path for path in files.visible(self.home / "ca") if path.suffix != ".pub"]

    @property
    def signing_key(self) -> Path:
        """The private key that transcripts and the ledger are signed with."""
        return self.home / "signing" / "signing_ed25519"

    def auditor_recipients(self) -> list[str]:
        """List every recipient in auditors/, without comments and repetitions: `age1…`, `ssh-ed25519 …`.

        Raises:
            ConfigurationError: a file cannot be read, or holds a secret key.
        """
        return auditors.recipients(self.home / "auditors")

    def init(self, *, authority: bool = False) -> None:
        """Make the folders, a host key and the audit signing key; what is there stays as it is, but for folders' modes.

        With `authority` also a key that signs users' certificates, where there is none.

        Raises:
            ConfigurationError: the home cannot be written.
        """
        try:
            for name in (".", "host", "users", "auditors", "signing", "ca"):
                files.make_private_folder(self.home / name)
            with files.locked(self.home):
                if not self.host_keys():
                    making.write_pair(self.home / "host" / "ssh_host_ed25519_key", "bastion host key")
                if authority and not self.authority_keys():
                    making.write_pair(self.home / "ca" / "user_ca_ed25519", "bastion user certificate authority")
                if not self.signing_key.exists():
                    public = making.write_pair(self.signing_key, "bastion audit signing key")
                    files.write_private(self.home / "signing" / "allowed_signers", f"bastion {public}\n".encode())
                if not (self.home / "revoked").exists():
                    files.write_private(
                        self.home / "revoked", b"# fingerprints (SHA256:...) or public keys, one a line\n"
                    )
        except OSError as error:
            raise changes.unwritable(self.home, error) from error

    def issue(
        self,
        user: str,
        *,
        stack: str | None = None,
        service: str | None = None,
        expires: timedelta | None = KEY_LIFETIME,
    ) -> IssuedKey:
        """Make an Ed25519 pair for a user and add its public half; the private half is returned and kept nowhere.

        Raises:
            ConfigurationError: the name, the stack, the service or the time cannot be, or the home cannot be written.
        """
        present = datetime.fromtimestamp(self._clock.now(), UTC)
        until = None if expires is None else f"{_expiry(present, expires):%Y%m%d%H%M%SZ}"
        options = {"stack": stack, "service": service, "expiry-time": until}
        bounds = ",".join(f"{name}={quote(value)}" for name, value in options.items() if value is not None)
        place = "@".join(filter(None, (service, stack)))
        key = making.make_pair()
        line = " ".join(filter(None, (bounds, making.public_text(key), user, place, f"{present:%Y-%m-%d}")))
        return IssuedKey(making.private_text(key), line, self.add(user, line))

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

        `sources` are the addresses and networks that it may be used from, none meaning any.

        Raises:
            ConfigurationError: a name, the time or an address cannot be, or there is no such authority that is trusted.
        """
        changes.user_file(self.home, user)
        _check_bounds(stack, service, sources)
        key = self._authority_key(authority)
        moment = self._clock.now()
        present = datetime.fromtimestamp(moment, UTC)
        issued = making.certify(
            key,
            making.Bounds(
                user=user,
                valid_after=int(moment) - _BEHIND,
                valid_before=int(_expiry(present, expires).timestamp()),
                stack=stack,
                service=service,
                sources=sources,
            ),
        )
        snapshot = take(self.home, judge, self._snapshot)
        trusted = {entry.key.fingerprint for lines in snapshot.authorities.values() for entry in lines}
        if issued.authority not in trusted - snapshot.revoked.keys:
            raise ConfigurationError(
                f"{key}: its certificates are not accepted here", f"its public half must be {key}.pub, and not revoked"
            )
        return issued

    def _authority_key(self, name: str | None) -> Path:
        found = self.authority_keys()
        chosen = [path for path in found if name in {None, path.name}]
        if not chosen:
            words = f"no private key {name}" if name else "no private key"
            raise ConfigurationError(f"{self.home / 'ca'}: holds {words}", f"{_INIT} --ca makes one")
        if len(chosen) > 1:
            names = ", ".join(path.name for path in chosen)
            raise ConfigurationError(f"{self.home / 'ca'}: holds several private keys", f"name one with --ca: {names}")
        return chosen[0]

    def add(self, user: str, public_line: str) -> str:
        """Add a line in authorized_keys format to a user's file and return the key's fingerprint.

        Raises:
            ConfigurationError: the name or the line is not accepted, the key is there already or revoked.
        """
        return changes.add(self.home, judge, user, public_line)

    def revoke(self, whom: str, *, stack: str | None = None) -> Sequence[str]:
        """Revoke one key by its fingerprint, or a user's keys, or those bound to a stack; return the fingerprints.

        Raises:
            ConfigurationError: there is no such key, or the home cannot be written.
        """
        return changes.revoke(self.home, judge, whom, stack)

    def list(self) -> "list[ListedKey]":
        """List every well-formed key as it is in the files now, by user and line; refused lines are in `problems`."""
        self._clock.load()
        self._snapshot = snapshot = take(self.home, judge, self._snapshot)
        return [self._listed(snapshot, entry) for entry in snapshot.entries]

    def _listed(self, snapshot: Snapshot, entry: Entry) -> ListedKey:
        key, options = entry.key, entry.key.options
        state: Literal["good", "expired", "revoked", "duplicate", "authority"] = "good"
        if key.fingerprint in snapshot.revoked.keys:
            state = "revoked"
        elif options.is_authority:
            state = "expired" if self._expired(entry) else "authority"
        elif key.blob not in snapshot.accepted:
            state = "duplicate"
        elif self._expired(entry):
            state = "expired"
        expires = None if options.expires is None else datetime.fromtimestamp(options.expires, UTC)
        return ListedKey(
            entry.user,
            key.fingerprint,
            key.key_type,
            key.comment,
            options.stack,
            options.service,
            expires,
            state,
            entry.path,
            entry.number,
        )


def _admit_certificate(
    snapshot: Snapshot, blob: bytes, client_address: str, moment: float, *, known: bool = False
) -> Admission:
    try:
        certificate = parse(blob)
    except InvalidCertificateError as error:
        raise NotAdmitted(f"the certificate {error}") from error
    return admit_certificate(snapshot, certificate, client_address, moment, known=known)


def _check_bounds(stack: str | None, service: str | None, sources: Sequence[str]) -> None:
    try:
        for value, what in ((stack, "stack"), (service, "service")):
            if value is not None:
                check_name(value, what)
        if sources:
            read_addresses(",".join(sources))
    except InvalidLineError as error:
        raise ConfigurationError(f"the certificate {error}", "give names, and networks such as 192.0.2.0/24") from error


def _expiry(present: datetime, expires: timedelta) -> datetime:
    if expires <= timedelta(0):
        raise ConfigurationError("a key cannot expire before it is issued", "give a time such as 90d")
    try:
        return present + expires
    except OverflowError:
        raise ConfigurationError("a key cannot expire that late", "give a time such as 90d") from None
