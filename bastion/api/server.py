"""The API's listener: uvicorn inside the server's own loop, on a unix socket whose file mode says who may use it."""

import asyncio
import errno
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from bastion.errors import BastionError, ConfigurationError

_MODE: Final = 0o660
_PATH_LIMIT: Final = 107
"""The longest path of a unix socket on Linux, in bytes (unix(7))."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so when requests are answered."""
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the server around this one."""
        yield


@asynccontextmanager
async def serve_api(api: FastAPI, path: Path) -> AsyncIterator[None]:
    """Answer on the unix socket, mode 0660, for as long as the context lasts; then remove it.

    Raises:
        ConfigurationError: another server answers there, or the socket cannot be made.
    """
    config = uvicorn.Config(
        api,
        log_config=None,
        log_level="critical",  # what goes wrong is in our own log already
        access_log=False,
        lifespan="off",
        ws="none",
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    with _listener(path) as listening:
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listening]), name="api")
        starting = asyncio.create_task(server.up.wait(), name="api starting")
        try:
            await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
                raise BastionError("the api did not start", f"look at {path}")
            yield
        finally:
            starting.cancel()
            server.should_exit = True
            await serving


@contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listening:
        try:
            _bound(path)
            path.parent.mkdir(mode=0o750, exist_ok=True)
            with _alone_in(path.parent):
                _remove_stale(path)
                os.fchmod(listening.fileno(), _MODE)  # Linux gives the file this mode less the umask: never too wide
                listening.bind(str(path))
                path.chmod(_MODE)
                listening.listen(64)
        except OSError as error:
            raise ConfigurationError(
                f"api socket {path}: {(error.strerror or str(error)).lower()}",
                "set [api] listen to unix:/PATH in a folder that the server's user may write",
            ) from error
        made = path.stat().st_ino
        try:
            yield listening
        finally:
            if path.exists() and path.stat().st_ino == made:
                path.unlink()


def _bound(path: Path) -> None:
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise OSError(errno.ENAMETOOLONG, f"the path is longer than {_PATH_LIMIT} bytes")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    # Two servers that start at once must not both find the socket stale and remove each other's.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} is there and is no socket", "set [api] listen to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigurationError(f"another server answers at {path}", "end it first, or set [api] listen to another path")
