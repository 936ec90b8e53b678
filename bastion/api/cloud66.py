"""Cloud 66's own routes below /api/3, in its shapes, so that its published client starts sessions here."""

import asyncio
import secrets
import socket
from typing import Annotated, Final, Generic, TypeVar

import structlog
from fastapi import FastAPI, Path, Query
from pydantic import BaseModel, Field

from bastion.api.actions import AsyncAction
from bastion.api.callers import Caller, Calling, needs
from bastion.api.problems import CLOUD66, CLOUD66_PROBLEMS, ForbiddenError, NoSuchSessionError
from bastion.api.services import UID_PATTERN, Parts, Services, Stack
from bastion.config import GrantSettings
from bastion.errors import BastionError, NoSuchTarget, Refused, RuntimeUnreachable
from bastion.model import Identity, Name, Request, Session, Target, now
from bastion.targets import parse

FIND_SECONDS: Final = 30.0

Answered = TypeVar("Answered", bound=BaseModel)

log = structlog.get_logger(__name__)


class Pagination(BaseModel):
    """Of one answer there is one page."""

    previous: int | None = None
    next: int | None = None
    current: int = 1


class Wrapped(BaseModel, Generic[Answered]):
    """Every answer of Cloud 66's, in its envelope."""

    response: Answered
    count: int = 1
    pagination: Pagination = Pagination()


class SessionOrder(BaseModel):
    """The service to enter: what one writes before the `@` of a name."""

    service_name: Annotated[str, Field(min_length=1, max_length=320)]


class RemoteSession(Session):
    """A session, and the command that connects to it while it waits for its user."""

    ssh: str


def add_cloud66(api: FastAPI) -> None:
    """Add the routes below /api/3, each with and without `.json`."""
    read, write = needs("sessions:read"), needs("sessions:write")
    stack = f"{CLOUD66}stacks/{{stack}}"
    for ending in (".json", ""):
        for path, method, extra, endpoint in (
            (f"{stack}/sessions{ending}", "POST", write, start_session),
            (f"{stack}/actions/{{action}}{ending}", "GET", read, show_action),
            (f"{stack}/sessions/fetch{ending}", "GET", read, fetch_session),
        ):
            api.add_api_route(
                path, endpoint, methods=[method], tags=["cloud66"], openapi_extra=extra, responses=CLOUD66_PROBLEMS
            )


async def start_session(parts: Parts, caller: Calling, stack: Stack, order: SessionOrder) -> Wrapped[AsyncAction]:
    """Find the container and keep a place in the limits for two minutes, for the user whose token it is."""
    if caller.user is None:
        raise ForbiddenError(f"the token {caller.name} is no user's", "bastion tokens issue NAME --user USER")
    name = parse(f"{order.service_name}@{stack}")
    began = now()
    resource, success, message = "", False, ""
    try:
        session = await _reserve(parts, caller, name)
    except (Refused, NoSuchTarget):
        raise
    except BastionError as error:
        message = f"{error.public} ({error.hint})"
        log.info("session not started through the api", user=caller.user, code=error.code, detail=error.detail)
    else:
        resource, success = session.uid, True
        message = f"connect within two minutes: {_ssh_line(parts, session)}"
        log.info("session reserved through the api", uid=session.uid, user=caller.user, by=caller.name)
    action = AsyncAction(
        id=parts.actions.new_id(),
        user=caller.user,
        resource_id=resource,
        started_at=began,
        finished_at=now(),
        finished_success=success,
        finished_message=message,
    )
    parts.actions.keep(stack, order.service_name, action)
    return Wrapped(response=action)


async def show_action(
    parts: Parts, caller: Calling, stack: Stack, action: Annotated[int, Path(ge=1, lt=2**53)]
) -> Wrapped[AsyncAction]:
    """Tell how an action went."""
    found = parts.actions.find(stack, action)
    if found is None or not caller.sees(found.user):
        raise NoSuchSessionError(f"no action {action} of {stack}", "it may be old, or of another node")
    return Wrapped(response=found)


async def fetch_session(
    parts: Parts,
    caller: Calling,
    stack: Stack,
    session_id: Annotated[str | None, Query(pattern=UID_PATTERN, description="goes before service_name")] = None,
    service_name: Annotated[str | None, Query(max_length=320, description="its latest session")] = None,
) -> Wrapped[RemoteSession]:
    """Give one session: that of an id, or the latest live one of a service."""
    if session_id is not None:
        found = await parts.sessions.find(session_id)
    elif service_name is not None:
        started = parts.actions.resources(stack, service_name)
        fitting = [
            one
            for one in parts.sessions.list()
            if (one.stack == stack and one.service_name == service_name) or {one.uid, one.reserved_as} & started
        ]
        found = max((one for one in fitting if caller.sees(one.user)), key=lambda one: one.created_at, default=None)
    else:
        raise NoSuchSessionError("which session?", "add ?session_id= or ?service_name=")
    if found is None or found.stack != stack or not caller.sees(found.user):
        raise NoSuchSessionError(f"no such session in {stack}", "start one: POST …/sessions")
    return Wrapped(response=RemoteSession(**found.model_dump(), ssh=_ssh_line(parts, found)))


async def _reserve(parts: Services, caller: Caller, name: Name) -> Session:
    """Let the gateway judge and find as it does for SSH, and keep a place.

    Raises:
        Refused: policy says no.
        NoSuchTarget: nothing of that name runs.
        LimitReached: there is no place.
        RuntimeUnreachable: the engine does not answer.
    """
    identity = Identity(caller.user or "", "", caller.address)
    try:
        async with asyncio.timeout(FIND_SECONDS):
            target, grant = await _find(parts, identity, name)
    except TimeoutError:
        raise RuntimeUnreachable("the engine does not answer", "try again in a moment") from None
    session = await parts.sessions.reserve(identity, target, grant)
    facts = {"uid": session.uid, "user": session.user, "stack": session.stack, "service": session.service_name}
    try:
        await parts.transcripts.ledger.append("reserved", **facts, by=caller.name)
    except BastionError:
        parts.sessions.end(session.uid, "it is in no ledger")
        raise
    return session


async def _find(parts: Services, identity: Identity, name: Name) -> tuple[Target, GrantSettings]:
    """Find the container for a shell, or else for a command, whichever the user may have."""
    try:
        _, target, grant = await parts.gateway.find(identity, Request(secrets.token_hex(8), name, "shell"), "")
    except Refused as refusal:
        try:
            _, target, grant = await parts.gateway.find(identity, Request(secrets.token_hex(8), name, "exec"), "")
        except Refused:
            raise refusal from None
    return target, grant


def _ssh_line(parts: Services, session: Session) -> str:
    addresses = parts.ssh_addresses()
    host, port = addresses[0] if addresses else ("", 22)
    if host in {"", "0.0.0.0", "::"}:
        host = socket.gethostname()
    return f"ssh -p {port} {session.service_name}@{session.stack}@{host}"
