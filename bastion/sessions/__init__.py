"""The registry of live sessions: who is in which container, how many at most, and how one is ended."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from bastion.config import GrantSettings, SessionsSettings
from bastion.errors import BastionError, LimitReached, SessionEnded
from bastion.model import STDIN, Data, Event, Identity, Request, Session, Target, Terminal, now
from bastion.sessions.watching import Watchers


class LiveSession:
    """One session while it lives: its record, its traffic, and the one way to end it.

    `bytes_in` counts what the client sent, `bytes_out` what the container sent; `active_at` is when anything last went
    either way, on the event loop's clock. `tell` shows the user one line of the bastion's own.
    """

    def __init__(self, session: Session, grant: GrantSettings | None = None) -> None:
        self.session = session
        self.grant = grant
        self.bytes_in = 0
        self.bytes_out = 0
        self.active_at = asyncio.get_running_loop().time()
        self.watchers = Watchers()
        self.terminal: Terminal | None = None
        self.tell: Callable[[str], None] = lambda _line: None
        self._reason: BastionError | None = None
        self._task: asyncio.Task[object] | None = None

    def update(self, **changes: object) -> None:
        """Replace the record by one with these fields changed."""
        self.session = self.session.model_copy(update=changes)

    def count(self, event: Event) -> None:
        """Add the event's bytes to the session's traffic, and note when it was."""
        self.active_at = asyncio.get_running_loop().time()
        if isinstance(event, Data):
            if event.stream == STDIN:
                self.bytes_in += len(event.payload)
            else:
                self.bytes_out += len(event.payload)

    def publish(self, event: Event) -> None:
        """Show the event to those who watch; never waits."""
        self.watchers.publish(event)

    def end(self, reason: BastionError) -> None:
        """End the session for this reason; the first reason counts, and what is already ending is left alone."""
        if self._reason is None:
            self._reason = reason
            if self._task is not None:
                self._task.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let `end` stop what runs inside, as the reason it was given.

        Outside of this block `end` stops nothing, so that clean-up is never cut short.

        Raises:
            BastionError: the reason that `end` was given.
        """
        self._raise_reason()
        self._task = task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._reason is not None and task is not None and task.uncancel() == 0:
                self._raise_reason()
            raise  # cancelled from outside, not by `end`
        finally:
            self._task = None

    def _raise_reason(self) -> None:
        if self._reason is not None:
            raise self._reason from None


class Sessions:
    """All live sessions of this node, with their limits, which may be replaced at any time."""

    def __init__(self, limits: SessionsSettings, node: str) -> None:
        self.limits = limits
        self._node = node
        self._live: dict[str, LiveSession] = {}
        self._stopped: BastionError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def list(self) -> list[Session]:
        """Return every live session, oldest first."""
        return [live.session for live in self._live.values()]

    def get(self, uid: str) -> Session | None:
        """Return the live session of this uid."""
        live = self._live.get(uid)
        return live.session if live else None

    def live(self, uid: str) -> LiveSession | None:
        """Return the session itself where it is live and this node's own."""
        return self._live.get(uid)

    def end(self, uid: str, reason: str) -> bool:
        """End one session; False when there is no live one of this uid."""
        live = self._live.get(uid)
        if live is not None:
            live.end(SessionEnded(f"the session was ended: {reason}", "ask whoever runs this bastion"))
        return live is not None

    async def end_all(self, reason: BastionError, *, grace: float) -> None:
        """End every session, open no more, and wait up to `grace` seconds until all have cleaned up."""
        self._stopped = reason
        for live in list(self._live.values()):
            live.end(reason)
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            return

    @asynccontextmanager
    async def open(
        self, identity: Identity, request: Request, target: Target, grant: GrantSettings | None = None
    ) -> AsyncIterator[LiveSession]:
        """Register a session for as long as the context lasts.

        Raises:
            LimitReached: the service, the user or the grant has as many sessions as it may.
            BastionError: the reason that `end_all` was given.
        """
        if self._stopped is not None:
            raise self._stopped from None
        self._take_place(identity, target, grant)
        live = LiveSession(_describe(identity, request, target, self._node), grant)
        self._live[request.uid] = live
        self._empty.clear()
        try:
            yield live
        finally:
            del self._live[request.uid]
            live.watchers.end()
            if not self._live:
                self._empty.set()

    def _take_place(self, identity: Identity, target: Target, grant: GrantSettings | None) -> None:
        sessions = self.list()
        holders = Counter(s.user for s in sessions if (s.stack, s.service_name) == (target.stack, target.service))
        limit = self.limits.per_service
        if holders.total() >= limit:
            names = ", ".join(f"{user} ({count})" for user, count in holders.most_common(10))
            raise LimitReached(
                f"{target.service}@{target.stack} has {limit} sessions, and {limit} is its limit",
                f"held by {names}; try again when one has ended",
            )
        limit = self.limits.per_user
        if sum(s.user == identity.user for s in sessions) >= limit:
            raise LimitReached(
                f"{identity.user} has {limit} sessions, and {limit} is the limit", "end one of them first"
            )
        limit = grant.max_sessions if grant is not None else None
        if limit is not None and sum(live.grant == grant for live in self._live.values()) >= limit:
            raise LimitReached(
                f"your grant is good for {limit} sessions at a time, and they are taken", "end one of them first"
            )


def _describe(identity: Identity, request: Request, target: Target, node: str) -> Session:
    return Session(
        uid=request.uid,
        title=f"{identity.user} in {target.service}@{target.stack}",
        service_name=target.service,
        namespace=target.namespace,
        command=request.command,
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
