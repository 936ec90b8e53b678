"""A process that can open no more files: the real error, EMFILE, for what a test runs inside."""

import contextlib
import resource
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def none_left(but: int = 0) -> Iterator[None]:
    """Have this process open no more files inside, `but` so many: the soft limit is the lowest number that is free."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + but, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
