"""The audit signing key: made, loaded with its modes checked, and used for SSHSIG signatures that ssh-keygen checks."""

import base64
import binascii
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from bastion.errors import ConfigurationError
from bastion.transcripts.layout import open_regular

COMPLETE: Final = "bastion-transcript"
UNCLEAN: Final = "bastion-transcript-unclean"
MAX_SIGNATURE_BYTES: Final = 16 * 1024
_BLOCK_BYTES: Final = 2**20
_PRINCIPAL: Final = "bastion"
_WIDTH: Final = 70
_MAKE: Final = "bastion keys init makes one"


class Signer:
    """Holds the private key and knows the file it came from.

    Raises:
        ConfigurationError: the file is missing, not ours, readable by others, or no Ed25519 key without passphrase.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_loaded = False
        self.check()
        try:
            key = load_ssh_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"cannot use the signing key {path}: {error}", _MAKE) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"the signing key {path} is not an ssh-ed25519 key", _MAKE)
        self._key = key
        self._is_loaded = True

    def check(self) -> None:
        """Look whether the key's file is still as it must be.

        A file that cannot be looked at (EIO, EACCES) is not gone: the key that was loaded goes on signing.

        Raises:
            ConfigurationError: it is gone, not ours, or readable by others.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR} and self._is_loaded:
                return
            raise ConfigurationError(f"no signing key at {self.path}: {error.strerror}", _MAKE) from error
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"the signing key {self.path} is not a file of this user", f"chown it to user id {os.geteuid()}"
            )
        if status.st_mode & 0o077:
            raise ConfigurationError(f"the signing key {self.path} is open to others", f"chmod 600 {self.path}")

    def verifier(self) -> "Verifier":
        """Return the public half of this key."""
        return Verifier(self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a plain Ed25519 signature."""
        return self._key.sign(message)

    def sign_file(self, digest: bytes, namespace: str) -> bytes:
        """Return the armored SSHSIG over a file with that SHA-256 (OpenSSH PROTOCOL.sshsig)."""
        import asyncssh  # noqa: PLC0415 - 0.4 s that no reading command should wait for

        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        key = asyncssh.import_private_key(pem)
        blob = asyncssh.create_sshsig(key, digest, is_hashed=True, hash_name="sha256", namespace=namespace, raw=True)
        return _armor(blob)


class Verifier:
    """Checks what the signing key signed, with its public half alone."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a plain Ed25519 signature is good."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def verify_file(self, digest: bytes, namespace: str, armored: bytes) -> str | None:
        """Return None when the SSHSIG is this key's over a file with that SHA-256, else what is wrong with it."""
        blob = self._key.public_bytes_raw()
        public = _string(b"ssh-ed25519") + _string(blob)
        head = b"SSHSIG\0\0\0\1" + _string(public) + _string(namespace.encode()) + _string(b"") + _string(b"sha256")
        try:
            body = b"".join(armored.split(b"\n")[1:-2])
            signed = base64.b64decode(body, validate=True)
        except (ValueError, binascii.Error):
            return "the signature is malformed"
        signature = signed[-64:]
        if _armor(head + _string(_string(b"ssh-ed25519") + _string(signature))) != armored:
            return "it is signed by another key, or for something else"
        message = b"SSHSIG" + _string(namespace.encode()) + _string(b"") + _string(b"sha256") + _string(digest)
        return None if self.verify(message, signature) else "the signature is not over this file"


def load_verifier(path: Path) -> Verifier:
    """Return the verifier for the public half of the signing key, a .pub file.

    Raises:
        ConfigurationError: there is no ssh-ed25519 public key at the path.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"cannot use the public key {path}: {error}", "give the .pub file beside the signing key"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is not an ssh-ed25519 key", "give the .pub file beside the signing key")
    return Verifier(key)


def generate_signing_key(path: Path) -> Path:
    """Make an Ed25519 key at `path` (0600), its public half beside it, and `allowed_signers` for ssh-keygen.

    Returns the public half's path.

    Raises:
        ConfigurationError: one is there already, or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    beside = path.with_name(path.name + ".pub")
    try:
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
        beside.write_text(f"{public} bastion audit signing key\n", encoding="ascii")
        signers = path.with_name("allowed_signers")
        signers.write_text(f'{_PRINCIPAL} namespaces="{COMPLETE},{UNCLEAN}" {public}\n', encoding="ascii")
    except FileExistsError as error:
        raise ConfigurationError(f"there is a signing key at {path} already", "move it away to make another") from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the signing key {path}: {error.strerror}", "make its folder writable"
        ) from error
    return beside


def file_digest(path: Path) -> tuple[int, bytes]:
    """Return a file's size and its SHA-256.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
        return file.tell(), digest.digest()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _string(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def _armor(blob: bytes) -> bytes:
    text = base64.b64encode(blob)
    lines = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----", b""])
