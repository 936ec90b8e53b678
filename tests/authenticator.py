"""A security key in software: signs as a FIDO authenticator does, with the flags that a test wants (PROTOCOL.u2f)."""

from hashlib import sha256

from asyncssh.packet import Byte, MPInt, String, UInt32
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PRESENT, VERIFIED = 0x01, 0x04
_APPLICATION = b"ssh:"


class SecurityKey:
    """One credential; `flags` go into every signature and are covered by it. Has what tests use of an asyncssh key."""

    def __init__(self, kind: str, flags: int = PRESENT) -> None:
        self.flags = flags
        self.algorithm = f"sk-{kind}@openssh.com".encode()
        self._edwards = Ed25519PrivateKey.generate() if kind == "ssh-ed25519" else None
        self._curve = generate_private_key(SECP256R1())
        self._counter = 0

    @property
    def public_data(self) -> bytes:
        """The public key in SSH wire format."""
        if self._edwards is not None:
            point = self._edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return String(self.algorithm) + String(point) + String(_APPLICATION)
        point = self._curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return String(self.algorithm) + String("nistp256") + String(point) + String(_APPLICATION)

    def sign(self, data: bytes, _algorithm: bytes) -> bytes:
        """Return the signature with its flags and counter, in SSH wire format."""
        self._counter += 1
        made = Byte(self.flags) + UInt32(self._counter)
        message = sha256(_APPLICATION).digest() + made + sha256(data).digest()
        if self._edwards is not None:
            signature = self._edwards.sign(message)
        else:
            r, s = decode_dss_signature(self._curve.sign(message, ECDSA(hashes.SHA256())))
            signature = MPInt(r) + MPInt(s)
        return String(self.algorithm) + String(signature) + made
