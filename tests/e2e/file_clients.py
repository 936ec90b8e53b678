"""The stock sftp and scp against a bastion of the tests' own, and trees of files to send through them."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.server import Bastion


def sftp(
    bastion: Bastion, batch: str, name: str = "web@mystack", user: str = "alice", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run the stock sftp with these lines as its batch."""
    words = ["sftp", "-b", "-", *_options(bastion, user), *options, f"{name}@127.0.0.1"]
    return subprocess.run(words, input=batch.encode(), capture_output=True, check=False, timeout=90, cwd=bastion.folder)


def scp(
    bastion: Bastion, *words: str, user: str = "alice", options: Sequence[str] = (), timeout: float = 90
) -> subprocess.CompletedProcess[bytes]:
    """Run the stock scp; `remote` gives the words for files of the container."""
    command = scp_command(bastion, *words, user=user, options=options)
    return subprocess.run(command, capture_output=True, check=False, timeout=timeout, cwd=bastion.folder)


def scp_command(bastion: Bastion, *words: str, user: str = "alice", options: Sequence[str] = ()) -> list[str]:
    """Return the words of the stock scp."""
    return ["scp", "-q", *_options(bastion, user), *options, *words]


def operations(bastion: Bastion, uid: str) -> list[dict[str, Any]]:
    """Return what the transcript of a session says of files."""
    return [json.loads(event[2]) for event in bastion.read(uid)[1:] if event[1] == "f"]


def remote(service: str, path: str = "") -> str:
    """Name a file of a service, for scp."""
    return f"{service}@mystack@127.0.0.1:{path}"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def every_byte(folder: Path, leave_out: bytes = b"") -> Path:
    """Make a folder with a file for every byte that a name may hold, and some names that shells misread."""
    folder.mkdir()
    names = [b"a" + bytes([byte]) + b"z" for byte in range(1, 256) if byte not in b"/" + leave_out]
    names += [b"-rf", b"--", b"*", b" ", b"$(id)", b"'\"", b"trailing ", b"..x", b".hidden", "ключ".encode()]
    if b"\n" not in leave_out:
        names += [b"\n", b"x\n", b"\n\ny"]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(name * 3)
    return folder


def tree(folder: Path) -> dict[bytes, bytes | None]:
    """Return what a folder holds: names and contents, None for a folder."""
    found: dict[bytes, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        found[os.fsencode(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found


def _options(bastion: Bastion, user: str) -> list[str]:
    return [
        "-F", "none",
        "-P", str(bastion.port),
        "-i", str(bastion.folder / f"{user}.key"),
        "-o", "IdentitiesOnly=yes",
        "-o", "IdentityAgent=none",
        "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={bastion.known_hosts}",
        "-o", "StrictHostKeyChecking=yes",
    ]  # fmt: skip
