"""What a transcript's files are called and where they lie below the directory of transcripts."""

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from bastion.transcripts.wal import part_number

LOCK: Final = ".lock"
SUFFIX: Final = ".cast.age"
UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def transcripts_in(directory: Path) -> Iterator[Path]:
    """Give the path of every transcript, by date and then uid; other files are passed over."""
    for path in sorted(directory.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/*" + SUFFIX)):
        if UID.fullmatch(uid_of(path)) and path.is_file() and not path.is_symlink():
            yield path


def uid_of(path: Path) -> str:
    """Return the uid that is the name of a transcript's file."""
    return path.name.removesuffix(SUFFIX)


def signature_path(path: Path) -> Path:
    """Return where the signature of a transcript lies."""
    return path.with_name(uid_of(path) + ".sig")


def parts_of(path: Path) -> list[Path]:
    """Return the write-ahead files of a transcript, in order."""
    numbered = [(part_number(part), part) for part in path.parent.glob(f"{uid_of(path)}.*.wal") if part.is_file()]
    return [part for number, part in sorted((number, part) for number, part in numbered if number is not None)]


class Parts:
    """The write-ahead files of many transcripts: each folder is listed once, where `parts_of` lists it each time."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[tuple[int, Path]]]] = {}

    def of(self, path: Path) -> list[Path]:
        """Return the write-ahead files of a transcript, in order, as they were when its folder was first listed."""
        if path.parent not in self._folders:
            self._folders[path.parent] = _list_parts(path.parent)
        return [part for _, part in sorted(self._folders[path.parent].get(uid_of(path), []))]


def _list_parts(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    parts = defaultdict(list)
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - a Path for every file of a large folder costs seconds
            if name.endswith(".wal") and (number := part_number(path := folder / name)) is not None:
                parts[name.removesuffix(".wal").rpartition(".")[0]].append((number, path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return parts


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading: no symbolic link, and no FIFO, which would wait for a writer.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")
