"""The table of duties: whose they are, and how one goes from a bastion that is no more to one that lives."""

from collections.abc import Collection, Coroutine, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select, update

from bastion.runtimes.duties import Duty
from bastion.sessions.database import Database
from bastion.sessions.duty_store import CLAIM_LIMIT, Claim
from bastion.sessions.tables import SCHEMA, duties, nodes

_DUTY_COLUMNS = [duties.c[field.name] for field in fields(Duty)]
_ROWS_PER_STATEMENT = 500

Answer = TypeVar("Answer")


class DutyTable:
    """The duties of all nodes of one database; `node_id` is this node's, as in its sessions."""

    def __init__(self, database: Database, node_id: str) -> None:
        self._database = database
        self._node_id = node_id

    async def add(self, duty: Duty) -> None:
        """See DutyStore.add."""
        await self._whole(self._add(duty))

    async def remove(self, uids: Collection[str]) -> set[str]:
        """See DutyStore.remove."""
        return await self._whole(self._remove(list(uids)))

    async def claim(self, runtimes: Collection[str], excluded: Collection[str]) -> list[Claim]:
        """See DutyStore.claim."""
        return await self._whole(self._claim(runtimes, excluded))

    async def failed(self, uid: str, error: str) -> None:
        """See DutyStore.failed."""
        await self._whole(self._failed(uid, error))

    async def give_back(self, owners: Mapping[str, str]) -> None:
        """See DutyStore.give_back."""
        if owners:
            await self._whole(self._give_back(owners))

    async def close(self) -> None:
        """See DutyStore.close."""
        await self._database.settled()

    async def _whole(self, transaction: Coroutine[Any, Any, Answer]) -> Answer:
        return await self._database.to_its_end(transaction, "duties")

    async def _add(self, duty: Duty) -> None:
        row = asdict(duty) | {"node_id": self._node_id, "attempts": 0, "error": None}
        async with self._database.writing() as connection:
            await connection.execute(insert(duties), row)

    async def _remove(self, uids: list[str]) -> set[str]:
        removed: set[str] = set()
        async with self._database.writing() as connection:
            for start in range(0, len(uids), _ROWS_PER_STATEMENT):
                some = duties.c.uid.in_(uids[start : start + _ROWS_PER_STATEMENT])
                removed |= set((await connection.execute(delete(duties).where(some).returning(duties.c.uid))).scalars())
        return removed

    async def _claim(self, runtimes: Collection[str], excluded: Collection[str]) -> list[Claim]:
        """Look first: a transaction that writes is only for what there is to take."""
        wanted = (
            select(*_DUTY_COLUMNS, duties.c.node_id)
            .where(self._is_orphan(), duties.c.runtime.in_(list(runtimes)), duties.c.uid.not_in(list(excluded)))
            .order_by(duties.c.created_at)
            .limit(CLAIM_LIMIT)
        )
        async with self._database.reading() as connection:
            rows = list((await connection.execute(wanted)).mappings())
        if not rows:
            return []
        claims = []
        async with self._database.writing() as connection:
            for row in rows:
                # Compare and set: of two nodes that have both seen it, one changes the row.
                mine = duties.c.uid == row["uid"], duties.c.node_id == row["node_id"]
                taking = update(duties).where(*mine).values(node_id=self._node_id)
                if (await connection.execute(taking)).rowcount:
                    duty = Duty(**{field.name: row[field.name] for field in fields(Duty)})
                    claims.append(Claim(duty, row["node_id"]))
        return claims

    async def _failed(self, uid: str, error: str) -> None:
        values = {"attempts": duties.c.attempts + 1, "error": error}
        async with self._database.writing() as connection:
            await connection.execute(update(duties).where(duties.c.uid == uid).values(**values))

    async def _give_back(self, owners: Mapping[str, str]) -> None:
        async with self._database.writing() as connection:
            for uid, owner in owners.items():
                mine = duties.c.uid == uid, duties.c.node_id == self._node_id
                await connection.execute(update(duties).where(*mine).values(node_id=owner))

    def _is_orphan(self) -> Any:
        """Say which rows are nobody's: their bastion has stopped and is no node any more."""
        return duties.c.node_id.not_in(select(nodes.c.id)) & (duties.c.node_id != self._node_id)


async def open_duties(url: str) -> tuple[int, datetime | None]:
    """Return how many duties of a database were tried in vain or are of stopped nodes, and from when the oldest is.

    A database that is not there, or not of this bastion's form yet, has none.

    Raises:
        DatabaseFailed: the database does not answer.
    """
    is_open = (duties.c.attempts > 0) | duties.c.node_id.not_in(select(nodes.c.id))
    database = Database(url)
    if database.path is not None and not database.path.exists():
        return 0, None
    try:
        if await database.schema() != SCHEMA:
            return 0, None
        async with database.reading() as connection:
            count, oldest = (
                await connection.execute(select(func.count(), func.min(duties.c.created_at)).where(is_open))
            ).one()
            return int(count), oldest
    finally:
        await database.close()
