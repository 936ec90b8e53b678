"""A key home of a test's own, and what tests say of keys in it."""

import base64
import subprocess
import time
from pathlib import Path

from bastion.keyring import IssuedKey, Keyring
from bastion.model import Identity

ADDRESS = "192.0.2.7"


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


def blob(public_line: str) -> bytes:
    words = public_line.split()
    index = next(i for i, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-")))
    return base64.b64decode(words[index + 1])


def generate(folder: Path, *options: str) -> str:
    """Make a key with the real ssh-keygen and return its public line."""
    path = folder / f"made{len(list(folder.glob('made*')))}"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", path, *options], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def write(keyring: Keyring, user: str, *lines: str) -> None:
    path = keyring.home / "users" / f"{user}.pub"
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)


def holder(keyring: Keyring, line: str, address: str = ADDRESS) -> str | None:
    identity = keyring.identify(blob(line), address)
    return None if identity is None else identity.user


def known(keyring: Keyring, issued: IssuedKey) -> Identity:
    keyring.refresh()
    identity = keyring.identify(blob(issued.public_line), ADDRESS)
    assert identity is not None
    return identity
