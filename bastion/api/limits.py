"""How much a request may send, and how long it may take to send it."""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bastion.api.problems import answer

MOST_BYTES: Final = 64 * 1024
MOST_HEADER_BYTES: Final = 16 * 1024
BODY_SECONDS: Final = 10.0


class Limits:
    """Middleware: refuses long headers and bodies, and cuts a body that becomes too long or takes too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a bounded body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = sum(len(part) for header in scope["headers"] for part in header) + len(scope["query_string"])
        if sent > MOST_HEADER_BYTES:  # h11 bounds only those that do not come at once
            words = "request header fields too large"
            refusal = answer(Request(scope), 431, words, "no request needs 16 KiB", code="headers-too-large")
            await refusal(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > len(str(MOST_BYTES)) or int(length) > MOST_BYTES:
            refusal = answer(Request(scope), 413, _TOO_LARGE, "no request needs 64 KiB", code="body-too-large")
            await refusal(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)


_TOO_LARGE: Final = "body too large"


def _bounded(receive: Receive) -> Receive:
    received, complete = 0, False
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    async def bounded() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()  # it waits for the client to go
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "body too slow") from None
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return bounded
