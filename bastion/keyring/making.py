"""Makes key pairs and signs certificates; the private half of what is issued is returned and written nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

from bastion.errors import ConfigurationError
from bastion.keyring import files
from bastion.keyring.authorized_keys import decode_key, fingerprint
from bastion.keyring.certificates import SERVICE, STACK

_INIT = "bastion keys init"
_EXTENSIONS = (b"permit-pty", b"permit-port-forwarding", b"permit-agent-forwarding")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key pair. The private half is here and nowhere else.

    `public_line` is its line in the key home, or the certificate, whose `serial` is 0 for a key without one.
    """

    private_text: str
    public_line: str
    fingerprint: str
    serial: int = 0
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a new certificate is to say: times in seconds since the epoch, sources as networks."""

    user: str
    valid_after: int
    valid_before: int
    stack: str | None = None
    service: str | None = None
    sources: Sequence[str] = ()


def make_pair() -> Ed25519PrivateKey:
    """Return a new Ed25519 key."""
    return Ed25519PrivateKey.generate()


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half as `ssh-ed25519 BASE64`."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def private_text(key: Ed25519PrivateKey) -> str:
    """Return the private half in OpenSSH's format, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def write_pair(path: Path, comment: str) -> str:
    """Make a pair of files, PATH and PATH.pub, and return the public line.

    Raises:
        OSError: they cannot be written.
    """
    key = make_pair()
    public = f"{public_text(key)} {comment}"
    files.write_private(path, private_text(key).encode())
    files.write_private(path.with_name(f"{path.name}.pub"), f"{public}\n".encode())
    return public


def private_key_fault(path: Path) -> ConfigurationError | None:
    """Return what is wrong with a file that must be a private key in OpenSSH's format."""
    try:
        load_ssh_private_key(files.read(path), None)
    except OSError as error:
        return ConfigurationError(f"{path}: {files.words(error)}", f"chmod 600 {path}")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return ConfigurationError(
            f"{path}: is no private key in OpenSSH's format without a passphrase",
            f"remove it and run {_INIT}, or ssh-keygen -p -N '' -f {path}",
        )
    return None


def certify(authority: Path, bounds: Bounds) -> IssuedKey:
    """Make a pair and a certificate for it, signed with the private key in the file.

    Raises:
        ConfigurationError: the file is no private key that can sign certificates, or others can use it.
    """
    if found := files.private_fault(authority) or private_key_fault(authority):
        raise found
    signer = load_ssh_private_key(files.read(authority), None)
    if not isinstance(signer, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise ConfigurationError(
            f"{authority}: its key signs no certificates", "use an Ed25519 key: ssh-keygen -t ed25519"
        )
    key, serial = make_pair(), randbits(63)
    place = "@".join(filter(None, (bounds.service, bounds.stack)))
    key_id = " ".join(filter(None, (bounds.user, place)))
    builder = (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .type(SSHCertificateType.USER)
        .serial(serial)
        .key_id(key_id.encode())
        .valid_principals([bounds.user.encode()])
        .valid_after(bounds.valid_after)
        .valid_before(bounds.valid_before)
    )
    critical = {STACK: bounds.stack, SERVICE: bounds.service, "source-address": ",".join(bounds.sources)}
    for name, value in critical.items():
        if value:
            builder = builder.add_critical_option(name.encode(), value.encode())
    for extension in _EXTENSIONS:
        builder = builder.add_extension(extension, b"")
    signed = builder.sign(signer).public_bytes().decode()
    by = signer.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split()
    return IssuedKey(
        private_text(key),
        f"{signed} {key_id}",
        fingerprint(decode_key(*public_text(key).split())),
        serial,
        fingerprint(decode_key(*by)),
    )
