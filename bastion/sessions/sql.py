"""The store on SQLAlchemy: one table of sessions for all nodes, and one of the nodes themselves."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import structlog
from sqlalchemy import RowMapping, and_, case, delete, false, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bastion.model import Session, now
from bastion.sessions.database import Database
from bastion.sessions.duty_store import DutyStore
from bastion.sessions.duty_table import DutyTable
from bastion.sessions.limits import Bounds, Held, refuse_if_full
from bastion.sessions.nodes import Node, NodeWatch, this_process
from bastion.sessions.store import BASTION_STOPPED, QUOTA_PERIOD, Changes, Look, Wanted
from bastion.sessions.tables import LIVE, SESSION_COLUMNS, database_seconds, nodes, sessions

log = structlog.get_logger(__name__)


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def _whole(
    method: Callable[Concatenate["SqlStore", Arguments], Coroutine[Any, Any, Answer]],
) -> Callable[Concatenate["SqlStore", Arguments], Coroutine[Any, Any, Answer]]:
    """Run each call of a method as Database.to_its_end does."""

    @wraps(method)
    async def run(self: "SqlStore", /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        return await self._database.to_its_end(method(self, *arguments, **named), method.__name__)

    return run


class SqlStore:
    """Keeps the sessions of every node that uses the same database.

    `node` is the host's name, `process` what tells this process from others.
    """

    def __init__(self, url: str, node: str, *, process: str | None = None) -> None:
        self.node_id = f"{node}-{secrets.token_hex(8)}"
        self._node = node
        self._process = process or this_process()
        self._database = Database(url)
        self.duties: DutyStore = DutyTable(self._database, self.node_id)
        self._watch = NodeWatch(node)

    async def open(self) -> None:
        """See Store.open."""
        try:
            await self._database.migrate()
            await self.beat()
        except BaseException:
            await self._database.close()
            raise

    @_whole
    async def take(self, session: Session, bounds: Bounds, *, reserve: bool = False) -> Session:
        """See Store.take."""
        async with self._database.writing() as connection:
            await self._lock(connection, session, bounds)
            if not reserve and (reserved := await _take_over(connection, session)) is not None:
                session = session.model_copy(update={"reserved_as": reserved})
            refuse_if_full(session, bounds, await _held(connection, session, bounds))
            row = session.model_dump() | {"node_id": self.node_id, "grant_key": bounds.grant, "reserved": reserve}
            await connection.execute(insert(sessions), row)
        return session

    @_whole
    async def write(self, changes: Changes) -> None:
        """See Store.write."""
        async with self._database.writing() as connection:
            for uid, fields in changes.items():
                await connection.execute(update(sessions).where(sessions.c.uid == uid).values(**fields))

    @_whole
    async def look(self) -> Look:
        """See Store.look."""
        mine = sessions.c.node_id == self.node_id
        async with self._database.reading() as connection:
            own = await connection.execute(select(sessions.c.uid, sessions.c.end_asked).where(LIVE, mine))
            others = await connection.execute(select(*SESSION_COLUMNS).where(LIVE, ~mine).order_by("created_at", "uid"))
            return Look({row.uid: row.end_asked for row in own}, tuple(_session(row) for row in others.mappings()))

    @_whole
    async def beat(self) -> None:
        """See Store.beat."""
        present = database_seconds()
        async with self._database.writing() as connection:
            beating = update(nodes).where(nodes.c.id == self.node_id).values(beats=nodes.c.beats + 1, seen_at=present)
            if (await connection.execute(beating)).rowcount == 0:
                fields = {"id": self.node_id, "name": self._node, "process": self._process, "beats": 0}
                await connection.execute(insert(nodes).values(**fields, seen_at=present))
            age = (present - nodes.c.seen_at).label("age")
            found = await connection.execute(select(nodes.c.id, nodes.c.name, nodes.c.process, nodes.c.beats, age))
            for node in self._watch.dead([Node(*row) for row in found]):
                await _release(connection, node)
            # A node that was taken for dead and lives still has sessions here until it beats again; one that does not
            # come back has nobody else to end them.
            strays = and_(LIVE, sessions.c.node_id.not_in(select(nodes.c.id)))
            await connection.execute(_ending().where(strays))

    @_whole
    async def find(self, uid: str) -> Session | None:
        """See Store.find."""
        fitting = select(*SESSION_COLUMNS).where(or_(sessions.c.uid == uid, sessions.c.reserved_as == uid)).limit(1)
        async with self._database.reading() as connection:
            row = (await connection.execute(fitting)).mappings().first()
            return _session(row) if row is not None else None

    @_whole
    async def history(self, wanted: Wanted) -> tuple[list[Session], int]:
        """See Store.history."""
        columns = {"state": "state", "user": "user", "stack": "stack", "service": "service_name"}
        asked = {column: getattr(wanted, name) for name, column in columns.items()}
        fits = and_(True, *(sessions.c[column] == value for column, value in asked.items() if value is not None))  # noqa: FBT003
        if wanted.since is not None:
            fits = and_(fits, sessions.c.created_at >= wanted.since)
        page = (
            select(*SESSION_COLUMNS)
            .where(fits)
            .order_by(sessions.c.created_at.desc(), sessions.c.uid.desc())
            .limit(wanted.per_page)
            .offset((wanted.page - 1) * wanted.per_page)
        )
        async with self._database.reading() as connection:
            total = (await connection.execute(select(func.count()).select_from(sessions).where(fits))).scalar_one()
            return [_session(row) for row in (await connection.execute(page)).mappings()], total

    @_whole
    async def transcript_bytes(self, users: Collection[str]) -> Mapping[str, int]:
        """See Store.transcript_bytes."""
        counted = or_(sessions.c.ended_at > now() - QUOTA_PERIOD, and_(LIVE, sessions.c.node_id != self.node_id))
        asked = (
            select(sessions.c.user, func.sum(sessions.c.transcript_bytes))
            .where(counted, sessions.c.user.in_(users), sessions.c.transcript_bytes.is_not(None))
            .group_by(sessions.c.user)
        )
        async with self._database.reading() as connection:
            return {user: int(size) for user, size in await connection.execute(asked)}

    @_whole
    async def forget(self, before: datetime) -> None:
        """See Store.forget."""
        async with self._database.writing() as connection:
            await connection.execute(delete(sessions).where(sessions.c.ended_at < before))

    async def close(self) -> None:
        """See Store.close."""
        await self._database.settled()
        try:
            async with self._database.writing() as connection:
                await connection.execute(_ending().where(LIVE, sessions.c.node_id == self.node_id))
                await connection.execute(delete(nodes).where(nodes.c.id == self.node_id))
        finally:
            await self._database.close()

    async def _lock(self, connection: AsyncConnection, session: Session, bounds: Bounds) -> None:
        """Let only one at a time count and take the places that this session asks for.

        Locks by name, and not SERIALIZABLE: forty logins at once then wait their turn of a few milliseconds, where
        serialisation would fail most of them to be tried again. There is no row to lock while a service has no session.
        SQLite lets one transaction write at a time as it is.
        """
        if connection.dialect.name != "postgresql":
            return
        names = [("service", session.stack, session.service_name), ("user", session.user), ("grant", bounds.grant)]
        keys = sorted({_key(name) for name in names if name[-1] is not None})  # in one order: nobody waits crosswise
        for key in keys:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _key(name: tuple[str | None, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8], signed=True)


async def _take_over(connection: AsyncConnection, session: Session) -> str | None:
    """Remove what the user reserved for the service first; return its uid."""
    reserved = (
        select(sessions.c.uid)
        .where(LIVE, sessions.c.reserved, sessions.c.end_asked.is_(None))
        .where(sessions.c.user == session.user, sessions.c.stack == session.stack)
        .where(sessions.c.service_name == session.service_name)
        .order_by(sessions.c.created_at, sessions.c.uid)
        .limit(1)
    )
    taking = delete(sessions).where(sessions.c.uid == reserved.scalar_subquery()).returning(sessions.c.uid)
    return cast("str | None", (await connection.execute(taking)).scalar())


async def _held(connection: AsyncConnection, session: Session, bounds: Bounds) -> Held:
    by_service = and_(sessions.c.stack == session.stack, sessions.c.service_name == session.service_name)
    by_user = sessions.c.user == session.user
    by_grant = sessions.c.grant_key == bounds.grant if bounds.grant is not None else false()
    counted = (
        select(sessions.c.user, *(func.sum(case((one, 1), else_=0)) for one in (by_service, by_user, by_grant)))
        .where(LIVE, or_(by_service, by_user, by_grant))
        .group_by(sessions.c.user)
    )
    rows = [tuple(row) for row in await connection.execute(counted)]
    size = 0
    if bounds.user_quota:
        recent = or_(LIVE, sessions.c.ended_at > now() - QUOTA_PERIOD)
        total = select(func.sum(sessions.c.transcript_bytes)).where(by_user, recent)
        size = int((await connection.execute(total)).scalar() or 0)
    return Held(
        Counter({user: int(count) for user, count, _, _ in rows if count}),
        sum(int(count) for _, _, count, _ in rows),
        sum(int(count) for _, _, _, count in rows),
        size,
    )


def _ending() -> Any:
    return update(sessions).values(state="terminated", ended_at=now(), reason=BASTION_STOPPED)


async def _release(connection: AsyncConnection, node: Node) -> None:
    """End the sessions of a node that has stopped, unless it has beaten since, or another has done so already."""
    gone = delete(nodes).where(nodes.c.id == node.id, nodes.c.beats == node.beats)
    if (await connection.execute(gone)).rowcount == 0:
        return
    ended = await connection.execute(_ending().where(LIVE, sessions.c.node_id == node.id))
    log.warning("a bastion has stopped: its sessions are released", node=node.name, sessions=ended.rowcount)


def _session(row: RowMapping) -> Session:
    return Session.model_validate(dict(row))
