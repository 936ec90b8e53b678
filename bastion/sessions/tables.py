"""The tables of the sessions' database; migrations/ makes them."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from bastion.model import Session

SCHEMA: Final = "0004"
"""The newest migration; a test holds the migrations to it."""
VERSION_TABLE: Final = "bastion_schema"
LONGEST_LINE: Final = 16384  # bytes of a key or revocation; 8192 are the most that OpenSSH reads of a key


class Words(TypeDecorator[str]):
    """Text of at most so many characters; what no database takes, NUL and lone surrogates, is replaced."""

    impl = Text
    cache_ok = True

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """Cut and clean what goes in."""
        if value is None:
            return None
        return value[: self.longest].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


class Instant(TypeDecorator[datetime]):
    """A time in UTC, also where the database knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give SQLite, which would forget the zone, the time without it."""
        if value is None:
            return None
        return value.astimezone(UTC).replace(tzinfo=None if dialect.name == "sqlite" else UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class database_seconds(FunctionElement[float]):  # noqa: N801 - stands in SQL like a function
    """The present by the database's own clock, in seconds since the epoch."""

    type = Double()
    inherit_cache = True


@compiles(database_seconds, "postgresql")
def _on_postgresql(_element: database_seconds, _compiler: SQLCompiler, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(database_seconds, "sqlite")
def _on_sqlite(_element: database_seconds, _compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("uid", Words(64), primary_key=True),
    Column("title", Words(1024), nullable=False),
    Column("service_name", Words(512), nullable=False),
    Column("namespace", Words(512)),
    Column("command", Words(4096)),
    Column("deployment_name", Words(512)),
    Column("pod_name", Words(512)),
    Column("container_name", Words(512)),
    Column("stack", Words(512), nullable=False),
    Column("user", Words(512), nullable=False),
    Column("state", Words(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("provisioning_at", Instant),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("exit_status", BigInteger),
    Column("reason", Words(1024)),
    Column("client_address", Words(256), nullable=False),
    Column("key_fingerprint", Words(256), nullable=False),
    Column("node", Words(256), nullable=False),
    Column("reserved_as", Words(64)),
    # beside the Session's own:
    Column("node_id", Words(512), nullable=False),
    Column("grant_key", Words(64)),
    Column("reserved", Boolean, nullable=False),
    Column("end_asked", Words(1024)),
    Column("transcript_bytes", BigInteger),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Words(512), primary_key=True),
    Column("name", Words(256), nullable=False),
    Column("process", Words(512), nullable=False),
    Column("beats", Integer, nullable=False),
    Column("seen_at", Double, nullable=False),
)

user_keys = Table(
    "user_keys",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("user", Words(64), nullable=False),
    Column("line", Words(LONGEST_LINE), nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("line", Words(LONGEST_LINE), nullable=False),
)

key_changes = Table(
    "key_changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

duties = Table(
    "duties",
    metadata,
    Column("uid", Words(128), primary_key=True),
    Column("runtime", Words(1024), nullable=False),
    Column("engine", Words(256), nullable=False),
    Column("container_id", Words(512), nullable=False),
    Column("container_name", Words(512), nullable=False),
    Column("shell", Words(4096), nullable=False),
    Column("user", Words(512)),
    Column("namespace", Words(512)),
    Column("pod_name", Words(512)),
    Column("created_at", Instant, nullable=False),
    # beside the Duty's own:
    Column("node_id", Words(512), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Words(1024)),
)

LIVE: Final[ColumnElement[bool]] = sessions.c.ended_at.is_(None)
SESSION_COLUMNS: Final = [sessions.c[name] for name in Session.model_fields]

for _name, _columns in {
    "sessions_live_service": (sessions.c.stack, sessions.c.service_name),
    "sessions_live_user": (sessions.c.user,),
    "sessions_live_grant": (sessions.c.grant_key,),
    "sessions_live_node": (sessions.c.node_id,),
}.items():
    Index(_name, *_columns, sqlite_where=LIVE, postgresql_where=LIVE)
Index("sessions_created", sessions.c.created_at)
Index("sessions_ended", sessions.c.ended_at)
Index("sessions_reserved_as", sessions.c.reserved_as)
Index("duties_node", duties.c.node_id)
