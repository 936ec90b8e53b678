"""The routes about keys: issue, list, revoke."""

import asyncio
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, Field

from bastion.api.callers import Caller, Calling, needs
from bastion.api.problems import ForbiddenError, InvalidError
from bastion.api.services import NAME_PATTERN, Parts

_USER = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_LONGEST_DAYS = 3650
_FINGERPRINT = r"^SHA256:[A-Za-z0-9+/]{43}$"


class KeyOrder(BaseModel, extra="forbid"):
    """Whose key, what it opens, and for how many days; a token that is bound to a user need not say the user."""

    user: Annotated[str, Field(pattern=_USER)] | None = None
    stack: Annotated[str, Field(pattern=NAME_PATTERN)]
    service: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    days: Annotated[float, Field(gt=0, le=_LONGEST_DAYS)] = 90


class NewKey(BaseModel):
    """A key pair in OpenSSH's formats; the private half is given this once."""

    user: str
    fingerprint: str
    private_key: str
    public_key: str


class Key(BaseModel):
    """One key of one user; `state` is good, expired, revoked, duplicate, or authority where it signs certificates."""

    user: str
    fingerprint: str
    key_type: str
    comment: str
    stack: str | None
    service: str | None
    expires: datetime | None
    state: str


class KeyList(BaseModel):
    """Every key that the caller may see, by user."""

    keys: list[Key]


class Revoked(BaseModel):
    """The fingerprints that open nothing from now on."""

    revoked: list[str]


def add_keys(api: FastAPI) -> None:
    """Add the routes of /api/keys."""
    tags: list[str | Enum] = ["keys"]
    extra = needs("keys:issue")
    api.post("/api/keys", tags=tags, openapi_extra=extra, status_code=201)(issue_key)
    api.get("/api/keys", tags=tags, openapi_extra=extra)(list_keys)
    api.delete("/api/keys", tags=tags, openapi_extra=extra)(revoke_keys)


async def issue_key(parts: Parts, caller: Calling, order: KeyOrder, response: Response) -> NewKey:
    """Make a key pair for a user who holds a grant on the stack; the private half is kept nowhere."""
    user = order.user or caller.user
    if user is None or not caller.sees(user):
        raise ForbiddenError(f"keys are for {caller.user or 'a user'}", "name the user whose token it is, or any")
    parts.gateway.rules.policy.authorize_key(user, order.stack, order.service)
    lifetime = timedelta(days=order.days)
    issued = await asyncio.to_thread(
        parts.keyring.issue, user, stack=order.stack, service=order.service, expires=lifetime
    )
    facts: dict[str, object] = {"user": user, "key_fingerprint": issued.fingerprint}
    facts |= {"stack": order.stack, "service": order.service}
    facts |= {"seconds": int(lifetime.total_seconds())}
    try:
        await parts.transcripts.ledger.append("key issued", **facts, **_by(caller))
    except BaseException:
        await asyncio.to_thread(parts.keyring.revoke, issued.fingerprint)  # in no ledger: it may open nothing
        raise
    response.headers["Cache-Control"] = "no-store"
    return NewKey(
        user=user, fingerprint=issued.fingerprint, private_key=issued.private_text, public_key=issued.public_line
    )


async def list_keys(parts: Parts, caller: Calling, user: Annotated[str | None, Query(pattern=_USER)] = None) -> KeyList:
    """List the keys that the caller may see."""
    keys = await asyncio.to_thread(parts.keyring.list)
    return KeyList(
        keys=[
            Key.model_validate(key, from_attributes=True)
            for key in keys
            if caller.sees(key.user) and user in {None, key.user}
        ]
    )


async def revoke_keys(
    parts: Parts,
    caller: Calling,
    fingerprint: Annotated[str | None, Query(pattern=_FINGERPRINT)] = None,
    user: Annotated[str | None, Query(pattern=_USER)] = None,
    stack: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
) -> Revoked:
    """Revoke one key by its fingerprint, or a user's, or those of a user for one stack; their connections end."""
    if (fingerprint is None) == (user is None):
        raise InvalidError("name a fingerprint or a user", "add ?user=NAME or ?fingerprint=SHA256:…")
    if caller.user is not None:
        listed = await list_keys(parts, caller)
        if user != caller.user and fingerprint not in {key.fingerprint for key in listed.keys}:
            raise ForbiddenError(f"that is no key of {caller.user}", "GET /api/keys lists those that are")
    whom = fingerprint or user or ""
    revoked = await asyncio.to_thread(parts.keyring.revoke, whom, stack=stack)
    for one in revoked:
        await parts.transcripts.ledger.append("key revoked", key_fingerprint=one, of=whom, stack=stack, **_by(caller))
    return Revoked(revoked=list(revoked))


def _by(caller: Caller) -> dict[str, str]:
    return {"by": caller.name, "address": caller.address}
