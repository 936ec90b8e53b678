"""Sign what there is of a transcript: a finished one as complete, what a crash or a failure left as unclean."""

import os
from pathlib import Path

from bastion.transcripts import ledger as ledgers
from bastion.transcripts.layout import parts_of, signature_path, transcripts_in, uid_of
from bastion.transcripts.signing import UNCLEAN, Signer, file_digest


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


def seal(directory: Path, path: Path, signer: Signer, ledger: ledgers.Ledger, reason: str) -> None:
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


def seal_leftovers(directory: Path, signer: Signer, ledger: ledgers.Ledger) -> None:
    """Seal every transcript that a crash left unfinished, and finish the removal of what was closed before it.

    Raises:
        OSError: a file cannot be read or removed, or the volume did not take a signature.
        RecordingFailed: the ledger did not take a line.
    """
    found = [path for path in transcripts_in(directory) if parts_of(path) or not signature_path(path).exists()]
    if not found:
        return
    last = {}
    if ledger.path.exists():
        names = {uid_of(path) for path in found}
        for entry in ledgers.read(ledger.path, None):
            if entry.fields.get("uid") in names:
                last[entry.fields["uid"]] = entry.fields.get("event")
    for path in found:
        match last.get(uid_of(path)):
            case "closed" if signature_path(path).exists():
                for part in parts_of(path):
                    part.unlink()
            case "sealed" if signature_path(path).exists():
                continue
            case _:
                seal(directory, path, signer, ledger, "the bastion ended while it was open")
