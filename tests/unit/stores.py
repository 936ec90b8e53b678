"""Registries over each kind of store, and the sessions that the tests ask them for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bastion.config import GrantSettings, SessionsSettings
from bastion.model import Identity, Name, Request, Target
from bastion.sessions import LiveSession, Sessions
from bastion.sessions.sql import SqlStore

TARGET = Target(runtime="here", stack="mystack", service="web", container_id="0", container_name="web-1")
OTHER = Target(runtime="here", stack="mystack", service="db", container_id="1", container_name="db-1")


def request(uid: str, command: str | None = None) -> Request:
    return Request(uid, Name("web", stack="mystack"), "shell" if command is None else "exec", command)


def identity(user: str = "alice") -> Identity:
    return Identity(user=user, key_fingerprint="SHA256:x", client_address="192.0.2.1")


@asynccontextmanager
async def node(
    url: str | None,
    name: str = "node",
    limits: SessionsSettings | None = None,
    store: SqlStore | None = None,
    *,
    user_quota: int = 0,
) -> AsyncIterator[Sessions]:
    """Run a registry on this database, as a server does; without one it is in memory."""
    kept = store or (SqlStore(url, name) if url is not None else None)
    sessions = Sessions(limits or SessionsSettings(), name, kept, user_quota=user_quota)
    await sessions.start()
    keeping = asyncio.create_task(sessions.keep())
    try:
        yield sessions
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await sessions.close()


@asynccontextmanager
async def live(
    sessions: Sessions, uid: str, user: str = "alice", target: Target = TARGET, grant: GrantSettings | None = None
) -> AsyncIterator[LiveSession]:
    """Have an active session."""
    async with sessions.open(identity(user), request(uid), target, grant) as session:
        session.update(state="provisioning")
        session.update(state="active")
        yield session
