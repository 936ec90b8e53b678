"""Record refused requests in the log and the ledger: one line each for the first few, then their number."""

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

import structlog

from bastion.errors import BastionError
from bastion.metrics import Metrics
from bastion.model import Identity, Request
from bastion.tally import Tally

REFUSALS_OF_ONE_KIND: Final = 5  # in a minute, of one user and code, written singly; further refusals are counted
CHECK_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


class Note(Protocol):
    """Writes a line into the ledger."""

    def __call__(self, event: str, **facts: object) -> Awaitable[None]:
        """Write a line with this event and these facts."""
        ...


class Refusals:
    """Records refused requests, at most a few lines a minute for each user and code."""

    def __init__(self, metrics: Metrics, note: Note) -> None:
        self._metrics = metrics
        self._note = note
        self._tally = Tally()

    async def record(self, identity: Identity, request: Request, refusal: BastionError) -> None:
        """Record one refusal, by a line of its own or in the count that `watch` writes."""
        self._metrics.refused(refusal.code)
        name = f"{request.name.service}@{request.name.stack or ''}"
        group = {"user": identity.user, "code": refusal.code}
        if not self._tally.add(
            "refused", group, singly=REFUSALS_OF_ONE_KIND, names=name, addresses=identity.client_address
        ):
            return
        facts = {
            "uid": request.uid,
            "user": identity.user,
            "key_fingerprint": identity.key_fingerprint,
            "client_address": identity.client_address,
            "name": name,
            "kind": request.kind,
            "code": refusal.code,
        }
        log.info("refused", **facts, reason=refusal.public)
        await self._note("refused", **facts)

    async def watch(self) -> None:
        """Write the counts of the minutes that are over, for ever; write the remaining counts when cancelled."""
        try:
            while True:
                await asyncio.sleep(CHECK_SECONDS)
                await self.flush()
        finally:
            await self.flush(everything=True)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the counts of the minutes that are over, or with `everything` all counts."""
        for event, facts in self._tally.due(everything=everything):
            log.info(event, **facts)
            await self._note(event, **facts)
