"""The keys that transcripts are encrypted to: every line of the files in auditors/, public halves only."""

from collections.abc import Sequence
from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.keyring import files


def recipients(folder: Path) -> list[str]:
    """List every recipient, without comments and repetitions: `age1…`, `ssh-ed25519 …`.

    Raises:
        ConfigurationError: the folder or a file cannot be read, others can write it, or a file holds a secret key.
    """
    if fault := files.public_fault(folder):
        raise ConfigurationError(f"{folder}: {fault}", f"bastion keys init or chmod 700 {folder}")
    try:
        paths = _paths(folder)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {files.words(error)}", f"chmod 700 {folder}") from error
    recipients: dict[str, None] = {}
    for path in paths:
        lines = [line.strip() for line in _read(path).splitlines()]
        recipients |= dict.fromkeys(line for line in lines if line and not line.startswith("#"))
    return list(recipients)


def faults(folder: Path) -> Sequence[ConfigurationError]:
    """Return one error for each faulty file.

    Raises:
        OSError: the folder cannot be listed.
    """
    faults = []
    for path in _paths(folder):
        try:
            _read(path)
        except ConfigurationError as error:
            faults.append(error)
    return faults


def _paths(folder: Path) -> list[Path]:
    """List the files of recipients; an editor's backup (`carol.pub~`) may hold a key that was removed, and is none.

    Raises:
        OSError: the folder cannot be listed.
    """
    return [path for path in files.visible(folder) if not path.name.endswith("~")]


def _read(path: Path) -> str:
    """Read one file; a secret key in it is refused, since the bastion must not be able to read what it wrote."""
    try:
        text = files.read(path).decode("ascii")
    except OSError as error:
        raise ConfigurationError(f"{path}: {files.words(error)}", f"chmod 600 {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: is no list of recipients", "put age1… or ssh-ed25519 lines into it"
        ) from error
    if "AGE-SECRET-KEY-" in text.upper() or "PRIVATE KEY" in text:
        raise ConfigurationError(
            f"{path}: holds a secret key", "leave it with the auditor, and put the age1… line here: age-keygen -y FILE"
        )
    return text
