"""The port to whatever runs containers: find one, run a program in it, get its events, leave nothing behind.

Contract, proved by tests/runtimes over every adapter:

- Leaving the `exec` context ends the process and its children, `setsid` ones included, within a bounded time. A duty to
  do so is on record before the program starts, and `reap` carries it out where that was not possible.
- `Eof` sent is a half-close: the program's stdin ends, its output still arrives.
- Iteration ends when the output is drained; only then is `wait()` believed.
- Sending to a program that stopped reading, or has ended, is no error.
- Order is kept. A status nobody knows is an error and never 0.
- A slow reader slows the container and does not fill our memory: at most 1 MiB is held per exec,
  and behind the program's end also what its engine would drop otherwise.
- A connection that was dialled is a byte stream: order is kept, its end is given once all was read, a slow reader holds
  it back, and leaving the context closes it.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from bastion.errors import RuntimeFailed
from bastion.model import Event, Exit, Request, Target
from bastion.runtimes.duties import Duty, Reaped


class Exec(Protocol):
    """A program running in a container."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Give the output in order, as `Data` of stream 1 or 2, until all of it has been read.

        Raises:
            RuntimeFailed: the stream broke, or the container ended under it.
        """
        ...

    async def send(self, event: Event) -> None:
        """Deliver input, its end, a new terminal size or a signal; wait while the program does not read."""
        ...

    async def wait(self) -> Exit:
        """Return how the program ended; call it after the output is drained.

        Raises:
            ContainerEnded: the container ended under the program and no status is known.
            ConnectionLost: nobody knows how the program ended.
        """
        ...


class Connection(Protocol):
    """A byte stream opened from inside a container's network."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Give what arrives, as `Data` of stream 1, until the other end has closed.

        Raises:
            RuntimeFailed: nothing listens there, or the stream broke.
        """
        ...

    async def send(self, event: Event) -> None:
        """Deliver `Data`, or `Eof`: the half-close, where the engine can pass it on. Wait while nobody reads."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What an engine says of one path: st_mode, and where a symbolic link leads to, all links followed."""

    mode: int
    size: int
    modified: int
    target: bytes | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a container: whom its programs run as, in its own words, the folder they start in, and what no archive has.

    `unseen` are folders with a file system of their own, such as /proc and every tmpfs: the engine reads and writes
    what lies hidden beneath them.
    """

    user: str
    folder: bytes
    unseen: tuple[bytes, ...]


class Archive(Protocol):
    """The files of a container by its engine's own hand: as root, asking none of the container's permissions.

    Paths are absolute; symbolic links in them are followed inside the container, but for the last name. Every method
    may raise FileFailed, with the engine's own words as its `detail`, and RuntimeFailed.
    """

    async def bounds(self) -> Bounds:
        """Return what there is to know before anything is done."""
        ...

    async def look(self, path: bytes) -> Look | None:
        """Return what is at a path; None when nothing is."""
        ...

    def get(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read a file, or a folder with all that is in it, as a tar; a slow reader holds the engine back."""
        ...

    async def put(self, folder: bytes, tar: Iterable[bytes]) -> None:
        """Unpack a tar in a folder. A file that is there is replaced, and what failed half-way may be half there."""
        ...

    async def over(self) -> RuntimeFailed:
        """Wait until the container ends or is paused, and return that as the failure it is."""
        ...


class Runtime(Protocol):
    """A Docker Engine, a Kubernetes cluster, or the demo's local processes."""

    name: str

    async def services(self) -> list[tuple[str, str]]:
        """List (stack, service) of everything that runs, sorted, without duplicates.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        ...

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        """List the running replicas of a service, or the one container (pod) of the stack with exactly that name.

        One target a replica: its `container`, or the one that is entered when none is named; a replica without is left
        out. Sorted by name. Empty when there is none.

        Raises:
            NoSuchTarget: there is such a service, but nothing of it runs or is ready; the text says how it is.
            RuntimeUnreachable: the engine does not answer.
        """
        ...

    def exec(self, target: Target, request: Request) -> AbstractAsyncContextManager[Exec]:
        """Run the request's shell or command; leaving the context ends it with all it started.

        Raises:
            RuntimeUnreachable: the engine does not answer.
            ContainerEnded: the container is gone, stopped or paused.
            NoShell: there is no shell in the container.
            DatabaseFailed: the duty to end it cannot be put on record, so it was not started.
        """
        ...

    async def reap(self, duty: Duty) -> Reaped:
        """End everything that carries the duty's marker in its container, whatever started it and when.

        Doing so again, or from two bastions at a time, is harmless.

        Raises:
            RuntimeUnreachable: the engine does not answer.
            ContainerPaused: what runs there cannot be ended before it is unpaused.
            OtherEngine: no such container is here, but it was on another engine.
            RuntimeFailed: not all was ended, or nobody knows.
        """
        ...

    def dial(self, target: Target, host: str, port: int) -> AbstractAsyncContextManager[Connection]:
        """Connect to HOST:PORT from inside the container's network; `localhost` is the container itself.

        That nothing listens there may be told here, or by the connection's first event.

        Raises:
            RuntimeFailed: nothing listens there, or this container gives no way to dial.
        """
        ...

    def archive(self, target: Target) -> Archive | None:
        """Return the target's files by the engine's own hand, where it has one and the stack lets it be used."""
        ...

    async def faults(self) -> list[RuntimeFailed]:
        """Say what would keep sessions from working although the engine answers, such as rights that are missing.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        ...

    async def ping(self) -> str:
        """Return one line that names the engine and its version.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection to the engine."""
        ...
