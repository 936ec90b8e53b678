"""The key home: whose key this is, what bounds it, and how keys are made, added, listed and revoked."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from bastion.errors import ConfigurationError
from bastion.keyring import auditors, changes, files
from bastion.keyring.authorized_keys import AuthorizedKey, InvalidLineError, quote
from bastion.keyring.clock import Clock
from bastion.keyring.snapshot import Entry, Snapshot, stamp, take
from bastion.model import Identity

RSA_MINIMUM: Final = 2048  # bits
RSA_MAXIMUM: Final = 16384
KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "sk-ssh-ed25519@openssh.com",
        "ecdsa-sha2-nistp256",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "ssh-rsa",
    }
)
_SETTLED = 0.1  # seconds after which a file's time tells a new change from the last
_INIT = "bastion keys init"


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key pair. The private half is here and nowhere else."""

    private_text: str
    public_line: str
    fingerprint: str


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
    state: Literal["good", "expired", "revoked", "duplicate"]
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

    def load(self) -> None:
        """Check the key home and read it; lines that are not accepted are in `problems`.

        Raises:
            ConfigurationError: a private file or folder is missing, is open to others, or is no key; the hint mends it.
        """
        if faults := self.faults():
            raise faults[0]
        self._clock.load()
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
        private = [*self.host_keys(), self.signing_key]
        faults += [found for path in private if (found := files.private_fault(path) or _private_key_fault(path))]
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
            self._snapshot = take(self.home, _judge, before)
            self._stamp, self._read_at = current, None if settled else at
        self._known_problems = self.problems
        return before != self._snapshot or known != self._known_problems

    @property
    def problems(self) -> list[str]:
        """What is wrong with lines and files, each as `PATH:LINE: words`; the server logs them."""
        return [*self._snapshot.problems, *self._clock.problems]

    def identify(self, key_blob: bytes, client_address: str) -> Identity | None:
        """Return whose key this is (SSH wire format, RFC 4253 §6.6); None when it lets nobody in from there."""
        snapshot = self._snapshot
        entry = snapshot.accepted.get(key_blob)
        if entry is None or snapshot.closed or self._objection(snapshot, entry, client_address) is not None:
            return None
        return entry.identity(client_address)

    def objection(self, identity: Identity) -> str | None:
        """Say why a key that was accepted earlier is no longer good, or None while it is."""
        snapshot = self._snapshot
        if identity.key_fingerprint in snapshot.revoked:
            return "the key was revoked"
        entry = snapshot.fingerprints.get(identity.key_fingerprint)
        if entry is None or entry.user != identity.user:
            return "the key was removed"
        words = self._objection(snapshot, entry, identity.client_address)
        if words is None and entry.identity(identity.client_address) != identity:
            return "the key's options changed"
        return words

    def _objection(self, snapshot: Snapshot, entry: Entry, client_address: str) -> str | None:
        if entry.key.fingerprint in snapshot.revoked:
            return "the key was revoked"
        if self._expired(entry):
            return "the key expired"
        if not entry.key.options.admits(client_address):
            return "the key may not be used from this address"
        return None

    def _expired(self, entry: Entry) -> bool:
        expires = entry.key.options.expires
        return expires is not None and self._clock.now() > expires

    def host_keys(self) -> list[Path]:
        """List the server's private keys: the files of host/ that do not end in .pub."""
        return [path for path in files.visible(self.home / "host") if path.suffix != ".pub"]

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

    def init(self) -> None:
        """Make the folders, a host key and the audit signing key; what is there stays as it is, but for folders' modes.

        Raises:
            ConfigurationError: the home cannot be written.
        """
        try:
            for name in (".", "host", "users", "auditors", "signing"):
                files.make_private_folder(self.home / name)
            with files.locked(self.home):
                if not self.host_keys():
                    _generate(self.home / "host" / "ssh_host_ed25519_key", "bastion host key")
                if not self.signing_key.exists():
                    public = _generate(self.signing_key, "bastion audit signing key")
                    files.write_private(self.home / "signing" / "allowed_signers", f"bastion {public}\n".encode())
                if not (self.home / "revoked").exists():
                    files.write_private(
                        self.home / "revoked", b"# fingerprints (SHA256:...) or public keys, one a line\n"
                    )
        except OSError as error:
            raise changes.unwritable(self.home, error) from error

    def issue(
        self, user: str, *, stack: str | None = None, service: str | None = None, expires: timedelta | None = None
    ) -> IssuedKey:
        """Make an Ed25519 pair for a user and add its public half; the private half is returned and kept nowhere.

        Raises:
            ConfigurationError: the name, the stack, the service or the time cannot be, or the home cannot be written.
        """
        present = datetime.fromtimestamp(self._clock.now(), UTC)
        options = {"stack": stack, "service": service, "expiry-time": _expiry_time(present, expires)}
        bounds = ",".join(f"{name}={quote(value)}" for name, value in options.items() if value is not None)
        place = "@".join(filter(None, (service, stack)))
        key = Ed25519PrivateKey.generate()
        line = " ".join(filter(None, (bounds, _public_text(key), user, place, f"{present:%Y-%m-%d}")))
        return IssuedKey(_private_text(key), line, self.add(user, line))

    def add(self, user: str, public_line: str) -> str:
        """Add a line in authorized_keys format to a user's file and return the key's fingerprint.

        Raises:
            ConfigurationError: the name or the line is not accepted, the key is there already or revoked.
        """
        return changes.add(self.home, _judge, user, public_line)

    def revoke(self, whom: str, *, stack: str | None = None) -> Sequence[str]:
        """Revoke one key by its fingerprint, or a user's keys, or those bound to a stack; return the fingerprints.

        Raises:
            ConfigurationError: there is no such key, or the home cannot be written.
        """
        return changes.revoke(self.home, _judge, whom, stack)

    def list(self) -> "list[ListedKey]":
        """List every well-formed key as it is in the files now, by user and line; refused lines are in `problems`."""
        self._clock.load()
        self._snapshot = snapshot = take(self.home, _judge, self._snapshot)
        return [self._listed(snapshot, entry) for entry in snapshot.entries]

    def _listed(self, snapshot: Snapshot, entry: Entry) -> ListedKey:
        key, options = entry.key, entry.key.options
        state: Literal["good", "expired", "revoked", "duplicate"] = "good"
        if key.fingerprint in snapshot.revoked:
            state = "revoked"
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


def _judge(key: AuthorizedKey) -> None:
    """Refuse a key whose type is not allowed, that is too weak, or that is not written as a server would write it."""
    if key.key_type not in KEY_TYPES:
        raise InvalidLineError(f"has a key of the type {key.key_type[:64]}, which is not accepted; use ssh-ed25519")
    try:
        public = load_ssh_public_key(key.public_text.encode())
        canonical = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):
        raise InvalidLineError("has a key that cannot be read") from None
    if not key.key_type.startswith("sk-") and canonical != key.public_text:
        raise InvalidLineError("has a key that is not in its one canonical form")
    if isinstance(public, RSAPublicKey) and not RSA_MINIMUM <= public.key_size <= RSA_MAXIMUM:
        raise InvalidLineError(f"has an RSA key of {public.key_size} bits; at least {RSA_MINIMUM} are needed")


def _expiry_time(present: datetime, expires: timedelta | None) -> str | None:
    if expires is None:
        return None
    if expires <= timedelta(0):
        raise ConfigurationError("a key cannot expire before it is issued", "give a time such as 90d")
    try:
        return f"{present + expires:%Y%m%d%H%M%SZ}"
    except OverflowError:
        raise ConfigurationError("a key cannot expire that late", "give a time such as 90d, or none") from None


def _private_key_fault(path: Path) -> ConfigurationError | None:
    try:
        load_ssh_private_key(files.read(path), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return ConfigurationError(
            f"{path}: is no private key in OpenSSH's format without a passphrase",
            f"remove it and run {_INIT}, or ssh-keygen -p -N '' -f {path}",
        )
    return None


def _generate(path: Path, comment: str) -> str:
    key = Ed25519PrivateKey.generate()
    public = f"{_public_text(key)} {comment}"
    files.write_private(path, _private_text(key).encode())
    files.write_private(path.with_name(f"{path.name}.pub"), f"{public}\n".encode())
    return public


def _public_text(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _private_text(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
