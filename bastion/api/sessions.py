"""The routes about sessions: list, show, end."""

from enum import Enum
from typing import Annotated

import structlog
from fastapi import FastAPI, Query
from pydantic import AwareDatetime, BaseModel

from bastion.api.callers import Caller, Calling, needs
from bastion.api.problems import NoSuchSessionError
from bastion.api.services import Line, Named, Page, Parts, PerPage, Services, Uid
from bastion.model import Session, State
from bastion.sessions import Wanted

log = structlog.get_logger(__name__)


class SessionList(BaseModel):
    """One page of the sessions that fit, and how many fit."""

    sessions: list[Session]
    total: int


def add_sessions(api: FastAPI) -> None:
    """Add the routes below /api/sessions, but for watching."""
    tags: list[str | Enum] = ["sessions"]
    read, write = needs("sessions:read"), needs("sessions:write")
    api.get("/api/sessions", tags=tags, openapi_extra=read)(list_sessions)
    api.get("/api/sessions/{uid}", tags=tags, openapi_extra=read)(show_session)
    api.delete("/api/sessions/{uid}", tags=tags, openapi_extra=write, status_code=202)(end_session)


async def list_sessions(
    parts: Parts,
    caller: Calling,
    *,
    live: Annotated[bool, Query(description="only those that are live, oldest first; else all, newest first")] = True,
    state: State | None = None,
    user: Named = None,
    stack: Named = None,
    service: Named = None,
    since: Annotated[AwareDatetime | None, Query(description="asked for then or later")] = None,
    page: Page = 1,
    per_page: PerPage = 100,
) -> SessionList:
    """List the sessions of all nodes that the caller may see."""
    if user is not None and not caller.sees(user):
        return SessionList(sessions=[], total=0)
    wanted = Wanted(state, user or caller.user, stack, service, since, page, per_page)
    if not live or state == "terminated":
        found, total = await parts.sessions.history(wanted)
        return SessionList(sessions=found, total=total)
    fitting = [session for session in parts.sessions.list() if wanted.fits(session)]
    return SessionList(sessions=fitting[(page - 1) * per_page : page * per_page], total=len(fitting))


async def show_session(parts: Parts, caller: Calling, uid: Uid) -> Session:
    """Show one session, live or ended."""
    session = await parts.sessions.find(uid)
    if session is None or not caller.sees(session.user):
        raise NoSuchSessionError(f"no session {uid}", "`bastion sessions list`, or GET /api/sessions, lists them")
    return session


async def end_session(
    parts: Parts,
    caller: Calling,
    uid: Uid,
    reason: Annotated[Line, Query(min_length=1, max_length=200, description="what the user is told")] = "by request",
) -> Session:
    """End one live session, on whatever node; the answer is the session as it was when its end began."""
    session = await live_session(parts, caller, uid)
    log.info("session ended through the api", uid=session.uid, by=caller.name, reason=reason)
    facts = {"uid": session.uid, "by": caller.name, "address": caller.address, "reason": reason}
    await parts.transcripts.ledger.append("end asked", **facts)
    parts.sessions.end(session.uid, reason)
    return session


async def live_session(parts: Services, caller: Caller, uid: str) -> Session:
    """Return the live session that the caller may see.

    Raises:
        NoSuchSessionError: there is none.
        DatabaseFailed: it is not known whether there is one.
    """
    session = await parts.sessions.find_live(uid)
    if session is None or not caller.sees(session.user):
        raise NoSuchSessionError(f"no live session {uid}", "`bastion sessions list`, or GET /api/sessions, lists them")
    return session
