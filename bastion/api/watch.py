"""Watch a live session as server-sent events: what it shows from now on, said to its user and to the ledger."""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from bastion.api.callers import Caller, Calling, Guard, needs
from bastion.api.problems import ElsewhereError
from bastion.api.services import Parts, Services, Uid
from bastion.api.sessions import live_session
from bastion.errors import BastionError
from bastion.model import STDERR, STDOUT, Data, Resize
from bastion.sessions import LiveSession
from bastion.sessions.watching import Lost, Watcher
from bastion.tasks import background

CHECK_SECONDS: Final = 5.0  # how often a silent stream shows that it lives, and its token is looked at
SEND_SECONDS: Final = 60.0  # how long a watcher may take nothing at all

log = structlog.get_logger(__name__)


def add_watch(api: FastAPI) -> None:
    """Add the route that watches."""
    stream = {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    api.get(
        "/api/sessions/{uid}/watch",
        tags=["sessions"],
        openapi_extra=needs("audit:read"),
        response_class=Response,
        responses={200: stream},
    )(watch_session)


async def watch_session(parts: Parts, caller: Calling, request: Request, uid: Uid) -> Response:
    """Follow a live session from now on, as server-sent events whose data is one JSON object.

    `session`: `session`, and `terminal` (`columns`, `rows`) or null; `output`: `stream` (1 or 2) and `text`, escape
    sequences and all; `resize`: `columns`, `rows`; `lost`: `frames` that were too many; `end`: `reason`.
    """
    session = await live_session(parts, caller, uid)
    live = parts.sessions.live(session.uid)
    if live is None:
        raise ElsewhereError(f"session {uid} is not live on this node but on {session.node}", "watch it there")
    return _Stream(parts, request, caller, live)


class _Stream(Response):
    """Sends the events until the session ends, the watcher goes or takes nothing, or may watch no longer."""

    def __init__(self, parts: Services, request: Request, caller: Caller, live: LiveSession) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._ledger = parts.transcripts.ledger
        self._guard: Guard = request.app.state.guard
        self._abort: Callable[[], None] | None = getattr(request.state, "abort", None)
        self._caller = caller
        self._live = live

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Tell ledger and user, send the answer, and write down that watching has ended, whatever ended it."""
        facts = {
            "uid": self._live.session.uid,
            "user": self._live.session.user,
            "by": self._caller.name,
            "address": self._caller.address,
        }
        with self._live.watchers.watch() as watcher:
            await self._ledger.append("watch begun", **facts)
            try:
                if self._live.grant is None or self._live.grant.watch_notice:
                    self._live.tell(f"bastion: note: {self._caller.name} watches this session")
                await self._follow(watcher, receive, send)
            finally:
                await asyncio.shield(self._write_end(facts))

    async def _write_end(self, facts: dict[str, str]) -> None:
        try:
            await self._ledger.append("watch ended", **facts)
        except BastionError as error:
            log.warning("the end of watching is not in the ledger", uid=facts["uid"], reason=error.public)

    async def _follow(self, watcher: Watcher, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_left(receive))
        sending = asyncio.create_task(self._send(watcher, send))
        try:
            await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except TimeoutError:
            log.warning("a watcher takes nothing", uid=self._live.session.uid, by=self._caller.name)
            if self._abort is not None:
                self._abort()
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)

    async def _send(self, watcher: Watcher, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks(watcher):
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, watcher: Watcher) -> AsyncIterator[bytes]:
        terminal = self._live.terminal
        size = None if terminal is None else {"columns": terminal.columns, "rows": terminal.rows}
        yield _event("session", session=self._live.session.model_dump(mode="json"), terminal=size)
        decoders = _decoders()
        async for frame in self._frames(watcher):
            if frame is None:
                yield b": still here\n\n"
            elif isinstance(frame, Lost):
                decoders = _decoders()
                yield _event("lost", frames=frame.frames)
            elif isinstance(frame, Resize):
                yield _event("resize", columns=frame.columns, rows=frame.rows)
            elif text := decoders[frame.stream].decode(frame.payload):
                yield _event("output", stream=frame.stream, text=text)
        is_good = self._guard.is_good(self._caller)
        reason = self._live.session.reason or "the session ended"
        yield _event("end", reason=reason if is_good else "the token is no longer good")

    async def _frames(self, watcher: Watcher) -> AsyncIterator[Data | Resize | Lost | None]:
        """Give frames, and None after a while without one, until the session has ended or the token is not good."""
        loop = asyncio.get_running_loop()
        taking = background(watcher.take(), name="watcher")
        checked = loop.time()
        try:
            while True:
                done, _ = await asyncio.wait((taking,), timeout=CHECK_SECONDS)
                if loop.time() - checked >= CHECK_SECONDS:
                    checked = loop.time()
                    if not self._guard.is_good(self._caller):
                        return
                if not done:
                    yield None
                    continue
                frame = taking.result()
                if frame is None:
                    return
                yield frame
                taking = background(watcher.take(), name="watcher")
        finally:
            taking.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _decoders() -> dict[int, codecs.IncrementalDecoder]:
    made = codecs.getincrementaldecoder("utf-8")
    return {stream: made("replace") for stream in (STDOUT, STDERR)}


def _event(kind: str, **facts: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(facts, separators=(',', ':'))}\n\n".encode()
