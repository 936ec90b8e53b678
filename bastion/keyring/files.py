"""Read and write the key home's files: bounded, atomically, with checks of mode and owner.

"Cannot read" is never "is gone": `is_gone` and `is_unread` distinguish the two, and no function here turns an OSError
into an empty list. file_store.py documents the consequences of each.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bastion.errors import ConfigurationError

SIZE_LIMIT = 4 * 2**20  # bytes of one file of the key home
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnfitError(OSError):
    """The file's owner, mode, kind or length is wrong: the file was inspected, so this is no failure to read."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)


def is_gone(error: OSError) -> bool:
    """Tell whether the error means that the file does not exist."""
    return error.errno in {errno.ENOENT, errno.ENOTDIR}


def is_unread(error: OSError) -> bool:
    """Tell whether the error leaves the file's contents unknown, as EMFILE, EIO and EACCES do."""
    return not is_gone(error) and not isinstance(error, UnfitError)


def exists(path: Path) -> bool:
    """Tell whether a file exists. `Path.exists` swallows errors, from Python 3.14 on all of them.

    Raises:
        OSError: stat(2) failed for another reason than a missing file.
    """
    try:
        path.stat()
    except OSError as error:
        if is_gone(error):
            return False
        raise
    return True


def read(path: Path) -> bytes:
    """Return the contents of a regular file that only the bastion's user and root can write.

    Raises:
        UnfitError: the file is too long or no regular file, or other users can write to it.
        OSError: the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError("is no regular file")
        if wrong := fault(status, OTHERS_WRITE):
            raise UnfitError(wrong)
        with open(descriptor, "rb", closefd=False) as file:
            contents = file.read(SIZE_LIMIT + 1)
    finally:
        os.close(descriptor)  # not by fdopen, which leaks the descriptor when it refuses a folder
    if len(contents) > SIZE_LIMIT:
        raise UnfitError(f"is longer than {SIZE_LIMIT} bytes")
    return contents


def fault(found: os.stat_result, forbidden: int) -> str:
    """Say what is wrong with a file's owner, or with its mode where it has one of the forbidden bits."""
    if found.st_uid not in {os.geteuid(), 0}:
        return f"belongs to the user id {found.st_uid}, not to us or root"
    if found.st_mode & forbidden:
        verb = "written" if forbidden == OTHERS_WRITE else "used"
        return f"can be {verb} by others than its owner (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def private_fault(path: Path) -> ConfigurationError | None:
    """Return what is wrong with a file or folder that nobody else may read or write, with the command that mends it."""
    try:
        found = path.stat()
    except OSError as error:
        failure = ConfigurationError(f"{path}: {words(error)}", "bastion keys init")
        failure.__cause__ = error
        return failure
    wrong = fault(found, OTHERS)
    if not wrong:
        return None
    if found.st_uid not in {os.geteuid(), 0}:
        return ConfigurationError(f"{path}: {wrong}", f"chown {os.geteuid()} {path}")
    return ConfigurationError(f"{path}: {wrong}", f"chmod {700 if stat.S_ISDIR(found.st_mode) else 600} {path}")


def public_fault(path: Path) -> str:
    """Say what is wrong with a folder that others may read but not write."""
    try:
        return fault(path.stat(), OTHERS_WRITE)
    except OSError as error:
        return words(error)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can use; one that exists is given that mode."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def write_private(path: Path, contents: bytes, *, durable: bool = True) -> None:
    """Replace a file at once, so that a reader or a crash sees the old contents or the new, never a part.

    Its mode is 0600. Not `durable` leaves it to the system when it reaches the disk, and waits for none.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(contents)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that also ask for it from changing the folder's contents.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def visible(folder: Path) -> list[Path]:
    """List a folder's files by name, those that begin with a dot left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def words(error: OSError) -> str:
    """Say what the system says, in lower case."""
    return (error.strerror or "cannot be used").lower()
