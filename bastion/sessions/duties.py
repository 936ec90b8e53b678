"""Carry out the duties to end what sessions left behind: until each is done, also those of nodes that have stopped."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from bastion.errors import BastionError, ContainerPaused, DatabaseFailed, OtherEngine, RuntimeFailed, RuntimeUnreachable
from bastion.model import now
from bastion.runtimes import Runtime
from bastion.runtimes.duties import Duty, Reaped
from bastion.sessions.duty_store import Claim, DutyStore
from bastion.tasks import background

CLAIM_SECONDS: Final = 3.0  # between two looks for duties of nodes that have stopped
MAX_ATTEMPTS_AT_ONCE: Final = 4  # each is a program in a container, and an engine starts about 18 a second
FIRST_RETRY_SECONDS: Final = 0.5
SOON_SECONDS: Final = 10.0  # the longest wait where one call tells: an engine that is away, a container that is paused
LATE_SECONDS: Final = 60.0  # the longest wait for all else
YOUNG_SECONDS: Final = 20.0  # a program this young may still be starting, so that nothing carries its marker yet
SECOND_LOOK_SECONDS: Final = 3.0

Note = Callable[..., Awaitable[None]]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Open:
    """A duty that is this node's to do; `owner` is the stopped node that it was of, `due` when it is tried next."""

    duty: Duty
    due: float
    owner: str | None = None
    attempts: int = 0
    error: str = ""
    is_looked_at: bool = False


class Duties:
    """The duties of this node, and those that it takes from nodes that have stopped.

    The adapters put their duties on record here (a DutyRecord); `run` carries out what they could not.
    """

    def __init__(self, store: DutyStore) -> None:
        self._store = store
        self._open: dict[str, _Open] = {}
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, tuple[Duty, Reaped | None]] = {}
        self._avoided: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._flushing = asyncio.Lock()

    # What the adapters say.

    async def add(self, duty: Duty) -> None:
        """Put a duty on record; see DutyRecord."""
        await self._store.add(duty)

    def done(self, duty: Duty) -> None:
        """Take a duty off the record; see DutyRecord."""
        self._open.pop(duty.uid, None)
        self._done[duty.uid] = duty, None
        self._changed.set()

    def failed(self, duty: Duty, error: BastionError) -> None:
        """Take over what could not be done at a session's end; see DutyRecord."""
        due = asyncio.get_running_loop().time() + FIRST_RETRY_SECONDS
        self._open[duty.uid] = _Open(duty, due, error=error.public)
        self._changed.set()

    def retry_now(self) -> None:
        """Try everything at once; see DutyRecord."""
        for entry in self._open.values():
            entry.due = 0.0
        self._avoided.clear()
        self._changed.set()

    # What others ask.

    @property
    def open(self) -> int:
        """How many duties this node could not do yet."""
        return len(self._open)

    # The work.

    async def run(self, runtimes: Mapping[str, Runtime], note: Note) -> None:
        """For ever: do what is due. `note` takes a line for the ledger."""
        loop = asyncio.get_running_loop()
        claim_at, is_failing = 0.0, False
        try:
            while True:
                self._changed.clear()
                try:
                    await self.flush(note)
                    if loop.time() >= claim_at:
                        claim_at = loop.time() + CLAIM_SECONDS
                        await self._claim(runtimes)
                except DatabaseFailed as error:
                    if not is_failing:
                        log.warning("duties are not written down for now", reason=error.public, detail=error.detail)
                    is_failing = True
                else:
                    is_failing = False
                self._start_due(runtimes)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause(claim_at, is_failing=is_failing)):
                        await self._changed.wait()
        finally:
            for task in self._attempts.values():
                task.cancel()
            await asyncio.gather(*self._attempts.values(), return_exceptions=True)

    async def flush(self, note: Note | None = None) -> None:
        """Remove from the store what is done.

        Raises:
            DatabaseFailed: it does not answer; what is done is removed the next time.
        """
        async with self._flushing:
            done = dict(self._done)
            if not done:
                return
            removed = await self._store.remove(done)
            for uid, (duty, reaped) in done.items():
                self._done.pop(uid, None)
                if reaped is not None and uid in removed:
                    await self._tell(duty, reaped, note)

    async def close(self) -> None:
        """Remove from the store what is done, and say what is left for the next start or another node."""
        try:
            await self.flush()
        except DatabaseFailed as error:
            log.warning("duties that are done stay on record", detail=error.detail)
        if self._open:
            log.warning("processes may be left: ended by the next start, or by another node", duties=len(self._open))
        await self._store.close()

    async def _tell(self, duty: Duty, reaped: Reaped, note: Note | None) -> None:
        facts = {"uid": duty.session, "container": duty.container_name, "runtime": duty.runtime}
        reason = "ended after its session" if reaped == "ended" else "container gone"
        log.info("duty done", **facts, reason=reason)
        if note is not None:
            await note("reaped", **facts, reason=reason)

    async def _claim(self, runtimes: Mapping[str, Runtime]) -> None:
        """Take duties of stopped nodes, as many as there is room for."""
        loop = asyncio.get_running_loop()
        self._avoided = {uid: until for uid, until in self._avoided.items() if until > loop.time()}
        claims: list[Claim] = await self._store.claim(list(runtimes), list(self._avoided))
        for claim in claims:
            self._open[claim.duty.uid] = _Open(claim.duty, 0.0, owner=claim.owner)
        if claims:
            log.info("duties of a stopped bastion taken over", duties=len(claims))

    def _start_due(self, runtimes: Mapping[str, Runtime]) -> None:
        present = asyncio.get_running_loop().time()
        due = [entry for entry in self._open.values() if entry.due <= present and entry.duty.uid not in self._attempts]
        for entry in sorted(due, key=lambda entry: entry.due)[: MAX_ATTEMPTS_AT_ONCE - len(self._attempts)]:
            uid = entry.duty.uid
            self._attempts[uid] = task = background(self._attempt(entry, runtimes), name=f"reap {uid}")
            task.add_done_callback(lambda _, uid=uid: self._forget_attempt(uid))  # type: ignore[misc]

    def _forget_attempt(self, uid: str) -> None:
        del self._attempts[uid]
        self._changed.set()

    def _pause(self, claim_at: float, *, is_failing: bool) -> float:
        """Return the seconds until there is something to do."""
        present = asyncio.get_running_loop().time()
        if len(self._attempts) >= MAX_ATTEMPTS_AT_ONCE:
            return CLAIM_SECONDS
        due = [entry.due for uid, entry in self._open.items() if uid not in self._attempts]
        return max(1.0 if is_failing else 0.0, min([claim_at, *due]) - present)

    async def _attempt(self, entry: _Open, runtimes: Mapping[str, Runtime]) -> None:
        """Try a duty once, and decide what becomes of it."""
        duty = entry.duty
        try:
            runtime = runtimes.get(duty.runtime)
            if runtime is None:
                raise RuntimeUnreachable(f"no engine {duty.runtime} is configured")  # noqa: TRY301 - is handled as one
            reaped = await runtime.reap(duty)
        except RuntimeFailed as error:
            await self._put_off(entry, error)
        except Exception as error:
            log.error("internal error", uid=duty.session, exc_info=error)  # noqa: TRY400 - as the gateway's
            await self._put_off(entry, BastionError("internal error"))
        else:
            is_young = (now() - duty.created_at).total_seconds() < YOUNG_SECONDS
            if reaped == "ended" and is_young and not entry.is_looked_at:
                entry.is_looked_at = True
                entry.due = asyncio.get_running_loop().time() + SECOND_LOOK_SECONDS
                return
            self._open.pop(duty.uid, None)
            self._done[duty.uid] = duty, reaped

    async def _put_off(self, entry: _Open, error: BastionError) -> None:
        """Note why it could not be done; what was another node's is given back, for any that can do it."""
        loop = asyncio.get_running_loop()
        longest = SOON_SECONDS if isinstance(error, RuntimeUnreachable | ContainerPaused) else LATE_SECONDS
        pause = min(longest, FIRST_RETRY_SECONDS * 2 ** min(entry.attempts, 10))
        entry.attempts += 1
        entry.due = loop.time() + pause * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load, guards nothing
        duty = entry.duty
        if error.public != entry.error:
            entry.error = error.public
            log.warning("processes may be left, tried again", session=duty.session, container=duty.container_name,
                        runtime=duty.runtime, reason=error.public, detail=error.detail)  # fmt: skip
        given_back = [entry] if isinstance(error, OtherEngine) and entry.owner is not None else []
        if isinstance(error, RuntimeUnreachable):  # nor does it answer for the others
            others = [other for other in self._open.values() if other.duty.runtime == duty.runtime]
            given_back = [other for other in others if other.owner is not None]
            for other in others:
                other.due = max(other.due, entry.due)
        for other in given_back:
            self._open.pop(other.duty.uid, None)
            self._avoided[other.duty.uid] = loop.time() + longest
        try:
            await self._store.failed(duty.uid, error.public)
            await self._store.give_back({other.duty.uid: str(other.owner) for other in given_back})
        except DatabaseFailed as failure:
            log.info("a duty's failure is not written down", session=duty.session, detail=failure.detail)
