"""Which real paths a person may read and write: patterns are compared here, and nothing is looked up."""

import re
from collections.abc import Sequence
from typing import Final, Literal

from bastion.model import FileAccess

Right = Literal["see", "read", "write"]

_WORDS: Final = re.compile(r"\*\*+|\*|\?|[^*?]+")
_UNDER: Final = "/**"


class Judge:
    """Judges real paths, absolute and without links, `.` and `..`, by what may be read and written."""

    def __init__(self, access: FileAccess) -> None:
        self.access = access
        self._read = _parse(access.read)
        self._write = _parse(access.write)
        self._folders = [_folder(pattern) for pattern in (*access.read, *access.write)]

    def verdict(self, right: Right) -> bool | None:
        """Return whether every path is allowed, or none is; None where it depends on the path."""
        patterns = {"read": self.access.read, "write": self.access.write}
        asked = patterns[right] if right != "see" else (*self.access.read, *self.access.write)
        return True if "/**" in asked else None if asked else False

    @property
    def depends_on_paths(self) -> bool:
        """Whether something may be read or written at one path and not at another."""
        return None in (self.verdict("read"), self.verdict("write"))

    def allows(self, right: Right, path: bytes) -> bool:
        """Tell whether the path may be seen, read or written."""
        return {"see": self.may_see, "read": self.may_read, "write": self.may_write}[right](path)

    def allows_below(self, right: Literal["read", "write"], folder: bytes) -> bool:
        """Tell whether all that a folder holds, however deep, may be read or written."""
        patterns = self._read if right == "read" else self._write
        return _fits_any([words for words in patterns if words[-1].startswith("**")], folder.rstrip(b"/") + b"/")

    def may_read(self, path: bytes) -> bool:
        """Tell whether a file's contents, a folder's list and a link's target may be read."""
        return _fits_any(self._read, path)

    def may_write(self, path: bytes) -> bool:
        """Tell whether the path may be made, written, renamed, changed and removed."""
        return _fits_any(self._write, path)

    def may_see(self, path: bytes) -> bool:
        """Tell whether it may be said that the path is there, and what it is."""
        return self.may_read(path) or self.may_write(path) or self.is_on_the_way(path)

    def is_on_the_way(self, path: bytes) -> bool:
        """Tell whether a path is a folder above what a pattern allows, as far as the pattern has no wildcard.

        It may be passed through and looked at, so that clients find their way; it may not be listed.
        """
        above = path.rstrip(b"/") + b"/"
        return any((folder.rstrip(b"/") + b"/").startswith(above) for folder in self._folders)

    def start(self, home: bytes) -> bytes:
        """Return the folder a session begins in: home, or where the first pattern leads when home is out of bounds."""
        if self.may_read(home) or self.may_write(home) or not self._folders:
            return home
        return self._folders[0]


def _parse(patterns: Sequence[str]) -> list[list[str]]:
    """Take patterns apart into wildcards and what stands between; one for all under a folder is one for it too."""
    folders = [pattern.removesuffix(_UNDER) or "/" for pattern in patterns if pattern.endswith(_UNDER)]
    return [_WORDS.findall(pattern) for pattern in (*patterns, *folders)]


def _folder(pattern: str) -> bytes:
    """Return the last folder that a pattern names without a wildcard."""
    literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return (literal.rpartition("/")[0] or "/").encode()


def _fits_any(patterns: Sequence[Sequence[str]], path: bytes) -> bool:
    text = path.decode("utf-8", "surrogateescape")  # so that `?` is a character, and a byte where there is none
    return any(_fits(words, text) for words in patterns)


def _fits(words: Sequence[str], text: str) -> bool:
    """Compare in time that grows with the path only: a regular expression could be kept busy for ever by a long one.

    `places` are where in the text the words so far may end.
    """
    places = {0}
    for word in words:
        if word == "?":
            places = {place + 1 for place in places if place < len(text) and text[place] != "/"}
        elif word == "*":
            places = _up_to_slashes(places, text)
        elif word.startswith("**"):
            places = set(range(min(places), len(text) + 1))
        else:
            places = {place + len(word) for place in places if text.startswith(word, place)}
        if not places:
            return False
    return len(text) in places


def _up_to_slashes(places: set[int], text: str) -> set[int]:
    reached: set[int] = set()
    end = -1
    for place in sorted(places):
        if place > end:
            slash = text.find("/", place)
            end = len(text) if slash < 0 else slash
            reached.update(range(place, end + 1))
    return reached
