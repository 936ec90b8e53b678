"""Write down in the background what becomes of sessions, in order, and again until the database takes it."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from bastion.errors import DatabaseFailed
from bastion.sessions.store import Store

_RETRY_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Writer:
    """Holds what is not written yet: one set of changes for each session.

    So it is bounded by the sessions there are: while the database does not answer, no new one is opened.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, dict[str, object]] = {}
        self._under_way: Mapping[str, dict[str, object]] = {}
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()
        self._failures = 0
        self._last_failure: DatabaseFailed | None = None

    def put(self, uid: str, **changes: object) -> None:
        """Have these changes of a session written; returns at once."""
        self._pending.setdefault(uid, {}).update(changes)
        self._wake.set()

    def knows(self, uid: str) -> bool:
        """Tell whether something of this session is not written yet."""
        return uid in self._pending or uid in self._under_way

    @property
    def frees_places(self) -> bool:
        """Whether the end of a session is not written yet."""
        return any("ended_at" in changes for some in (self._pending, self._under_way) for changes in some.values())

    async def flush(self) -> None:
        """Write everything that was put until now.

        Raises:
            DatabaseFailed: the database did not take it; it is kept for the next time.
        """
        failures = self._failures
        async with self._one:
            if not self._pending:
                return
            if self._failures != failures and (failure := self._last_failure) is not None:
                # Each of a hundred that wait would otherwise wait for its own failure, one after the other.
                raise DatabaseFailed(failure.public, failure.hint, detail=failure.detail)
            self._under_way, self._pending = self._pending, {}
            try:
                await self._store.write(self._under_way)
            except BaseException as error:
                if isinstance(error, DatabaseFailed):
                    self._failures, self._last_failure = self._failures + 1, error
                newer = self._pending
                self._pending = {uid: {**older, **newer.pop(uid, {})} for uid, older in self._under_way.items()}
                self._pending.update(newer)
                raise
            finally:
                self._under_way = {}

    async def run(self) -> None:
        """For ever: write what is put."""
        failing = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except DatabaseFailed as error:
                if not failing:
                    log.error("sessions are not written down for now", reason=error.public, detail=error.detail)  # noqa: TRY400 - ours
                failing = True
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()
            else:
                if failing:
                    log.info("sessions are written down again")
                failing = False
