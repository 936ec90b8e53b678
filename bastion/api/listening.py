"""The sockets that the API listens on, made, guarded and removed."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bastion import descriptors
from bastion.errors import ConfigurationError

_MODE: Final = 0o660
_PATH_LIMIT: Final = 107
"""The longest path of a unix socket on Linux, in bytes (unix(7))."""


@contextmanager
def tcp_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an address for as long as the context lasts.

    Raises:
        ConfigurationError: it cannot be bound.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = descriptors.bind(descriptors.Listener(family), address, backlog=64)
    except (OSError, UnicodeError) as error:
        words = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigurationError(f"[api] listen {host}:{port}: {words}", "another server may have it") from error
    with listening:
        yield listening


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listen on a unix socket, mode 0660, for as long as the context lasts; then remove it.

    Raises:
        ConfigurationError: another server answers there, or the socket cannot be made.
    """
    listening = descriptors.Listener(socket.AF_UNIX, for_operators=True)
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
