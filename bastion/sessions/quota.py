"""One user's quota of transcript bytes: sizes are written down while sessions run, and at the quota they end."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from bastion.errors import DatabaseFailed, SessionEnded
from bastion.sessions.limits import quota_message
from bastion.sessions.live import LiveSession
from bastion.sessions.store import Store
from bastion.sessions.writing import Writer
from bastion.tasks import background

CHECK_SECONDS: Final = 1.0
STORE_SECONDS: Final = 10.0  # how old the bytes of ended sessions and of other nodes may be
WRITTEN_BYTES: Final = 2**20  # a transcript's size is written down when it has grown by this

log = structlog.get_logger(__name__)


class Quota:
    """Ends every session of a user whose transcripts hold `limit` bytes; 0 is no limit.

    The bytes of sessions that live here are taken from their recorders, the others from the store; while that does not
    answer, its last answer counts. So is each size on record before a crash, up to WRITTEN_BYTES.
    """

    def __init__(self, limit: int, live: Mapping[str, LiveSession], store: Store, writer: Writer) -> None:
        self.limit = limit
        self._live = live
        self._store = store
        self._writer = writer
        self._written: dict[str, int] = {}
        self._stored: Mapping[str, int] = {}
        self._stored_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._over: set[str] = set()

    async def run(self) -> None:
        """For ever: compare the sizes of transcripts with the quota."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._check()

    def moved(self, user: str) -> None:
        """Compare one user's sizes at once: a fast writer would fill a small volume between two looks."""
        if self.limit:
            size = sum(live.transcript_bytes() for live in self._live.values() if live.session.user == user)
            self._compare(user, size)

    def ended(self, live: LiveSession) -> None:
        """Write the size of a transcript down that grows no more."""
        self._written.pop(live.session.uid, None)
        if size := live.transcript_bytes():
            self._writer.put(live.session.uid, transcript_bytes=size)

    def _check(self) -> None:
        sizes: Counter[str] = Counter()
        for uid, live in self._live.items():
            size = live.transcript_bytes()
            sizes[live.session.user] += size
            if size >= self._written.get(uid, 0) + WRITTEN_BYTES:
                self._written[uid] = size
                self._writer.put(uid, transcript_bytes=size)
        if not self.limit or not sizes:
            return
        self._ask(set(sizes))
        self._over &= sizes.keys()
        for user, size in sizes.items():
            self._compare(user, size)

    def _ask(self, users: set[str]) -> None:
        present = asyncio.get_running_loop().time()
        is_old = present - self._stored_at >= STORE_SECONDS or not users <= self._stored.keys()
        if is_old and (self._asking is None or self._asking.done()):
            self._asking = background(self._read(users, present), name="quota", expected=(DatabaseFailed,))

    async def _read(self, users: set[str], asked_at: float) -> None:
        stored = await self._store.transcript_bytes(users)
        self._stored, self._stored_at = {user: stored.get(user, 0) for user in users}, asked_at

    def _compare(self, user: str, size: int) -> None:
        if size + self._stored.get(user, 0) < self.limit:
            return
        users = [live for live in self._live.values() if live.session.user == user]
        if user not in self._over:
            self._over.add(user)
            log.warning("a user's transcripts have reached their quota", user=user, quota=self.limit, ended=len(users))
        for one in users:
            one.end(SessionEnded(*quota_message(user, self.limit)))
