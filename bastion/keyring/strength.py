"""Which keys are strong enough to be anybody's, and whether an authority's signature is its own."""

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from bastion.keyring.authorized_keys import AuthorizedKey
from bastion.keyring.certificates import InvalidCertificateError, Packet, UserCertificate
from bastion.keyring.options import InvalidLineError, Options

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
_RSA_HASHES: Final = {b"rsa-sha2-256": hashes.SHA256, b"rsa-sha2-512": hashes.SHA512}  # ssh-rsa itself is SHA-1


def judge(key: AuthorizedKey) -> None:
    """Refuse a key whose type is not allowed, that is too weak, or that is not written as a server would write it.

    Raises:
        InvalidLineError: it is one of these, or its line demands what such a key cannot do.
    """
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
    if key.options.verify_required and not key.options.is_authority and not key.key_type.startswith("sk-"):
        raise InvalidLineError("has verify-required, which only a security key can do")


def judge_certified(certificate: UserCertificate) -> None:
    """Refuse a certificate whose key would not be accepted on a line of its own.

    Raises:
        InvalidLineError: it would not.
    """
    judge(AuthorizedKey(certificate.key_type, certificate.key, "", Options()))


def is_signed(certificate: UserCertificate, authority: AuthorizedKey) -> bool:
    """Tell whether the certificate's signature is the authority's, with SHA-2 where the key is RSA."""
    packet = Packet(certificate.signature)
    try:
        algorithm, signature = packet.string(), packet.string()
        message = certificate.signed
        if authority.key_type.startswith("sk-"):
            application = Packet(authority.blob)
            *_, name = application.strings()
            message = sha256(name).digest() + packet.take(5) + sha256(message).digest()
        packet.end()
        public = load_ssh_public_key(authority.public_text.encode())
        if isinstance(public, RSAPublicKey):
            public.verify(signature, message, PKCS1v15(), _RSA_HASHES[algorithm]())
            return True
        if algorithm != authority.key_type.encode():
            return False
        if isinstance(public, EllipticCurvePublicKey):
            numbers = Packet(signature)
            pair = [int.from_bytes(number, "big") for number in numbers.strings()]
            r, s = pair
            public.verify(encode_dss_signature(r, s), message, ECDSA(hashes.SHA256()))
            return True
        if isinstance(public, Ed25519PublicKey):
            public.verify(signature, message)
            return True
    except (InvalidSignature, InvalidCertificateError, KeyError, ValueError):
        return False
    return False
