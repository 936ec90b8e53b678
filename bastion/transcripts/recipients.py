"""Read the keys of those who may read a transcript: the auditors' public ones, and an auditor's own private one."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from bastion.errors import ConfigurationError, TranscriptError
from bastion.transcripts import bech32
from bastion.transcripts.wrapping import (
    FILE_KEY,
    KEY,
    MLKEM_PUBLIC,
    SSH_BLOB,
    HybridIdentity,
    HybridRecipient,
    Identity,
    Recipient,
    SshIdentity,
    SshRecipient,
    X25519Identity,
    X25519Recipient,
    hybrid_key,
)

_LARGEST_IDENTITY: Final = 64 * 1024
_LONGEST_FINGERPRINT: Final = 64  # characters: an age1… recipient has 62


@dataclass(frozen=True, slots=True)
class RecipientList:
    """The auditors that new transcripts are encrypted to, and the digest that headers and the ledger name them by."""

    recipients: tuple[Recipient, ...]
    digest: str

    @classmethod
    def parse(cls, lines: Sequence[str]) -> "RecipientList":
        """Read lines as `parse_recipients` does.

        Raises:
            ConfigurationError: as `parse_recipients`.
        """
        recipients = parse_recipients(lines)
        return cls(recipients, digest(recipients))

    def fingerprints(self) -> frozenset[str]:
        """Return each recipient in 64 characters at most."""
        return frozenset(map(fingerprint, self.recipients))


def parse_recipients(lines: Sequence[str]) -> tuple[Recipient, ...]:
    """Read `age1…`, `age1pq1…` and `ssh-ed25519 AAAA…` lines; duplicates count once.

    Raises:
        ConfigurationError: there is none, one is malformed, or post-quantum ones are mixed with others.
    """
    found = {recipient.text: recipient for recipient in map(_parse_recipient, lines)}
    if not found:
        raise ConfigurationError(
            "no auditor key is configured", "put one into keys/auditors or [audit] recipients; age-keygen makes one"
        )
    if len({recipient.post_quantum for recipient in found.values()}) > 1:
        raise ConfigurationError(
            "age1pq1 keys and others cannot read the same transcript",
            "use one kind in keys/auditors and [audit] recipients",
        )
    return tuple(found.values())


def digest(recipients: Sequence[Recipient]) -> str:
    """Return the SHA-256, in hexadecimal, of the sorted recipients, one a line."""
    return hashlib.sha256("".join(sorted(f"{recipient.text}\n" for recipient in recipients)).encode()).hexdigest()


def fingerprint(recipient: Recipient) -> str:
    """Return `age1…` itself, an SSH key's fingerprint as ssh-keygen -l prints it, or the SHA-256 of a longer text."""
    if recipient.text.startswith("ssh-"):
        blob = base64.b64decode(recipient.text.split()[1])
        return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"
    if len(recipient.text) <= _LONGEST_FINGERPRINT:
        return recipient.text
    return hashlib.sha256(recipient.text.encode()).hexdigest()


def read_identities(path: Path) -> tuple[Identity, ...]:
    """Read an age identity file or an OpenSSH Ed25519 private key without passphrase.

    Raises:
        TranscriptError: it is unreadable, or holds no key of a known kind.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_IDENTITY + 1)
    except OSError as error:
        raise TranscriptError(
            f"cannot read the identity {path}: {error.strerror}", "give --identity the auditor's private key"
        ) from error
    if len(content) > _LARGEST_IDENTITY:
        raise TranscriptError(f"{path} is too large for an identity", "give --identity the auditor's private key")
    if b"-----BEGIN" in content:
        return (SshIdentity(_ssh_private_key(path, content)),)
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    identities = tuple(parse_identity(line) for line in lines if line and not line.startswith("#"))
    if not identities:
        raise TranscriptError(f"{path} holds no identity", "it should have a line that begins with AGE-SECRET-KEY-")
    return identities


def parse_identity(text: str) -> Identity:
    """Read one `AGE-SECRET-KEY-1…` or `AGE-SECRET-KEY-PQ-1…`.

    Raises:
        TranscriptError: it is neither.
    """
    try:
        prefix, payload = bech32.decode(text)
        if len(payload) == KEY and prefix == "age-secret-key-":
            return X25519Identity(X25519PrivateKey.from_private_bytes(payload))
        if len(payload) == KEY and prefix == "age-secret-key-pq-":
            return HybridIdentity(hybrid_key(payload)[0])
    except ValueError as error:
        raise TranscriptError(f"an identity {error}", "copy the AGE-SECRET-KEY- line whole") from error
    raise TranscriptError("an identity of an unknown kind", "use age-keygen's, or an ssh-ed25519 private key")


def generate_identity(*, post_quantum: bool = False) -> tuple[str, str]:
    """Return a fresh identity and its recipient, as age writes them."""
    if post_quantum:
        seed = X25519PrivateKey.generate().private_bytes_raw()
        return bech32.encode("age-secret-key-pq-", seed).upper(), bech32.encode("age1pq", hybrid_key(seed)[1])
    key = X25519PrivateKey.generate()
    return bech32.encode("age-secret-key-", key.private_bytes_raw()).upper(), bech32.encode(
        "age", key.public_key().public_bytes_raw()
    )


def _parse_recipient(line: str) -> Recipient:
    text = " ".join(line.split()[:2]) if line.lstrip().startswith("ssh-") else line.strip()
    try:
        recipient = _known_recipient(text)
        recipient.wrap(bytes(FILE_KEY))  # a point of low order shows itself only in use
    except ValueError as error:
        raise ConfigurationError(
            f"auditor key {text[:40]!r} {str(error) or 'is malformed'}", "use age1…, age1pq1… or ssh-ed25519 AAAA…"
        ) from error
    return recipient


def _known_recipient(text: str) -> Recipient:
    if text.startswith("ssh-ed25519 "):
        blob = base64.b64decode(text.split()[1], validate=True)
        if len(blob) != len(SSH_BLOB) + KEY or not blob.startswith(SSH_BLOB):
            raise ValueError("is no ssh-ed25519 key")
        return SshRecipient(text, blob[len(SSH_BLOB) :])
    if not text.startswith("age1"):
        raise ValueError("is of a kind that cannot read transcripts")
    prefix, payload = bech32.decode(text)
    if prefix == "age" and len(payload) == KEY:
        return X25519Recipient(text, payload)
    if prefix == "age1pq" and len(payload) == MLKEM_PUBLIC + KEY:
        return HybridRecipient(text, payload)
    raise ValueError("is of a kind that cannot read transcripts")


def _ssh_private_key(path: Path, content: bytes) -> Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise TranscriptError(
            f"cannot use the SSH key {path}", "with a passphrase, use age -d -i KEY itself"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TranscriptError(f"{path} is no ssh-ed25519 key", "only ssh-ed25519 and age keys can be auditors")
    return key
