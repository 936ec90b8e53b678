"""What a transcript's files are called and where they lie below the directory of transcripts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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
    found = [(part_number(part), part) for part in path.parent.glob(f"{uid_of(path)}.*.wal") if part.is_file()]
    return [part for number, part in sorted((number, part) for number, part in found if number is not None)]
