"""The duty to end what a program of a session left behind: on record before the program runs, until that is done."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from bastion.errors import BastionError
from bastion.model import now

Reaped = Literal["ended", "gone"]
"""How a duty was done: nothing of the session runs any more, or the container is gone, with all that ran in it."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One program started in one container, and the way back to whatever it leaves there.

    `uid` is the program's marker, the value of BASTION_SESSION in its environment: the session's uid, behind `N-` for
    a further program of the session. `runtime` is the name of its engine in the configuration; `engine` tells that
    engine from another one of the same name, such as another node's at the same path. `container_id` is in the words of
    the adapter, and is of the toolbox where the program runs in one. `shell` is a Bourne shell that runs our scripts
    there, `user` whom the program runs as; None is the container's own.
    """

    uid: str
    runtime: str
    engine: str
    container_id: str
    container_name: str
    shell: str
    user: str | None = None
    namespace: str | None = None
    pod_name: str | None = None
    created_at: datetime = field(default_factory=now)

    @property
    def session(self) -> str:
        """The uid of the session."""
        number, dash, uid = self.uid.partition("-")
        return uid if dash and number.isdecimal() else self.uid


class DutyRecord(Protocol):
    """Where an adapter puts its duties on record."""

    async def add(self, duty: Duty) -> None:
        """Put a duty on record; its program may start when this has returned.

        Raises:
            DatabaseFailed: it is not on record; the program must not start.
        """
        ...

    def done(self, duty: Duty) -> None:
        """Take a duty off the record: nothing is left, or nothing was started."""
        ...

    def failed(self, duty: Duty, error: BastionError) -> None:
        """Hand a duty over: it could not be done now and has to be tried again."""
        ...

    def retry_now(self) -> None:
        """Try what is left at once: an engine answers again, or a container is no longer paused."""
        ...


class Unrecorded:
    """No record, for a command that starts no session: what cannot be ended at once is left."""

    async def add(self, duty: Duty) -> None:
        """Keep nothing."""

    def done(self, duty: Duty) -> None:
        """Keep nothing."""

    def failed(self, duty: Duty, error: BastionError) -> None:
        """Keep nothing."""

    def retry_now(self) -> None:
        """There is nothing to try."""
