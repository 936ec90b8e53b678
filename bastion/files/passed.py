"""What passed of one opened file, each way, and how it is summed up when the file is closed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bastion.files import Changes, Mode
from bastion.model import FileOperation


@dataclass(slots=True)
class Passed:
    """What passed one way: how much, its digest, where it began in the file and whether it went on from there."""

    size: int = 0
    begin: int | None = None
    in_order: bool = True
    failure: str = ""
    digest: Any = field(default_factory=hashlib.sha256)  # hashlib does not name its type

    def add(self, offset: int | None, data: bytes) -> None:
        """Take a piece in; no offset is wherever the last one ended."""
        if offset is not None:
            self.begin = offset if self.begin is None else self.begin
            self.in_order = self.in_order and offset == self.begin + self.size
        self.size += len(data)
        self.digest.update(data)

    def note(self) -> str:
        """Say what the digest is not to be taken for."""
        if not self.in_order:
            return "not in the file's order"
        return f"from byte {self.begin} on" if self.begin else ""


@dataclass(slots=True)
class Account:
    """What passed of one opened file. `stream` is the number of what is read of it; what is written has the next."""

    path: bytes
    mode: Mode
    stream: int
    _read: Passed | None = None
    _written: Passed | None = None

    def reading(self) -> Passed:
        """Return what was read of it; from now on it counts as read from."""
        self._read = self._read or Passed()
        return self._read

    def writing(self) -> Passed:
        """Return what was written to it; from now on it counts as written to."""
        self._written = self._written or Passed()
        return self._written

    @property
    def was_read(self) -> bool:
        """Whether it counts as read from."""
        return self._read is not None

    def sum_up(self, result: str, *, read_note: str = "") -> Iterator[FileOperation]:
        """Give an operation for each way that was used; for one that was not used at all, by how it was opened."""
        if self._read is None and self._written is None:
            _ = self.writing() if self.mode.write else self.reading()
        for operation, stream, passed, note in (
            ("read", self.stream, self._read, read_note),
            ("write", self.stream + 1, self._written, ""),
        ):
            if passed is not None:
                yield FileOperation(
                    operation,
                    self.path,
                    passed.failure or result,
                    size=passed.size,
                    sha256=passed.digest.hexdigest(),
                    stream=stream,
                    note=", ".join(filter(None, (passed.note(), note))),
                )


def ways(mode: Mode) -> str:
    """Say how a file is opened."""
    names = ("read", "write", "append", "create", "truncate", "exclusive")
    return ", ".join(name for name in names if getattr(mode, name))


def words_of(changes: Changes) -> str:
    """Say what is changed of a file."""
    words = []
    if changes.size is not None:
        words.append(f"size {changes.size}")
    if changes.permissions is not None:
        words.append(f"permissions {changes.permissions:04o}")
    if changes.owner is not None:
        words.append(f"owner {changes.owner[0]}:{changes.owner[1]}")
    if changes.times is not None:
        words.append(f"accessed {changes.times[0]}, modified {changes.times[1]}")
    return ", ".join(words)
