"""What the keyring asks of where users' keys and revocations are kept: their lines as written, and changes to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it was written, and its place; `number` counts from 1. `user` is empty where it is nobody's own."""

    user: str
    text: bytes
    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


@dataclass(frozen=True, slots=True)
class Contents:
    """Every line of every user and of the revocation list; no line is judged yet.

    - `missing`: the revocation list's path, if there is no list.
    - `doubt`: the reason why the revocation list cannot be known.
    - `problems`: every other file that could not be read, each as `PATH: message`.
    - `unread`: the files whose lines are those of an earlier reading.
    """

    users: Sequence[Line] = ()
    revoked: Sequence[Line] = ()
    missing: str = ""
    doubt: str = ""
    problems: Sequence[str] = ()
    unread: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """Lines to add to users, to the list of what is revoked, and users' lines to remove."""

    added: Sequence[tuple[str, bytes]] = ()
    revoked: Sequence[str] = ()
    removed: Sequence[Line] = ()


class Store(Protocol):
    """Keeps the lines. Each method may take seconds and may be called in any thread, but in none that runs a loop."""

    def open(self) -> None:
        """Be ready.

        Raises:
            ConfigurationError: it cannot be used.
        """
        ...

    def stamp(self) -> object:
        """Return what changes whenever the contents do; cheap.

        Raises:
            DatabaseFailed: it does not answer.
        """
        ...

    def read(self) -> Contents:
        """Return everything.

        Raises:
            DatabaseFailed: it does not answer.
        """
        ...

    def change(self, decide: Callable[[Contents], Change]) -> None:
        """Make the change that `decide` makes of what is there, with nobody changing it in between.

        Raises:
            ConfigurationError: it cannot be written.
            DatabaseFailed: it does not answer; nothing was changed.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
