"""The folders of transcripts: nobody but the bastion's own user may write in them, or files could be put in."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.transcripts.ledger import FILE


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, none of them writable by others, whatever the umask.

    Raises:
        OSError: one cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o750)


def check_folders(directory: Path) -> None:
    """Require that the transcripts' directory, its folders and the ledger are this user's, and writable by nobody else.

    Raises:
        ConfigurationError: one is not, or cannot be looked at.
    """
    own = os.geteuid()
    try:
        for path in _paths(directory):
            status = path.stat()
            if status.st_uid != own:
                raise ConfigurationError(
                    f"{path} belongs to user id {status.st_uid}, who could replace transcripts in it",
                    f"chown -R {own} {directory}",
                )
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                who = "everybody" if status.st_mode & stat.S_IWOTH else f"group id {status.st_gid}"
                raise ConfigurationError(
                    f"{path} can be written by {who}, who could replace transcripts in it", f"chmod -R go-w {directory}"
                )
    except OSError as error:
        raise ConfigurationError(
            f"cannot look at {error.filename}: {error.strerror}", f"chown -R {own} {directory}"
        ) from error


def _paths(directory: Path) -> Iterator[Path]:
    if not directory.exists():
        return
    yield directory
    if (directory / FILE).exists():
        yield directory / FILE
    folders = [directory]
    for name in ("[0-9][0-9][0-9][0-9]", "[0-9][0-9]", "[0-9][0-9]"):  # year, month, day
        folders = [path for folder in folders for path in folder.glob(name) if path.is_dir()]
        yield from folders
