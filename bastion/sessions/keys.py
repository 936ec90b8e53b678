"""The tables of users' keys and of what is revoked, in the sessions' database: lines, and a count of the changes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bastion.errors import DatabaseFailed
from bastion.sessions.database import Database, explained
from bastion.sessions.tables import LONGEST_LINE, key_changes, revocations, user_keys

__all__ = ["LONGEST_LINE", "KeyTable", "Row", "Rows"]

_COUNT_SECONDS: Final = 2.0  # what is asked every 2 s
_MOST_AT_ONCE: Final = 500  # rows that one statement names


@dataclass(frozen=True, slots=True)
class Row:
    """One line; its number is the database's to give. The user of one that revokes is empty."""

    number: int
    user: str
    line: str


@dataclass(frozen=True, slots=True)
class Rows:
    """What is there; or what is to be added, and the numbers of users' lines that are to go."""

    users: Sequence[Row] = ()
    revoked: Sequence[Row] = ()
    removed: Sequence[int] = ()


class KeyTable:
    """Keys for all nodes of one database. What asks it raises DatabaseFailed when it does not answer."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    async def open(self) -> None:
        """Bring the database to its newest form.

        Raises:
            ConfigurationError: it cannot be opened, or is of a newer bastion.
        """
        await self._database.migrate()

    async def count(self) -> int:
        """Return how many changes there were: one row is read."""
        self._refuse_absent()
        with explained():
            async with asyncio.timeout(_COUNT_SECONDS), self._database.reading() as connection:
                return await _count(connection)

    async def read(self) -> Rows:
        """Return everything."""
        self._refuse_absent()
        async with self._database.reading() as connection:
            return await _read(connection)

    async def change(self, decide: Callable[[Rows], Rows]) -> None:
        """Make, in one transaction that waits for others', the change that `decide` makes of everything."""
        async with self._database.writing() as connection:
            await connection.execute(select(key_changes.c.count).with_for_update())
            change = decide(await _read(connection))
            if not (change.users or change.revoked or change.removed):
                return
            await connection.execute(update(key_changes).values(count=key_changes.c.count + 1))
            if change.revoked:
                await connection.execute(insert(revocations), [{"line": row.line} for row in change.revoked])
            for start in range(0, len(change.removed), _MOST_AT_ONCE):
                numbers = change.removed[start : start + _MOST_AT_ONCE]
                await connection.execute(delete(user_keys).where(user_keys.c.number.in_(numbers)))
            if change.users:
                await connection.execute(
                    insert(user_keys), [{"user": row.user, "line": row.line} for row in change.users]
                )

    def _refuse_absent(self) -> None:
        """Keep SQLite from making the file, which would be anybody's to read."""
        if self._database.path is None:
            return
        try:
            self._database.path.stat()
        except OSError as error:
            raise DatabaseFailed(
                "the sessions' database is not there",
                "it is made at the first start, and by bastion keys issue, add and import",
                detail=f"{self._database.path}: {error.strerror}",
            ) from error

    async def close(self) -> None:
        """Let go of every connection."""
        await self._database.close()


async def _count(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(key_changes.c.count))).scalar_one())


async def _read(connection: AsyncConnection) -> Rows:
    users = select(user_keys.c.number, user_keys.c.user, user_keys.c.line).order_by("user", "number")
    revoked = select(revocations.c.number, revocations.c.line).order_by("number")
    return Rows(
        [Row(row.number, row.user, row.line) for row in await connection.execute(users)],
        [Row(row.number, "", row.line) for row in await connection.execute(revoked)],
    )
