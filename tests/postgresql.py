"""A PostgreSQL of the tests' own: made with initdb, on a unix socket alone, ended by its pid."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conftest import unavailable

_BIN: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_SECONDS: Final = 30.0
_SOMEBODY: Final = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to be root


class PostgresqlMissingError(Exception):
    """There are no programs of PostgreSQL here, or nobody who may run them."""


class Postgresql:
    """One server in a folder of its own below /tmp, for sockets' paths are short; `url` gives a database of it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._initdb, self._server = _program("initdb"), _program("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="bastion-postgresql-"))
        if _SOMEBODY is not None:
            shutil.chown(self._folder, _SOMEBODY)

    def start(self) -> "Postgresql":
        """Make the server's files, if there are none, and start it."""
        if not (self._folder / "data").exists():
            self._run(self._initdb, "-D", str(self._folder / "data"), "-A", "trust", "-U", "bastion", "-N")
        command = [
            self._server, "-D", str(self._folder / "data"), "-k", str(self._folder), "-h", "", "-F",
            "-c", "max_connections=60",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=_SOMEBODY, cwd=self._folder)
        until = time.monotonic() + _SECONDS
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                raise AssertionError(f"postgresql did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End the server at once, clients or not."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_SECONDS)
            self._process = None

    def close(self) -> None:
        """End the server and remove its files."""
        self.stop()
        shutil.rmtree(self._folder)

    def freeze(self) -> None:
        """Have every process of the server answer no more, until `thaw`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def url(self) -> str:
        """Make a database and return its URL."""
        self._databases += 1
        name = f"bastion{self._databases}"
        self.sql(f"CREATE DATABASE {name}", database="postgres")
        return f"postgresql://bastion@/{name}?host={self._folder}"

    def sql(self, statement: str, database: str | None = None) -> str:
        """Run a statement with psql; return its rows, unaligned."""
        name = database or f"bastion{self._databases}"
        return self._run(
            _program("psql"), "-h", str(self._folder), "-U", "bastion", "-d", name, "-tAqc", statement
        ).strip()

    def _answers(self) -> bool:
        command = [_program("pg_isready"), "-q", "-h", str(self._folder), "-U", "bastion", "-d", "postgres"]
        return subprocess.run(command, check=False).returncode == 0

    def _pids(self) -> list[int]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [self._process.pid, *map(int, children)]

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, user=_SOMEBODY, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name) or next((str(folder / name) for folder in _BIN if (folder / name).exists()), None)
    if found is None:
        raise PostgresqlMissingError(f"{name} of PostgreSQL is not installed")
    return found


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    """Run a PostgreSQL of the tests' own; skip by its name without it, as without an engine."""
    try:
        server = Postgresql()
    except PostgresqlMissingError as error:
        unavailable(str(error))
    try:
        yield server.start()
    finally:
        server.close()
