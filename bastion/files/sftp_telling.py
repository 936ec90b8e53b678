"""A person hears of what failed in a transfer in words, since SFTP version 3 has none that its programs show."""

from typing import Final

from bastion.errors import FileFailed, FileRefused
from bastion.log import shorten
from bastion.model import Channel

MOST_LINES: Final = 32

_LONGEST_PATH = 1024


class Telling:
    """Says each failure once, and at most so many of them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._said: set[str] = set()

    def tell(self, about: bytes, error: FileFailed) -> None:
        """Say what failed, about which path."""
        path = shorten(about.decode(errors="backslashreplace"), _LONGEST_PATH)
        words = f"{error.public}: {error.hint}" if isinstance(error, FileRefused) else error.public
        line = shorten(f"bastion: error: {path}: {words}" if path else f"bastion: error: {words}")
        if line in self._said or len(self._said) >= MOST_LINES:
            return
        self._said.add(line)
        self._channel.say(line)
        if len(self._said) == MOST_LINES:
            self._channel.say("bastion: error: more has failed than is said here")
