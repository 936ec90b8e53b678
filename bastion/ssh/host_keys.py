"""The keys that the server shows, and the certificates that lie beside them for clients with @cert-authority."""

from collections.abc import Sequence
from pathlib import Path

import asyncssh
import structlog
from asyncssh.public_key import CERT_TYPE_HOST

from bastion.errors import ConfigurationError

HostKey = asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]

log = structlog.get_logger(__name__)


def read_host_keys(paths: Sequence[Path]) -> list[HostKey]:
    """Read private keys, each with the certificate `KEY-cert.pub` where there is one; one not valid now is left out.

    Raises:
        ConfigurationError: a file cannot be read, or a certificate is for another key or no host's.
    """
    return [_read(path) for path in paths]


def certificates_stamp(paths: Sequence[Path]) -> tuple[object, ...]:
    """Return what changes whenever one of the certificates does.

    Raises:
        OSError: one cannot be looked at; that it is gone is no error.
    """
    stamps = []
    for path in map(_certificate, paths):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        stamps.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _read(path: Path) -> HostKey:
    try:
        key = asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError) as error:
        raise ConfigurationError(f"host key {path}: {error}", "make a new one with: bastion keys init") from error
    beside = _certificate(path)
    hint = f"sign {path}.pub again, with ssh-keygen -h, or remove the certificate"
    try:
        certificate = asyncssh.read_certificate(beside)
    except FileNotFoundError:
        return key
    except (OSError, asyncssh.KeyImportError) as error:
        raise ConfigurationError(f"host certificate {beside}: {error}", hint) from error
    if not isinstance(certificate, asyncssh.public_key.SSHOpenSSHCertificate):
        raise ConfigurationError(f"host certificate {beside}: is none of OpenSSH's", hint)
    if certificate.key.public_data != key.public_data:
        raise ConfigurationError(f"host certificate {beside}: is for another key", hint)
    try:
        certificate.validate(CERT_TYPE_HOST, None)
    except ValueError as error:
        words = str(error).lower()
        if "type" in words:
            raise ConfigurationError(f"host certificate {beside}: is no host's", hint) from error
        log.warning("host certificate left out", path=str(beside), reason=words)
        return key
    return key, certificate


def _certificate(path: Path) -> Path:
    return path.with_name(f"{path.name}-cert.pub")
