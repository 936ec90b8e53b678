"""The database: made and migrated by whoever comes first, refused when it is too new, and missed when it is away."""

import asyncio
import contextlib
import gc
import os
import sqlite3
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from bastion.errors import ConfigurationError, DatabaseFailed
from bastion.sessions import Wanted
from bastion.sessions.database import Database, known_schemas, look_at
from bastion.sessions.tables import SCHEMA, VERSION_TABLE, metadata
from tests.postgresql import Postgresql, postgresql
from tests.unit.stores import TARGET, identity, live, node, request

SLOW_STATEMENT = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) SELECT max(x) FROM n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/bastion.db"
    return str(request.getfixturevalue("server").url())


def sqlite_at(url: str) -> sqlite3.Connection:
    return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)


async def test_many_nodes_may_start_at_once(url: str) -> None:
    """Eight that find it empty make its tables once, and none fails."""
    databases = [Database(url) for _ in range(8)]
    try:
        await asyncio.gather(*(database.migrate() for database in databases))
        assert {await database.schema() for database in databases} == {SCHEMA}
    finally:
        for database in databases:
            await database.close()


async def test_the_migrations_make_the_tables_we_use(tmp_path: Path) -> None:
    """What the migrations make is what bastion/sessions/tables.py says, and the newest is the one it names."""
    assert max(known_schemas()) == SCHEMA
    database = Database(f"sqlite:///{tmp_path}/bastion.db")
    await database.migrate()
    await database.close()
    engine = create_engine(f"sqlite:///{tmp_path}/bastion.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": False})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_a_newer_database_is_refused_in_words(url: str, server: Postgresql) -> None:
    """One whose schema this bastion does not know is named as a newer bastion's, by the start and by `check`."""
    database = Database(url)
    await database.migrate()
    statement = f"UPDATE {VERSION_TABLE} SET version_num = '9999'"  # noqa: S608 - our own
    if url.startswith("sqlite"):
        with closing(sqlite_at(url)) as raw:
            raw.execute(statement)
    else:
        server.sql(statement)
    with pytest.raises(ConfigurationError, match=r"of a newer bastion: its schema is '9999', this one knows"):
        await database.migrate()
    await database.close()
    with pytest.raises(ConfigurationError, match="of a newer bastion"):
        await look_at(url)


async def test_check_says_what_a_database_is(url: str, tmp_path: Path) -> None:
    """Nothing is made by looking; an empty one, and one of this bastion's form, are named as such."""
    assert "first start" in await look_at(url)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - and not a blocking method of Path
    database = Database(url)
    await database.migrate()
    await database.close()
    assert (
        await look_at(url) == f"{url.removeprefix('sqlite:///') if 'sqlite' in url else 'postgresql'}: schema {SCHEMA}"
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/none/bastion.db", "no such file or directory"),
        (f"sqlite:///{__file__}", "not a database"),
        ("postgresql://bastion:hunter2@127.0.0.1:1/x", "connect call failed|refused"),
        ("postgresql://bastion:hunter2@/x?host=/nonexistent", "no such file"),
        ("postgresql://[", "invalid"),
        ("postgresql://bastion:hunter2/@127.0.0.1/x", "invalid"),
        ("postgresql://bastion:hunter2@127.0.0.1:1/x?sslmode=colour", "sslmode"),
    ],
)
async def test_one_that_cannot_be_used_is_named_without_its_password(url: str, words: str) -> None:
    """The start ends with one line that says what is wrong, and a hint; no password is in either."""
    with pytest.raises(ConfigurationError, match=f"(?i)cannot be used: .*({words})") as caught:
        async with node(url):
            pytest.fail("it started")
    assert "[sessions] database" in caught.value.hint
    assert "hunter2" not in caught.value.public + caught.value.hint + caught.value.detail
    assert "\n" not in caught.value.public


async def test_the_file_is_the_servers_alone(tmp_path: Path) -> None:
    """The file and those beside it can be read by nobody else, whatever the umask."""
    before = os.umask(0)
    try:
        async with node(f"sqlite:///{tmp_path}/state/bastion.db") as sessions, live(sessions, "1"):
            made = sorted((tmp_path / "state").iterdir())
            assert [path.name for path in made] == ["bastion.db", "bastion.db-shm", "bastion.db-wal"]
            assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    finally:
        os.umask(before)


async def test_without_postgresql_sessions_go_on_and_none_is_opened() -> None:
    """Stopped, it refuses new sessions with 255 and a hint; those that run go on, and their ends are written later."""
    with postgresql() as server:
        async with node(server.url()) as sessions:
            async with live(sessions, "1") as session:
                server.stop()
                with pytest.raises(DatabaseFailed) as refusal:
                    await sessions.reserve(identity(), TARGET)
                assert (refusal.value.exit_status, refusal.value.code) == (255, "database")
                assert "try again" in refusal.value.hint
                with pytest.raises(DatabaseFailed):
                    await sessions.ping()
                assert sessions.list() == [session.session]
                session.update(exit_status=3, reason="the program ended")
            assert sessions.list() == []
            server.start()
            await _until_it_answers(sessions.ping)
            ended = await sessions.find("1")
            assert ended is not None
            assert (ended.state, ended.exit_status, ended.reason) == ("terminated", 3, "the program ended")
            async with live(sessions, "2"):
                pass


async def test_F10_a_postgresql_that_hangs_refuses_in_time() -> None:
    """Stopped by SIGSTOP, it refuses a new session after some seconds, and no place is lost by it; then they open."""
    with postgresql() as server:
        async with node(server.url()) as sessions:
            async with live(sessions, "1"):
                pass
            server.freeze()
            try:
                with pytest.raises(DatabaseFailed):
                    async with asyncio.timeout(30), live(sessions, "2"):
                        pytest.fail("it was opened")
            finally:
                server.thaw()
            await _until_it_answers(sessions.ping)
            async with live(sessions, "3"):
                pass
            async with asyncio.timeout(20):
                while (await sessions.history(Wanted(state="creating")))[1]:
                    await asyncio.sleep(0.1)


async def test_a_locked_sqlite_refuses_in_time(tmp_path: Path) -> None:
    """While another process keeps the lock, new sessions are refused; ends are written when it is let go."""
    url = f"sqlite:///{tmp_path}/bastion.db"
    async with node(url) as sessions:
        async with live(sessions, "1"):
            with closing(sqlite_at(url)) as raw:
                raw.execute("BEGIN IMMEDIATE")
                with pytest.raises(DatabaseFailed):
                    await sessions.reserve(identity(), TARGET)
        async with live(sessions, "2"):
            ended = await sessions.find("1")
            assert ended is not None
            assert ended.state == "terminated"


async def test_F10_a_transaction_cut_off_lets_go_of_the_lock(tmp_path: Path) -> None:
    """A writer that is cancelled inside a statement frees SQLite's lock at once, not when its cursor is collected."""
    path = tmp_path / "bastion.db"
    database = Database(f"sqlite:///{path}")
    await database.migrate()

    async def write() -> None:
        async with database.writing() as connection:
            await connection.execute(text("UPDATE key_changes SET count = count + 1"))
            await connection.execute(text(SLOW_STATEMENT))

    gc.disable()
    try:
        with closing(sqlite_at(f"sqlite:///{path}")) as raw:
            writing = asyncio.create_task(write())
            while not _is_locked(raw):
                await asyncio.sleep(0.01)
            writing.cancel()
            cancelled = (await asyncio.gather(writing, return_exceptions=True))[0]  # its traceback holds the cursor
            assert isinstance(cancelled, asyncio.CancelledError)
            assert not _is_locked(raw)
        async with database.writing() as connection:
            assert (await connection.execute(text("SELECT count FROM key_changes"))).scalar_one() == 0
    finally:
        gc.enable()
        await database.close()


def _is_locked(raw: sqlite3.Connection) -> bool:
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    raw.execute("ROLLBACK")
    return False


async def test_F10_many_who_wait_for_a_failing_write_fail_together(tmp_path: Path) -> None:
    """While another process keeps the lock, thirty sessions are refused by one attempt, not one after the other."""
    url = f"sqlite:///{tmp_path}/bastion.db"
    async with node(url) as sessions:
        with closing(sqlite_at(url)) as raw:
            async with live(sessions, "1"):
                raw.execute("BEGIN IMMEDIATE")
            # The end of "1" has to be written before a place is taken.
            asking = [asyncio.create_task(sessions.reserve(identity(), TARGET)) for _ in range(30)]
            async with asyncio.timeout(60):
                refusals = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(refusal) for refusal in refusals} == {DatabaseFailed}
        async with live(sessions, "2"):
            pass


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "bastion-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as full, contextlib.suppress(OSError):
        while full.write(b"x" * 512):
            pass


async def test_a_full_disk_refuses_and_recovers(small_volume: Path) -> None:
    """On a full volume a new session is refused with 255; with room again, what ended meanwhile is written down."""
    async with node(f"sqlite:///{small_volume}/bastion.db") as sessions:

        async def use_up() -> None:
            for number in range(1000):
                async with sessions.open(identity(), request(f"full-{number}", "x" * 4000), TARGET):
                    pass

        async with live(sessions, "1"):
            _fill(small_volume / "filler")
            with pytest.raises(DatabaseFailed):
                await use_up()
        (small_volume / "filler").unlink()
        await _until_it_answers(sessions.ping)
        ended = await sessions.find("1")
        assert ended is not None
        assert ended.state == "terminated"
        async with live(sessions, "2"):
            pass


async def test_a_login_that_is_given_up_leaves_no_place_taken(url: str) -> None:
    """Cancelled at any moment of taking its place, a session holds none afterwards."""
    async with node(url) as sessions:
        for tenths in range(40):
            waiting = asyncio.create_task(sessions.open(identity(), request(f"{tenths}"), TARGET).__aenter__())
            await asyncio.sleep(tenths / 10_000)
            waiting.cancel()
            opened = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if not isinstance(opened, BaseException):
                opened.update(state="terminated")
        async with asyncio.timeout(20):
            while (await sessions.history(Wanted(state="creating")))[1]:
                await asyncio.sleep(0.1)


async def _until_it_answers(ping: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await ping()
            except DatabaseFailed:
                await asyncio.sleep(0.1)
            else:
                return
