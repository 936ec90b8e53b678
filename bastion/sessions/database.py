"""The sessions' database, SQLite or PostgreSQL: its transactions, its form, and its failures in words."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, event, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bastion.errors import BastionError, ConfigurationError, DatabaseFailed
from bastion.sessions.tables import SCHEMA, VERSION_TABLE
from bastion.tasks import background, result_within, unpaused_timeout

ANSWER_SECONDS: Final = 5.0
_BUSY_SECONDS: Final = 3.0
CALLER_SECONDS: Final = ANSWER_SECONDS + _BUSY_SECONDS
"""How long a caller waits for a transaction: for its turn, and then for SQLite's lock or PostgreSQL's end."""
_MIGRATION_SECONDS: Final = 300.0
_UNREADABLE: Final = "invalid URL: write %2F for a slash in a password, and so on for what is not a letter or digit"
_MIGRATION_LOCK: Final = 0x62617374696F6E  # "bastion"; no place's lock, which are hashes

Answer = TypeVar("Answer")


class Database:
    """One database, `sqlite:///PATH` or `postgresql://…`; nothing is opened before it is used."""

    def __init__(self, url: str) -> None:
        self.path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
        self._engine = _sqlite(self.path) if self.path is not None else _postgresql(url)
        self._one_writer = asyncio.Lock() if self.path is not None else contextlib.nullcontext()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def to_its_end(self, transaction: Coroutine[Any, Any, Answer], name: str) -> Answer:
        """Run a transaction to its end, also when its caller has gone or has waited long enough.

        Raises:
            DatabaseFailed: it failed, or has not ended after CALLER_SECONDS (a disk that hangs); it goes on.
        """
        task = background(transaction, name=f"database: {name}", expected=(BastionError,))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        with explained():
            return await result_within(task, CALLER_SECONDS)

    async def settled(self) -> None:
        """Wait until no transaction is under way, for CALLER_SECONDS at most."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=CALLER_SECONDS)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction that writes nothing.

        Raises:
            DatabaseFailed: the database does not answer, or not in time.
        """
        with explained():
            async with unpaused_timeout(ANSWER_SECONDS) as deadline, self._engine.connect() as connection:
                self._leave_to_sqlite(deadline)
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def writing(self, *, seconds: float = ANSWER_SECONDS) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction; on SQLite it is the only one that writes.

        On PostgreSQL the whole of it lasts `seconds` at most; on SQLite, the wait for a turn.

        Raises:
            DatabaseFailed: the database does not answer, or not in time, or does not take it.
        """
        with explained():
            # The lock is for ours; SQLite's own, for those of other processes, sleeps longer than a transaction lasts.
            async with unpaused_timeout(seconds) as deadline, self._one_writer, self._engine.connect() as connection:
                self._leave_to_sqlite(deadline)
                await connection.execution_options(writes=True)
                async with connection.begin():
                    yield connection

    def _leave_to_sqlite(self, deadline: asyncio.Timeout) -> None:
        """Let a transaction of SQLite's come to its end once it has a connection.

        A cancelled await would not stop the thread that executes the statement, only lose the transaction. SQLite
        waits _BUSY_SECONDS for its lock; nothing else of it waits but for the disk.
        """
        if self.path is not None and not deadline.expired():
            deadline.reschedule(None)

    async def migrate(self) -> None:
        """Bring the database to the form that this bastion knows; several nodes may do so at once.

        Raises:
            ConfigurationError: it is of a newer bastion, or cannot be opened.
        """
        try:
            if self.path is not None:
                _make_file(self.path)
            if await self.schema() == SCHEMA:
                return
            async with self.writing(seconds=_MIGRATION_SECONDS) as connection:
                if self.path is None:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                await connection.run_sync(_upgrade)
        except (DatabaseFailed, OSError) as error:
            raise _unusable(error) from error

    async def schema(self) -> str | None:
        """Return which form the database has; None while it is empty.

        Raises:
            DatabaseFailed: it does not answer.
        """
        async with self.reading() as connection:
            return await connection.run_sync(_schema)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()


async def look_at(url: str) -> str:
    """Say what a database is, without changing it.

    Raises:
        ConfigurationError: it is of a newer bastion, or cannot be opened.
    """
    database = Database(url)
    where = str(database.path or "postgresql")
    try:
        if database.path is not None:
            database.path.stat()
    except FileNotFoundError:
        return f"{where}: made at the first start"
    except OSError as error:
        raise _unusable(error) from error
    try:
        schema = await database.schema()
        if schema is not None and schema not in known_schemas():
            raise _of_a_newer(schema)
    except DatabaseFailed as error:
        raise _unusable(error) from error
    finally:
        await database.close()
    if schema is None:
        return f"{where}: empty, its tables are made at the first start"
    return f"{where}: schema {schema}" + ("" if schema == SCHEMA else f", brought to {SCHEMA} at the next start")


@contextmanager
def explained() -> Iterator[None]:
    """Turn what SQLAlchemy and its drivers raise into DatabaseFailed; the statement and its values stay out of it.

    OSError has a TimeoutError in it, ValueError what a closed SQLite raises and a row that is no Session.
    """
    try:
        yield
    except BastionError:
        raise
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        cause: BaseException = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        words = str(cause).strip() or "no answer in time"
        raise DatabaseFailed(
            "the sessions' database does not answer",
            "try again in a moment; if it stays so, tell whoever runs this bastion",
            detail=f"{type(cause).__name__}: {words}"[:500],
        ) from error


def _unusable(error: BaseException) -> ConfigurationError:
    detail = error.detail if isinstance(error, DatabaseFailed) else str(error)
    words = " ".join(detail.split())
    return ConfigurationError(
        f"the sessions' database cannot be used: {words}",
        "set [sessions] database to sqlite:///PATH in a folder that the server's user may write, or postgresql://…",
    )


def _of_a_newer(schema: str) -> ConfigurationError:
    return ConfigurationError(
        f"the sessions' database is of a newer bastion: its schema is {schema[:32]!a}, this one knows {SCHEMA}",
        "run the bastion that it is of, or restore the database from before",
    )


class _SqliteConnection(sqlite3.Connection):
    """Ends its transaction when it is closed.

    sqlite3_close_v2 keeps a connection with unfinished statements open, and with it the transaction and the write lock,
    until the last cursor is collected; CPython from 3.11 on does not finish them in close(). A cancelled await leaves a
    cursor in its traceback, and every writer met "database is locked" until the garbage collector came by (46 s after
    a SIGSTOP and SIGCONT). Pinned by test_F10_a_transaction_cut_off_lets_go_of_the_lock.
    """

    def close(self) -> None:
        """Roll back, then close."""
        with contextlib.suppress(sqlite3.Error):  # closed already, or the disk fails: no lock is held either way
            if self.in_transaction:
                self.rollback()
        super().close()


def _sqlite(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "factory": _SqliteConnection},
        pool_size=2,
        max_overflow=0,
        pool_timeout=ANSWER_SECONDS,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: who counts places must be the one who writes, and a lock taken late may not be waited for.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: str) -> AsyncEngine:
    async def connect() -> Any:
        try:
            return await asyncpg.connect(url, timeout=ANSWER_SECONDS)
        except asyncpg.InterfaceError:
            raise
        except ValueError:  # whose words may hold the password
            raise asyncpg.InterfaceError(_UNREADABLE) from None

    # asyncpg reads the URL itself: sslmode, several hosts and the folder of a socket mean there what they do for psql.
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=5,
        max_overflow=5,
        pool_timeout=ANSWER_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _make_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only where there is none: closing any descriptor of a file drops every POSIX lock that this process has on it
    # (fcntl(2)), also those of a connection of the keys' table (sqlite.org/howtocorrupt.html, 2.2).
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's files beside it get its mode


def _schema(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - our constant


def _scripts() -> Any:
    from alembic.config import Config  # noqa: PLC0415 - costs 0.1 s, and most starts find nothing to do

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_schemas() -> set[str]:
    """Return the forms that this bastion can bring to the newest."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return {script.revision for script in ScriptDirectory.from_config(_scripts()).walk_revisions()}


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415

    schema = _schema(connection)
    if schema is not None and schema not in known_schemas():
        raise _of_a_newer(schema)
    config = _scripts()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
