"""What the registry asks of a store: places under limits, what became of sessions, and word from other nodes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from bastion.model import Session, State
from bastion.sessions.duty_store import DutyStore
from bastion.sessions.limits import Bounds

Changes = Mapping[str, Mapping[str, object]]
"""For each uid the fields of its Session that changed.

Beside these, `end_asked` is the reason for which it is to be ended, `transcript_bytes` the size of its transcript.
"""

BASTION_STOPPED: Final = "its bastion stopped"
MOST_AT_ONCE: Final = 1000
QUOTA_PERIOD: Final = timedelta(hours=24)
"""For how long after its session's end a transcript counts against its user's quota."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions of the history: those that fit every field that is not None; the newest first, page by page.

    `since` is when they were asked for at the earliest. `page` counts from 1; `per_page` is at most 1000.
    """

    state: State | None = None
    user: str | None = None
    stack: str | None = None
    service: str | None = None
    since: datetime | None = None
    page: int = 1
    per_page: int = 100

    def __post_init__(self) -> None:
        if self.page < 1 or not 1 <= self.per_page <= MOST_AT_ONCE:
            raise ValueError(f"a page is numbered from 1 and has 1 to {MOST_AT_ONCE} sessions")

    def fits(self, session: Session) -> bool:
        """Tell whether this is one of them."""
        return (
            self.state in {None, session.state}
            and self.user in {None, session.user}
            and self.stack in {None, session.stack}
            and self.service in {None, session.service_name}
            and (self.since is None or session.created_at >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What is live: this node's own by uid, each with the reason for which its end is asked; and the others'."""

    own: Mapping[str, str | None]
    others: tuple[Session, ...] = ()


class Store(Protocol):
    """Keeps the sessions of all nodes. What asks it raises DatabaseFailed when it does not answer.

    A session is live until it has `ended_at`. `duties` are what its nodes still have to end.
    """

    duties: DutyStore

    async def open(self) -> None:
        """Be ready, and release what a node of this host left behind.

        Raises:
            ConfigurationError: the database cannot be opened, or is of a newer bastion.
        """
        ...

    async def take(self, session: Session, bounds: Bounds, *, reserve: bool = False) -> Session:
        """Write a session down if the limits leave a place for it; return it.

        A session takes over what the same user reserved for the same service: that place becomes its own, and its
        `reserved_as` the uid of the reservation. With `reserve` it is a reservation itself.

        Raises:
            LimitReached: the service, the user or the grant has as many sessions as it may, or the user's quota of
                transcript bytes is used up.
        """
        ...

    async def write(self, changes: Changes) -> None:
        """Write all of these changes down, or none; a uid that is not there is left alone."""
        ...

    async def look(self) -> Look:
        """Return what is live."""
        ...

    async def beat(self) -> None:
        """Say that this node lives, and release the sessions of nodes that do not."""
        ...

    async def find(self, uid: str) -> Session | None:
        """Return the session of this uid, live or ended, or the one that took over the reservation of this uid."""
        ...

    async def history(self, wanted: Wanted) -> tuple[list[Session], int]:
        """Return one page of the sessions that are wanted, live and ended, and how many there are on all pages."""
        ...

    async def transcript_bytes(self, users: Collection[str]) -> Mapping[str, int]:
        """Return how many bytes count against these users' quotas, without those of this node's live sessions."""
        ...

    async def forget(self, before: datetime) -> None:
        """Remove the sessions that ended before then."""
        ...

    async def close(self) -> None:
        """Release what this node still has, and let go of the database."""
        ...
