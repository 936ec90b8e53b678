"""A store in memory, for a bastion that is alone and keeps no history: the places, and the sessions that ended last."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from bastion.model import Session, now
from bastion.sessions.duty_store import DutyStore, MemoryDuties
from bastion.sessions.limits import Bounds, Held, refuse_if_full
from bastion.sessions.store import QUOTA_PERIOD, Changes, Look, Wanted

_KEPT: Final = 1000  # sessions that have ended


@dataclass(slots=True)
class _Row:
    session: Session
    grant: str | None
    reserved: bool
    end_asked: str | None = None
    transcript_bytes: int = 0

    @property
    def live(self) -> bool:
        return self.session.ended_at is None

    @property
    def counts(self) -> bool:
        """Whether its transcript counts against its user's quota."""
        return self.session.ended_at is None or self.session.ended_at > now() - QUOTA_PERIOD


class MemoryStore:
    """Keeps sessions for as long as the process lives."""

    def __init__(self) -> None:
        self.duties: DutyStore = MemoryDuties()
        self._rows: dict[str, _Row] = {}

    async def open(self) -> None:
        """Nothing needs to be opened."""

    async def take(self, session: Session, bounds: Bounds, *, reserve: bool = False) -> Session:
        """See Store.take."""
        reserved = None if reserve else self._reserved_for(session)
        live = {uid: row for uid, row in self._rows.items() if row.live and uid != reserved}
        place = (session.stack, session.service_name)
        held = Held(
            Counter(r.session.user for r in live.values() if (r.session.stack, r.session.service_name) == place),
            sum(row.session.user == session.user for row in live.values()),
            sum(row.grant == bounds.grant for row in live.values()),
            sum(r.transcript_bytes for r in self._rows.values() if r.session.user == session.user and r.counts),
        )
        refuse_if_full(session, bounds, held)
        if reserved is not None:
            del self._rows[reserved]
            session = session.model_copy(update={"reserved_as": reserved})
        self._rows[session.uid] = _Row(session, bounds.grant, reserve)
        return session

    async def write(self, changes: Changes) -> None:
        """See Store.write."""
        for uid, fields in changes.items():
            if (row := self._rows.get(uid)) is not None:
                rest = dict(fields)
                row.end_asked = cast("str | None", rest.pop("end_asked", row.end_asked))
                row.transcript_bytes = cast("int", rest.pop("transcript_bytes", row.transcript_bytes))
                row.session = row.session.model_copy(update=cast("dict[str, Any]", rest))
        ended = [uid for uid, row in self._rows.items() if not row.live]
        for uid in ended[:-_KEPT]:
            del self._rows[uid]

    async def look(self) -> Look:
        """See Store.look."""
        return Look({uid: row.end_asked for uid, row in self._rows.items() if row.live})

    async def beat(self) -> None:
        """There is no other node."""

    async def find(self, uid: str) -> Session | None:
        """See Store.find."""
        sessions = [row.session for row in self._rows.values()]
        return next((session for session in sessions if uid in {session.uid, session.reserved_as}), None)

    async def history(self, wanted: Wanted) -> tuple[list[Session], int]:
        """See Store.history."""
        fitting = [row.session for row in self._rows.values() if wanted.fits(row.session)]
        fitting.sort(key=lambda session: (session.created_at, session.uid), reverse=True)
        first = (wanted.page - 1) * wanted.per_page
        return fitting[first : first + wanted.per_page], len(fitting)

    async def transcript_bytes(self, users: Collection[str]) -> Mapping[str, int]:
        """See Store.transcript_bytes."""
        sizes: Counter[str] = Counter()
        for row in self._rows.values():
            if row.session.user in users and not row.live and row.counts:
                sizes[row.session.user] += row.transcript_bytes
        return sizes

    async def forget(self, before: datetime) -> None:
        """See Store.forget."""
        for uid, row in list(self._rows.items()):
            if row.session.ended_at is not None and row.session.ended_at < before:
                del self._rows[uid]

    async def close(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def _reserved_for(self, session: Session) -> str | None:
        wanted = (session.user, session.stack, session.service_name)
        for uid, row in self._rows.items():
            of = row.session
            if row.live and row.reserved and not row.end_asked and (of.user, of.stack, of.service_name) == wanted:
                return uid
        return None
