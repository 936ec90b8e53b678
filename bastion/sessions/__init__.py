"""The registry of sessions: who is in which container on any node, how many at most, and how one is ended."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from bastion.config import GrantSettings, SessionsSettings
from bastion.errors import BastionError, DatabaseFailed, SessionEnded
from bastion.model import Identity, Name, Request, Session, Target, now
from bastion.sessions.duties import Duties
from bastion.sessions.limits import Bounds
from bastion.sessions.live import LiveSession
from bastion.sessions.memory import MemoryStore
from bastion.sessions.nodes import BEAT_SECONDS
from bastion.sessions.quota import Quota
from bastion.sessions.store import Look, Store, Wanted
from bastion.sessions.writing import Writer

__all__ = ["LiveSession", "Sessions", "Wanted"]

LOOK_SECONDS: Final = 1.0
RESERVED_SECONDS: Final = 120.0
_FORGET_SECONDS: Final = 3600.0

log = structlog.get_logger(__name__)


class Sessions:
    """The sessions of every node that shares the store, those of this one live; `limits` may be replaced at any time.

    `user_quota` bounds the bytes of a user's transcripts of the last 24 hours; 0 is no bound.
    Without a store the node is alone, and what has ended is soon forgotten. With one, `start` comes first, `keep` runs
    beside, and `close` comes last.
    """

    def __init__(self, limits: SessionsSettings, node: str, store: Store | None = None, *, user_quota: int = 0) -> None:
        self.limits = limits
        self._node = node
        self._store = store or MemoryStore()
        self.duties = Duties(self._store.duties)
        self._writer = Writer(self._store)
        self._live: dict[str, LiveSession] = {}
        self._quota = Quota(user_quota, self._live, self._store, self._writer)
        self._taking: set[str] = set()
        self._reserved: dict[str, Session] = {}
        self._lapses: dict[str, asyncio.TimerHandle] = {}
        self._others: tuple[Session, ...] = ()
        self._stopped: BastionError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    # Its life.

    async def start(self) -> None:
        """Open the store, and release what a bastion of this host left behind when it was killed.

        Raises:
            ConfigurationError: the database cannot be opened, or is of a newer bastion.
        """
        await self._store.open()

    async def keep(self) -> None:
        """For ever: write down what becomes of sessions, say that this node lives, and hear what others ask of it."""
        await asyncio.gather(self._writer.run(), self._watch(), self._quota.run())

    async def close(self) -> None:
        """Write what is not written, and release what this node still has."""
        for timer in self._lapses.values():
            timer.cancel()
        try:
            await self._writer.flush()
        except DatabaseFailed as error:
            log.warning("ends of sessions are not written down", reason=error.public, detail=error.detail)
        await self.duties.close()
        try:
            await self._store.close()
        except DatabaseFailed as error:
            log.warning("this node's places are free when its heartbeat is old", detail=error.detail)

    async def ping(self) -> None:
        """Return if a session could be opened now.

        Raises:
            DatabaseFailed: the database does not answer.
            BastionError: the reason that `refuse_new` or `end_all` was given.
        """
        self._refuse_if_stopped()
        await self._store.look()

    # What there is.

    async def history(self, wanted: Wanted) -> tuple[list[Session], int]:
        """Return one page of the sessions that are wanted, live and ended, and how many there are on all pages.

        Raises:
            DatabaseFailed: the database does not answer.
        """
        await self._writer.flush()
        return await self._store.history(wanted)

    def own(self) -> list[Session]:
        """Return this node's live sessions, oldest first."""
        return [live.session for live in self._live.values()]

    def list(self) -> list[Session]:
        """Return every live session and reservation, oldest first; those of other nodes as of a second ago."""
        sessions = [*self.own(), *self._reserved.values(), *self._others]
        return sorted(sessions, key=lambda session: session.created_at)

    def get(self, uid: str) -> Session | None:
        """Return the live session of this uid, or the one that took over the reservation of this uid."""
        return next((session for session in self.list() if uid in {session.uid, session.reserved_as}), None)

    async def find_live(self, uid: str) -> Session | None:
        """Return what `get` does, and ask the store where this node has not heard of such a session yet.

        Raises:
            DatabaseFailed: it does not answer.
        """
        if self.get(uid) is None:
            self._others = (await self._store.look()).others
        return self.get(uid)

    def live(self, uid: str) -> LiveSession | None:
        """Return the session itself where it is live and this node's own."""
        return self._live.get(uid)

    async def find(self, uid: str) -> Session | None:
        """Return the session of this uid, live on any node or ended, or the one that took over its reservation.

        Raises:
            DatabaseFailed: it is not live as far as this node knows, and the database does not answer.
        """
        if (session := self.get(uid)) is not None:
            return session
        await self._writer.flush()
        return await self._store.find(uid)

    # What one may do.

    def end(self, uid: str, reason: str) -> bool:
        """End one live session or reservation, on whatever node; False when none of this uid is known here.

        On another node it takes until that has heard of it: two seconds or so.
        """
        session = self.get(uid)
        if session is None:
            return False
        if (live := self._live.get(session.uid)) is not None:
            live.end(SessionEnded(f"the session was ended: {reason}", "ask whoever runs this bastion"))
        elif session.uid in self._reserved:
            self._lapse(session.uid, reason)
        else:
            self._writer.put(session.uid, end_asked=reason)
        return True

    def refuse_new(self, reason: BastionError) -> None:
        """Open no more sessions and take no more reservations on this node; those that live go on."""
        self._stopped = reason

    def tell(self, line: str) -> None:
        """Show every user of this node's sessions one line of the bastion's own."""
        for live in [*self._live.values()]:
            live.tell(line)

    async def wait_until_none(self) -> None:
        """Wait until no session of this node is left."""
        await self._empty.wait()

    async def end_all(self, reason: BastionError, *, grace: float) -> None:
        """End every session of this node, open no more, and wait up to `grace` seconds until all have cleaned up."""
        self.refuse_new(reason)
        for live in [*self._live.values()]:
            live.end(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.wait_until_none()

    async def reserve(
        self,
        identity: Identity,
        target: Target,
        grant: GrantSettings | None = None,
        *,
        seconds: float = RESERVED_SECONDS,
    ) -> Session:
        """Take a place that the user's next session in this service takes over; it is free again after `seconds`.

        Raises:
            LimitReached: the service, the user or the grant has as many sessions as it may.
            DatabaseFailed: the database does not answer.
            BastionError: the reason that `refuse_new` or `end_all` was given.
        """
        request = Request(secrets.token_hex(8), Name(target.service, stack=target.stack), "shell")
        asked = _describe(identity, request, target, self._node)
        asked = asked.model_copy(update={"state": "provisioning", "provisioning_at": asked.created_at})
        session = await self._take(asked, grant, reserve=True)
        self._reserved[session.uid] = session
        lapse = asyncio.get_running_loop().call_later(seconds, self._lapse, session.uid, "nobody connected in time")
        self._lapses[session.uid] = lapse
        return session

    @asynccontextmanager
    async def open(
        self, identity: Identity, request: Request, target: Target, grant: GrantSettings | None = None
    ) -> AsyncIterator[LiveSession]:
        """Register a session for as long as the context lasts.

        Raises:
            LimitReached: the service, the user or the grant has as many sessions as it may.
            DatabaseFailed: the database does not answer.
            BastionError: the reason that `refuse_new` or `end_all` was given.
        """
        session = await self._take(_describe(identity, request, target, self._node), grant)
        self._live[session.uid] = live = LiveSession(session, grant, self._writer.put)
        live.moved = partial(self._quota.moved, live.session.user)
        self._empty.clear()
        try:
            yield live
        finally:
            if live.session.ended_at is None:
                live.update(state="terminated", ended_at=now())
            del self._live[request.uid]
            self._quota.ended(live)
            live.watchers.end()
            if not self._live:
                self._empty.set()

    async def _take(self, session: Session, grant: GrantSettings | None, *, reserve: bool = False) -> Session:
        """Take a place for the session.

        Where this fails it may be taken all the same, the answer lost or too late: `_follow` gives it back.
        """
        self._refuse_if_stopped()
        self._taking.add(session.uid)
        try:
            if self._writer.frees_places:
                await self._writer.flush()
            session = await self._store.take(session, Bounds.of(self.limits, grant, self._quota.limit), reserve=reserve)
            if session.reserved_as is not None:
                self._forget_reservation(session.reserved_as)
            self._refuse_if_stopped()
        finally:
            self._taking.discard(session.uid)
        return session

    def _refuse_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped from None

    def _lapse(self, uid: str, reason: str) -> None:
        if self._forget_reservation(uid):
            self._writer.put(uid, state="terminated", ended_at=now(), reason=reason)

    def _forget_reservation(self, uid: str) -> bool:
        if (timer := self._lapses.pop(uid, None)) is not None:
            timer.cancel()
        return self._reserved.pop(uid, None) is not None

    # What comes from other nodes.

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        beat_at, forget_at, failing = 0.0, loop.time(), False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if loop.time() >= beat_at:
                    beat_at = loop.time() + BEAT_SECONDS - LOOK_SECONDS / 2
                    await self._store.beat()
                settled = {*self._live, *self._reserved}
                known = self._known()
                self._follow(await self._store.look(), known, settled)
                if self.limits.history and loop.time() >= forget_at:
                    forget_at = loop.time() + min(_FORGET_SECONDS, self.limits.history)
                    await self._store.forget(now() - timedelta(seconds=self.limits.history))
            except DatabaseFailed as error:
                if not failing:
                    log.error("no session can be opened", reason=error.public, detail=error.detail)  # noqa: TRY400 - ours
                failing = True
            else:
                failing = False

    def _known(self) -> set[str]:
        return {*self._live, *self._reserved, *self._taking}

    def _follow(self, look: Look, known: set[str], settled: set[str]) -> None:
        """Do what others ask, and put right what the store has otherwise than it is.

        `known` and `settled`, those of them that had their places, are from before the look.
        """
        self._others = look.others
        for uid, reason in look.own.items():
            if reason is not None:
                self.end(uid, reason)
            elif uid not in known and uid not in self._known() and not self._writer.knows(uid):
                self._writer.put(uid, state="terminated", ended_at=now(), reason="it was not begun")
        for uid in settled - look.own.keys():
            if (live := self._live.get(uid)) is not None and not self._writer.knows(uid):
                # Others took this node for dead while it was stopped or could not be heard.
                fields = ("state", "started_at", "ended_at", "reason", "exit_status")
                self._writer.put(uid, **{field: getattr(live.session, field) for field in fields})
            elif uid in self._reserved:  # taken over on another node
                self._forget_reservation(uid)


def _describe(identity: Identity, request: Request, target: Target, node: str) -> Session:
    return Session(
        uid=request.uid,
        title=f"{identity.user} in {target.service}@{target.stack}",
        service_name=target.service,
        namespace=target.namespace,
        command=request.command_text,
        deployment_name=target.deployment_name,
        pod_name=target.pod_name,
        container_name=target.container_name,
        stack=target.stack,
        user=identity.user,
        state="creating",
        created_at=now(),
        client_address=identity.client_address,
        key_fingerprint=identity.key_fingerprint,
        node=node,
    )
