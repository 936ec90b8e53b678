"""What the duties ask of their store, and the store in memory, whose duties end with the process."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from bastion.runtimes.duties import Duty

CLAIM_LIMIT: Final = 64  # duties that are taken from a stopped node at a time


@dataclass(frozen=True, slots=True)
class Claim:
    """A duty taken over, and the id of the stopped node whose it was."""

    duty: Duty
    owner: str


class DutyStore(Protocol):
    """Keeps duties. What asks it raises DatabaseFailed when it does not answer."""

    async def add(self, duty: Duty) -> None:
        """Write a duty down as this node's."""
        ...

    async def remove(self, uids: Collection[str]) -> set[str]:
        """Remove duties; return the uids of those that were there."""
        ...

    async def claim(self, runtimes: Collection[str], excluded: Collection[str]) -> list[Claim]:
        """Make duties of stopped nodes, on engines of these names, this node's own; not those excluded by uid."""
        ...

    async def failed(self, uid: str, error: str) -> None:
        """Note that a duty could not be done, and why."""
        ...

    async def give_back(self, owners: Mapping[str, str]) -> None:
        """Make claimed duties, by uid, those of their stopped nodes again, for any node to take."""
        ...

    async def close(self) -> None:
        """Let what is under way come to its end."""
        ...


class MemoryDuties:
    """Keeps duties for as long as the process lives."""

    def __init__(self) -> None:
        self._duties: dict[str, Duty] = {}

    async def add(self, duty: Duty) -> None:
        """See DutyStore.add."""
        self._duties[duty.uid] = duty

    async def remove(self, uids: Collection[str]) -> set[str]:
        """See DutyStore.remove."""
        return {uid for uid in uids if self._duties.pop(uid, None) is not None}

    async def claim(self, runtimes: Collection[str], excluded: Collection[str]) -> list[Claim]:  # noqa: ARG002 - the port's
        """See DutyStore.claim: there is no other node."""
        return []

    async def failed(self, uid: str, error: str) -> None:
        """See DutyStore.failed."""

    async def give_back(self, owners: Mapping[str, str]) -> None:
        """See DutyStore.give_back."""

    async def close(self) -> None:
        """Nothing is under way."""
