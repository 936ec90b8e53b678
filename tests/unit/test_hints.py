"""What a client is told when the container has not the program that a copy needs."""

import pytest

from bastion.files.hints import hint_for
from bastion.model import Exit

SERVER = "rsync --server -vlogDtpre.iLsfxCIvu . /app/"


def test_rsync_that_is_missing_is_told() -> None:
    """A client of rsync hears that the container has none, and what to do instead."""
    assert hint_for(SERVER, Exit(127)) == "bastion: hint: the container has no rsync; copy with scp or sftp"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (SERVER, Exit(0)),
        (SERVER, Exit(12)),
        (SERVER, Exit(127, "KILL")),
        ("rsync -a x y", Exit(127)),
        ("ls", Exit(127)),
    ],
)
def test_nothing_else_is_told(command: str, status: Exit) -> None:
    """Another status, or another command, says enough itself."""
    assert hint_for(command, status) is None
