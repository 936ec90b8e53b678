"""Wrap an age file's key to a reader's public key, and unwrap it with the private one; three kinds (C2SP age)."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bastion.errors import TranscriptError

FILE_KEY: Final = 16
KEY: Final = 32
MLKEM_PUBLIC: Final = 1184
SSH_BLOB: Final = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"  # RFC 8709 §4: what comes before the point
_WRAPPED: Final = FILE_KEY + 16
_ENCAPSULATED: Final = 1120
_MLKEM_SEED: Final = 64
_X25519_INFO: Final = b"age-encryption.org/v1/X25519"
_SSH_INFO: Final = b"age-encryption.org/v1/ssh-ed25519"
_HYBRID_INFO: Final = b"age-encryption.org/mlkem768x25519"
_PRIME: Final = 2**255 - 19


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
class X25519Recipient:
    """An `age1…` key: an X25519 point."""

    text: str
    key: bytes
    post_quantum: bool = False

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key; see `Recipient`."""
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(self.key))
        body = _seal(derive(secret, share + self.key, _X25519_INFO), file_key)
        return Stanza(("X25519", unpadded(share)), body)


@dataclass(frozen=True)
class SshRecipient:
    """An `ssh-ed25519 …` key: an Ed25519 point, used as the X25519 one that it maps to."""

    text: str
    key: bytes
    post_quantum: bool = False

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key; see `Recipient`."""
        blob, point = SSH_BLOB + self.key, _montgomery(self.key)
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        secret = _tweaked(blob, ephemeral.exchange(X25519PublicKey.from_public_bytes(point)))
        return Stanza(
            ("ssh-ed25519", _tag(blob), unpadded(share)), _seal(derive(secret, share + point, _SSH_INFO), file_key)
        )


@dataclass(frozen=True)
class HybridRecipient:
    """An `age1pq1…` key: ML-KEM-768 (1184 bytes), then X25519."""

    text: str
    key: bytes
    post_quantum: bool = True

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key; see `Recipient`."""
        public = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.key[:MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(self.key[MLKEM_PUBLIC:]),
        )
        sealed = _suite().encrypt(file_key, public, info=_HYBRID_INFO)
        return Stanza(("mlkem768x25519", unpadded(sealed[:_ENCAPSULATED])), sealed[_ENCAPSULATED:])


@dataclass(frozen=True, repr=False)
class X25519Identity:
    """An `AGE-SECRET-KEY-1…`."""

    key: X25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; see `Identity`."""
        if stanza.arguments[0] != "X25519":
            return None
        share = _share(stanza, 2, KEY)
        salt = share + self.key.public_key().public_bytes_raw()
        return _open(derive(_exchange(self.key, share), salt, _X25519_INFO), stanza.body)


@dataclass(frozen=True, repr=False)
class SshIdentity:
    """An OpenSSH Ed25519 private key."""

    key: Ed25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; see `Identity`."""
        public = self.key.public_key().public_bytes_raw()
        blob = SSH_BLOB + public
        if stanza.arguments[:2] != ("ssh-ed25519", _tag(blob)):
            return None
        share = _share(stanza, 3, KEY)
        scalar = X25519PrivateKey.from_private_bytes(hashlib.sha512(self.key.private_bytes_raw()).digest()[:KEY])
        secret = _tweaked(blob, _exchange(scalar, share))
        return _open(derive(secret, share + _montgomery(public), _SSH_INFO), stanza.body)


@dataclass(frozen=True, repr=False)
class HybridIdentity:
    """An `AGE-SECRET-KEY-PQ-1…`."""

    key: hpke.MLKEM768X25519PrivateKey

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; see `Identity`."""
        if stanza.arguments[0] != "mlkem768x25519":
            return None
        encapsulated = _share(stanza, 2, _ENCAPSULATED)
        try:
            return _suite().decrypt(encapsulated + stanza.body, self.key, info=_HYBRID_INFO)
        except InvalidTag:
            return None


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), KEY, salt, info).derive(secret)


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


def hybrid_key(seed: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    """Expand 32 bytes of seed to the private key and the 1216 bytes of its public half (draft-ietf-hpke-pq)."""
    expanded = hashlib.shake_256(seed).digest(_MLKEM_SEED + KEY)
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED])
    curve = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED:])
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, curve), public


def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


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
    return ((1 + y) * pow(1 - y, -1, _PRIME) % _PRIME).to_bytes(KEY, "little")


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
