"""Whether a signature proves, for this very connection, that somebody holds the key that they name."""

import asyncssh
from asyncssh.packet import PacketDecodeError, SSHPacket, String
from asyncssh.public_key import decode_ssh_public_key

from bastion.keyring import Admission

_CERTIFICATE = b"-cert-v01@openssh.com"
_SECURITY_KEY = b"sk-"
_VERIFIED = 0x04  # the flag of a security key that its holder gave a PIN or a finger (WebAuthn §6.1)
_RSA = frozenset({b"rsa-sha2-256", b"rsa-sha2-512"})  # RFC 8332; ssh-rsa is SHA-1


def is_proof(
    admission: Admission, *, username: str, session_id: bytes, key_data: bytes, message: bytes, signature: bytes
) -> bool:
    """Tell whether the signed request (RFC 4252 §7) is for this name and key, strong, and signed by the key.

    asyncssh normalises Unicode look-alikes in names, takes any algorithm's name for any key, and SHA-1: none of that
    passes here. Of a security key's signature the touch, and the PIN or finger, are looked for where they are required.
    """
    try:
        name, algorithm, named_key = _request(message)
        packet = SSHPacket(signature)
        signed_with, _ = packet.get_string(), packet.get_string()
        plain_type = SSHPacket(admission.key).get_string()
        flags = packet.get_byte() if plain_type.startswith(_SECURITY_KEY) else 0
        key = decode_ssh_public_key(admission.key)
    except (PacketDecodeError, asyncssh.KeyImportError):
        return False
    if (name, named_key) != (username.encode(), key_data):
        return False
    if signed_with not in (_RSA if plain_type == b"ssh-rsa" else {plain_type}):
        return False
    if algorithm != (signed_with if key_data == admission.key else _certified(signed_with)):
        return False
    if admission.verify_required and not flags & _VERIFIED:
        return False
    key.set_touch_required(admission.touch_required)
    return key.verify(String(session_id) + message, signature)


def _request(message: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the user name, the algorithm and the key of a publickey request."""
    packet = SSHPacket(message)
    packet.get_byte()
    name, _service, _method = (packet.get_string() for _ in range(3))
    packet.get_boolean()
    algorithm, key_data = packet.get_string(), packet.get_string()
    packet.check_end()
    return name, algorithm, key_data


def _certified(algorithm: bytes) -> bytes:
    """Return the name that an algorithm has with a certificate: `sk-ssh-ed25519@openssh.com` loses its domain."""
    return algorithm.removesuffix(b"@openssh.com") + _CERTIFICATE
