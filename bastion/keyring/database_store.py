"""Users' keys and revocations in the sessions' database, for callers in threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from bastion.errors import ConfigurationError
from bastion.keyring.file_store import FileStore
from bastion.keyring.store import Change, Contents, Line
from bastion.sessions.keys import LONGEST_LINE, KeyTable, Row, Rows

DATABASE: Final = Path("database")
"""Stands where a file's lines have their path; their number is the row's."""

Answer = TypeVar("Answer")


class DatabaseStore:
    """The lines of the database; of the key home only `revoked`, which revokes here too what is written there."""

    def __init__(self, home: Path, url: str) -> None:
        self._files = FileStore(home)
        self._table = KeyTable(url)
        self._loop = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # connections stay with their loop
        self._turn = threading.Lock()

    def open(self) -> None:
        """See Store.open."""
        try:
            self._run(self._table.open())
        except BaseException:
            self._run(self._table.close())
            raise

    def stamp(self) -> object:
        """See Store.stamp."""
        return self._run(self._table.count()), self._files.stamp_of_revoked()

    def read(self) -> Contents:
        """See Store.read."""
        kept = _contents(self._run(self._table.read()))
        files = self._files.read_revoked()
        return Contents(
            kept.users,
            [*kept.revoked, *files.revoked],
            doubt=files.doubt,
            problems=files.problems,
            unread=files.unread,
        )

    def change(self, decide: Callable[[Contents], Change]) -> None:
        """See Store.change; `decide` is not told of the key home's own list."""

        def rows(kept: Rows) -> Rows:
            change = decide(_contents(kept))
            added = [Row(0, user, _text(line)) for user, line in change.added]
            revoked = [Row(0, "", _text(line.encode())) for line in change.revoked]
            return Rows(added, revoked, [line.number for line in change.removed])

        self._run(self._table.change(rows))

    def close(self) -> None:
        """See Store.close."""
        self._run(self._table.close())
        with self._turn:
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        with self._turn:
            return self._loop.run(work)


def _contents(kept: Rows) -> Contents:
    users, revoked = (
        [Line(row.user, row.line.encode("utf-8", "replace"), DATABASE, row.number) for row in rows]
        for rows in (kept.users, kept.revoked)
    )
    return Contents(users, revoked)


def _text(line: bytes) -> str:
    if len(line) > LONGEST_LINE:
        raise ConfigurationError(f"a line is longer than {LONGEST_LINE} bytes", "shorten it")
    return line.decode()
