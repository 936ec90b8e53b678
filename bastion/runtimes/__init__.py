"""The port to whatever runs containers: find one, run a program in it, get its events, leave nothing behind.

Contract, proved by tests/runtimes over every adapter:

- Leaving the `exec` context ends the process and its children, `setsid` ones included, within a bounded time.
- `Eof` sent is a half-close: the program's stdin ends, its output still arrives.
- Iteration ends when the output is drained; only then is `wait()` believed.
- Sending to a program that stopped reading, or has ended, is no error.
- Order is kept. A status nobody knows is an error and never 0.
- A slow reader slows the container and does not fill our memory: at most 1 MiB is held per exec,
  and behind the program's end also what its engine would drop otherwise.
- A connection that was dialled is a byte stream: order is kept, its end is given once all was read, a slow reader holds
  it back, and leaving the context closes it.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bastion.errors import RuntimeFailed
from bastion.model import Event, Exit, Request, Target


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
        out. Sorted by name, so that the first is replica 1. Empty when there is none.

        Raises:
            NoSuchTarget: there is such a service, but nothing of it is ready; says what could be entered instead.
            RuntimeUnreachable: the engine does not answer.
        """
        ...

    def exec(self, target: Target, request: Request) -> AbstractAsyncContextManager[Exec]:
        """Run the request's shell or command; leaving the context ends it with all it started.

        Raises:
            RuntimeUnreachable: the engine does not answer.
            ContainerEnded: the container is gone, stopped or paused.
            NoShell: there is no shell in the container.
        """
        ...

    def dial(self, target: Target, host: str, port: int) -> AbstractAsyncContextManager[Connection]:
        """Connect to HOST:PORT from inside the container's network; `localhost` is the container itself.

        That nothing listens there may be told here, or by the connection's first event.

        Raises:
            RuntimeFailed: nothing listens there, or this container gives no way to dial.
        """
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
