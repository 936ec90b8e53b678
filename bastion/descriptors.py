"""The file descriptors of this process: raise the limit at the start, and keep a reserve.

open(2) gives a new descriptor the lowest free number, so that a descriptor numbered N shows that at least N are in
use. The numbers below the soft limit fall into three ranges:

- connections: an accepted connection with a higher number is turned away (`Listener`);
- sessions: a new session is refused while the lowest free number is above this range (`check_room`);
- the reserve: for the API's unix socket, the log, the ledger, the key home, and the files that running sessions open.
"""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bastion.errors import LimitReached
from bastion.log import Repeated

MAX_DESCRIPTORS: Final = 2**20  # a container's hard limit may be 2**30, over which child processes loop in vain
_RESERVE_MAX: Final = 256
_RESERVE_MIN: Final = 16
_REPORT_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The ranges of the numbers below the soft limit, `limit`."""

    limit: int

    @property
    def reserve(self) -> int:
        """The number of descriptors that connections and new sessions may not use."""
        return max(_RESERVE_MIN, min(_RESERVE_MAX, self.limit // 8))

    @property
    def session_ceiling(self) -> int:
        """The lowest descriptor number at which no session starts."""
        return self.limit - self.reserve

    @property
    def connection_ceiling(self) -> int:
        """The lowest number at which a connection is turned away; a quarter is left for open connections' sessions."""
        return self.session_ceiling * 3 // 4


def current() -> Descriptors:
    """Return the ranges for the current soft limit."""
    return Descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def raise_limit() -> Descriptors:
    """Raise the soft limit to the hard one, at most MAX_DESCRIPTORS, and log it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    division = current()
    log.info(
        "descriptors", limit=division.limit, before=soft, connections=division.connection_ceiling,
        reserve=division.reserve,
    )  # fmt: skip
    return division


def check_room() -> None:
    """Require descriptors for one more session.

    Raises:
        LimitReached: only the reserve is left.
    """
    try:
        probe = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _no_room() from error
    os.close(probe)
    if probe >= current().session_ceiling:
        raise _no_room()


def _no_room() -> LimitReached:
    return LimitReached("the bastion has too many open connections", "connect again in a minute")


class Listener(socket.socket):
    """A listening socket for asyncio; turns connections away at the reserve, unless the socket is `for_operators`.

    asyncio (CPython 3.11 to 3.13, `_accept_connection`) accepts up to `backlog` connections in one step, before it
    handles the first of them, and at EMFILE it logs a traceback for each of the remaining tries. This class prevents
    both: each accept checks the ceiling, and one step of the loop meets EMFILE once, after which asyncio pauses for a
    second. Pinned by tests/unit/test_descriptors.py.
    """

    def __init__(
        self,
        family: int,
        *,
        farewell: bytes = b"",
        turned_away: Callable[[], None] | None = None,
        for_operators: bool = False,
    ) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._ceiling = current().limit if for_operators else current().connection_ceiling
        self._farewell = farewell
        self._turned_away = turned_away
        self._is_pausing = False
        self._reports = Repeated(_REPORT_SECONDS)

    def accept(self) -> tuple[socket.socket, object]:
        """Accept one connection.

        Raises:
            BlockingIOError: no connection waits, or one was turned away; asyncio ends its step.
            OSError: no descriptor is left; asyncio pauses.
        """
        if self._is_pausing:
            self._is_pausing = False
            raise BlockingIOError
        try:
            connection, address = super().accept()
        except OSError as error:
            self._is_pausing = error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
            raise
        if connection.fileno() < self._ceiling:
            return connection, address
        with connection:
            connection.settimeout(0)
            self._turn_away(connection)
        raise BlockingIOError

    def _turn_away(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has gone, or does not read: the message reaches nobody
            connection.send(self._farewell)
        if self._turned_away is not None:
            self._turned_away()
        if number := self._reports.count():
            log.warning("connections turned away", reason="descriptors are scarce", number=number)


def bind(listener: Listener, address: tuple[Any, ...], *, backlog: int) -> Listener:
    """Bind the socket to an address and listen; close the socket on failure.

    Raises:
        OSError: the address cannot be bound.
    """
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.settimeout(0)
    except OSError:
        listener.close()
        raise
    return listener
