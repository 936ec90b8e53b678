"""Who may read a transcript: age and SSH public keys wrap a file key, their private halves unwrap it (C2SP age)."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from bastion.errors import ConfigurationError, TranscriptError
from bastion.transcripts import bech32

FILE_KEY: Final = 16
_KEY: Final = 32
_WRAPPED: Final = FILE_KEY + 16
_ENCAPSULATED: Final = 1120
_MLKEM_PUBLIC: Final = 1184
_MLKEM_SEED: Final = 64
_X25519_INFO: Final = b"age-encryption.org/v1/X25519"
_SSH_INFO: Final = b"age-encryption.org/v1/ssh-ed25519"
_HYBRID_INFO: Final = b"age-encryption.org/mlkem768x25519"
_SSH_BLOB: Final = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_PRIME: Final = 2**255 - 19
_LARGEST_IDENTITY: Final = 64 * 1024


@dataclass(frozen=True)
class Stanza:
    """One recipient's wrapping of the file key, as it stands in an age header."""

    arguments: tuple[str, ...]
    body: bytes


class Recipient(Protocol):
    """A public key that a file key can be wrapped to."""

    @property
    def text(self) -> str:
        """The public key as it was configured, without a comment."""
        ...

    @property
    def post_quantum(self) -> bool:
        """Whether a quantum computer cannot unwrap it; such keys are not mixed with others."""
        ...

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap 16 bytes of file key; a fresh ephemeral key is drawn each time."""
        ...


class Identity(Protocol):
    """A private key that unwraps what was wrapped to its public half."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Return the 16 bytes of file key, or None when the stanza is not for this key.

        Raises:
            TranscriptError: the stanza is of this key's kind but malformed.
        """
        ...


@dataclass(frozen=True)
class _X25519Recipient:
    text: str
    key: bytes
    post_quantum: bool = False

    def wrap(self, file_key: bytes) -> Stanza:
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(self.key))
        body = _seal(derive(secret, share + self.key, _X25519_INFO), file_key)
        return Stanza(("X25519", unpadded(share)), body)


@dataclass(frozen=True)
class _SshRecipient:
    text: str
    key: bytes  # the Ed25519 point
    post_quantum: bool = False

    def wrap(self, file_key: bytes) -> Stanza:
        blob, point = _SSH_BLOB + self.key, _montgomery(self.key)
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        secret = _tweaked(blob, ephemeral.exchange(X25519PublicKey.from_public_bytes(point)))
        return Stanza(
            ("ssh-ed25519", _tag(blob), unpadded(share)), _seal(derive(secret, share + point, _SSH_INFO), file_key)
        )


@dataclass(frozen=True)
class _HybridRecipient:
    text: str
    key: bytes  # ML-KEM-768 (1184 bytes), then X25519
    post_quantum: bool = True

    def wrap(self, file_key: bytes) -> Stanza:
        public = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.key[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(self.key[_MLKEM_PUBLIC:]),
        )
        sealed = _suite().encrypt(file_key, public, info=_HYBRID_INFO)
        return Stanza(("mlkem768x25519", unpadded(sealed[:_ENCAPSULATED])), sealed[_ENCAPSULATED:])


@dataclass(frozen=True, repr=False)
class _X25519Identity:
    key: X25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.arguments[0] != "X25519":
            return None
        share = _share(stanza, 2, _KEY)
        salt = share + self.key.public_key().public_bytes_raw()
        return _open(derive(_exchange(self.key, share), salt, _X25519_INFO), stanza.body)


@dataclass(frozen=True, repr=False)
class _SshIdentity:
    key: Ed25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        public = self.key.public_key().public_bytes_raw()
        blob = _SSH_BLOB + public
        if stanza.arguments[:2] != ("ssh-ed25519", _tag(blob)):
            return None
        share = _share(stanza, 3, _KEY)
        scalar = X25519PrivateKey.from_private_bytes(hashlib.sha512(self.key.private_bytes_raw()).digest()[:_KEY])
        secret = _tweaked(blob, _exchange(scalar, share))
        return _open(derive(secret, share + _montgomery(public), _SSH_INFO), stanza.body)


@dataclass(frozen=True, repr=False)
class _HybridIdentity:
    key: hpke.MLKEM768X25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.arguments[0] != "mlkem768x25519":
            return None
        encapsulated = _share(stanza, 2, _ENCAPSULATED)
        try:
            return _suite().decrypt(encapsulated + stanza.body, self.key, info=_HYBRID_INFO)
        except InvalidTag:
            return None


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
        return (_SshIdentity(_ssh_private_key(path, content)),)
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
        if len(payload) == _KEY and prefix == "age-secret-key-":
            return _X25519Identity(X25519PrivateKey.from_private_bytes(payload))
        if len(payload) == _KEY and prefix == "age-secret-key-pq-":
            return _HybridIdentity(hybrid_key(payload)[0])
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


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), _KEY, salt, info).derive(secret)


def unpadded(payload: bytes) -> str:
    """Return standard base64 without `=`."""
    return base64.b64encode(payload).decode().rstrip("=")


def from_unpadded(text: str) -> bytes:
    """Return what canonical, unpadded base64 stands for.

    Raises:
        ValueError: it is not canonical, or not base64.
    """
    payload = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if unpadded(payload) != text:
        raise ValueError("is not canonical base64")
    return payload


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
        if len(blob) != len(_SSH_BLOB) + _KEY or not blob.startswith(_SSH_BLOB):
            raise ValueError("is no ssh-ed25519 key")
        return _SshRecipient(text, blob[len(_SSH_BLOB) :])
    if not text.startswith("age1"):
        raise ValueError("is of a kind that cannot read transcripts")
    prefix, payload = bech32.decode(text)
    if prefix == "age" and len(payload) == _KEY:
        return _X25519Recipient(text, payload)
    if prefix == "age1pq" and len(payload) == _MLKEM_PUBLIC + _KEY:
        return _HybridRecipient(text, payload)
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


def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def hybrid_key(seed: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    """Expand 32 bytes of seed to the private key and the 1216 bytes of its public half (draft-ietf-hpke-pq)."""
    expanded = hashlib.shake_256(seed).digest(_MLKEM_SEED + _KEY)
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED])
    curve = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED:])
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, curve), public


def _tag(blob: bytes) -> str:
    return unpadded(hashlib.sha256(blob).digest()[:4])


def _tweaked(blob: bytes, shared: bytes) -> bytes:
    tweak = X25519PrivateKey.from_private_bytes(derive(b"", blob, _SSH_INFO))
    return tweak.exchange(X25519PublicKey.from_public_bytes(shared))


def _montgomery(point: bytes) -> bytes:
    """Map an Ed25519 point to its X25519 u-coordinate, (1 + y) / (1 - y) (RFC 7748 §4.1)."""
    y = int.from_bytes(point, "little") & 2**255 - 1
    if y >= _PRIME or y == 1:
        raise ValueError("is no point on the curve")
    return ((1 + y) * pow(1 - y, -1, _PRIME) % _PRIME).to_bytes(_KEY, "little")


def _share(stanza: Stanza, arguments: int, size: int) -> bytes:
    try:
        share = from_unpadded(stanza.arguments[-1])
    except ValueError as error:
        raise TranscriptError("the age header has a malformed stanza", "the file was altered") from error
    if len(stanza.arguments) != arguments or len(share) != size or len(stanza.body) != _WRAPPED:
        raise TranscriptError("the age header has a malformed stanza", "the file was altered")
    return share


def _exchange(key: X25519PrivateKey, share: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError as error:
        raise TranscriptError("the age header has a share of low order", "the file was altered") from error


def _seal(key: bytes, file_key: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)


def _open(key: bytes, body: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), body, None)
    except InvalidTag:
        return None
