"""The key home's folders and private keys: made, found, and refused where others could use them."""

from pathlib import Path
from typing import Final

from bastion.errors import ConfigurationError
from bastion.keyring import auditors, files
from bastion.keyring.file_store import unwritable
from bastion.keyring.making import private_key_fault, write_pair

_INIT: Final = "bastion keys init"


def private_keys(folder: Path) -> list[Path]:
    """List a folder's private keys: its files that do not end in .pub; a folder that is gone has no keys.

    Raises:
        OSError: the folder cannot be listed.
    """
    if not files.exists(folder):
        return []
    return [path for path in files.visible(folder) if path.suffix != ".pub"]


def signing_key(home: Path) -> Path:
    """Return the path of the private key that transcripts and the ledger are signed with."""
    return home / "signing" / "signing_ed25519"


def faults(home: Path) -> list[ConfigurationError]:
    """Return everything that keeps the key home from being used, each with the command that mends it."""
    try:
        return _faults(home)
    except OSError as error:
        return [ConfigurationError(f"{error.filename or home}: {files.words(error)}", f"chmod 700 {home}")]


def _faults(home: Path) -> list[ConfigurationError]:
    for folder in (home, home / "host", home / "signing"):
        if found := files.private_fault(folder):
            return [found]
    faults = [
        ConfigurationError(f"{home / name}: {words}", f"{_INIT} or chmod 700 {home / name}")
        for name in ("users", "auditors")
        if (words := files.public_fault(home / name))
    ]
    host_keys = private_keys(home / "host")
    if not host_keys:
        faults.append(ConfigurationError(f"{home / 'host'}: holds no host key", _INIT))
    private = [*host_keys, signing_key(home), *private_keys(home / "ca")]
    faults += [found for path in private if (found := files.private_fault(path) or private_key_fault(path))]
    return [*faults, *auditors.faults(home / "auditors")]


def init(home: Path, *, authority: bool) -> None:
    """Make the folders, a host key and the audit signing key, and with `authority` one that signs certificates.

    What is there stays as it is, but for folders' modes.

    Raises:
        ConfigurationError: the home cannot be written.
    """
    try:
        for name in (".", "host", "users", "auditors", "signing", "ca"):
            files.make_private_folder(home / name)
        with files.locked(home):
            if not private_keys(home / "host"):
                write_pair(home / "host" / "ssh_host_ed25519_key", "bastion host key")
            if authority and not private_keys(home / "ca"):
                write_pair(home / "ca" / "user_ca_ed25519", "bastion user certificate authority")
            if not files.exists(signing_key(home)):
                public = write_pair(signing_key(home), "bastion audit signing key")
                files.write_private(home / "signing" / "allowed_signers", f"bastion {public}\n".encode())
            if not files.exists(home / "revoked"):
                files.write_private(home / "revoked", b"# what opens nothing any more, one a line: keys/README.md\n")
    except OSError as error:
        raise unwritable(home, error) from error
