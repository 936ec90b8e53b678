"""Sign what there is of a transcript: a finished one as complete, what a crash or a failure left as unclean."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bastion.transcripts.ledger import Ledger
from bastion.transcripts.signing import UNCLEAN, Signer, file_digest
from bastion.transcripts.wal import part_number

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


def write_signature(path: Path, signature: bytes) -> None:
    """Put a signature beside its transcript, all of it or nothing, and bring both names to the disk.

    Raises:
        OSError: the volume did not take it.
    """
    target = signature_path(path)
    partial = target.with_suffix(".sig.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.write(signature)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk.

    Raises:
        OSError: the volume did not take it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(directory: Path, path: Path, signer: Signer, ledger: Ledger, reason: str) -> None:
    """Sign an unfinished transcript as unclean, and put every file of it on the ledger with its size and SHA-256.

    Raises:
        OSError: a file cannot be read, or the volume did not take the signature.
        RecordingFailed: the ledger did not take the line.
    """
    files = {}
    for file in [path, *parts_of(path)]:
        size, digest = file_digest(file)
        files[file.name] = [size, digest.hex()]
        if file == path:
            write_signature(path, signer.sign_file(digest, UNCLEAN))
    ledger.write(
        "sealed", {"uid": uid_of(path), "path": str(path.relative_to(directory)), "files": files, "reason": reason}
    )
