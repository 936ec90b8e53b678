"""Which real paths a person may read and write: patterns are compared here, and nothing is looked up."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from bastion.model import FileAccess
from bastion.patterns import Matcher, path_matcher

Right = Literal["see", "read", "write"]

_UNDER: Final = "/**"


class Judge:
    """Judges real paths, absolute and without links, `.` and `..`, by what may be read and written."""

    def __init__(self, access: FileAccess) -> None:
        self.access = access
        self._read = _compile(access.read)
        self._write = _compile(access.write)
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
        matchers = self._read if right == "read" else self._write
        deep = (matcher for pattern, matcher in matchers.items() if pattern.endswith("**"))
        return _fits_any(deep, folder.rstrip(b"/") + b"/")

    def may_read(self, path: bytes) -> bool:
        """Tell whether a file's contents, a folder's list and a link's target may be read."""
        return _fits_any(self._read.values(), path)

    def may_write(self, path: bytes) -> bool:
        """Tell whether the path may be made, written, renamed, changed and removed."""
        return _fits_any(self._write.values(), path)

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


def _compile(patterns: Sequence[str]) -> dict[str, Matcher]:
    """Compile patterns; one for all under a folder is one for the folder too."""
    folders = [pattern.removesuffix(_UNDER) or "/" for pattern in patterns if pattern.endswith(_UNDER)]
    return {pattern: path_matcher(pattern) for pattern in (*patterns, *folders)}


def _folder(pattern: str) -> bytes:
    """Return the last folder that a pattern names without a wildcard."""
    literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return (literal.rpartition("/")[0] or "/").encode()


def _fits_any(matchers: Iterable[Matcher], path: bytes) -> bool:
    text = path.decode("utf-8", "surrogateescape")  # so that `?` is a character, and a byte where there is none
    return any(matcher.fits(text) for matcher in matchers)
