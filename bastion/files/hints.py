"""What a client is told beside a program's own words, when a copy failed for want of a program in the container."""

from typing import Final

from bastion.model import Exit

_RSYNC: Final = "rsync --server "  # what every rsync client has its other end run
_NOT_FOUND: Final = 127  # of a POSIX shell


def hint_for(command: str, status: Exit) -> str | None:
    """Return the line for a command that ended like this; None where there is nothing to say."""
    if command.startswith(_RSYNC) and status == Exit(_NOT_FOUND):
        return "bastion: hint: the container has no rsync; copy with scp or sftp"
    return None
