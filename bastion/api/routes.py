"""The routes of the HTTP API and the shape of each answer."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Annotated, Literal

import structlog
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel
from starlette.exceptions import HTTPException

from bastion.errors import BastionError
from bastion.metrics import Metrics
from bastion.model import Session
from bastion.sessions import Sessions

UID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """Every answer that is not a success: what is wrong, what to do, and a code for programs."""

    error: str
    hint: str
    code: str


class SessionList(BaseModel):
    """The live sessions of this node, oldest first."""

    sessions: list[Session]


class Health(BaseModel):
    """The process answers, or can do its work."""

    status: Literal["ok"] = "ok"


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be one line of text that prints")
    return value.strip()


Uid = Annotated[str, Path(pattern=UID_PATTERN, description="the session's uid")]
Reason = Annotated[
    str, Query(min_length=1, max_length=200, description="what the user is told"), AfterValidator(_one_line)
]
_PROBLEMS: dict[int | str, dict[str, type[Problem]]] = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}
_STATUS = {"no-such-session": 404, "unreachable": 503}


class _NoSuchSessionError(BastionError):
    code = "no-such-session"


def create_api(
    sessions: Sessions, metrics: Metrics | None = None, *, ready: Callable[[], Awaitable[None]] | None = None
) -> FastAPI:
    """Return the API over these sessions.

    Args:
        sessions: the registry of live sessions.
        metrics: what /metrics shows; its number of open sessions is read from the registry.
        ready: raises a BastionError while the bastion cannot open sessions; asked by /readyz.
    """
    numbers = metrics or Metrics()
    numbers.watch(lambda: len(sessions.list()))
    api = FastAPI(
        title="bastion",
        version=version("bastion"),
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
        redirect_slashes=False,
    )
    _explain_errors(api)

    def must_get(uid: str) -> Session:
        if (session := sessions.get(uid)) is None:
            raise _NoSuchSessionError(f"no live session {uid}", "GET /api/sessions lists them")
        return session

    @api.get("/api/sessions", tags=["sessions"])
    async def list_sessions() -> SessionList:
        """List the live sessions, oldest first."""
        return SessionList(sessions=sessions.list())

    @api.get("/api/sessions/{uid}", tags=["sessions"])
    async def show_session(uid: Uid) -> Session:
        """Show one live session."""
        return must_get(uid)

    @api.delete("/api/sessions/{uid}", tags=["sessions"], status_code=202)
    async def end_session(uid: Uid, reason: Reason = "an administrator ended it") -> Session:
        """End one live session; the answer is the session as it was when its end began."""
        session = must_get(uid)
        sessions.end(uid, reason)
        log.info("session ended through the api", uid=uid, reason=reason)
        return session

    @api.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """Say that the process answers."""
        return Health()

    @api.get("/readyz", tags=["health"])
    async def readyz() -> Health:
        """Say whether sessions can be opened: 503 while an engine does not answer."""
        if ready is not None:
            await ready()
        return Health()

    @api.get("/metrics", tags=["health"], response_class=Response)
    async def show_metrics() -> Response:
        """Give the numbers in the Prometheus text format."""
        return Response(numbers.render(), media_type=numbers.content_type)

    return api


def _explain_errors(api: FastAPI) -> None:
    @api.exception_handler(BastionError)
    async def known(_request: Request, error: BastionError) -> JSONResponse:
        return _problem(_STATUS.get(error.code, 500), error.public, error.hint, error.code)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        words = f"{first['loc'][-1]}: {first['msg'].removeprefix('Value error, ')}"
        return _problem(422, words[:1].lower() + words[1:], "see /openapi.json", "invalid")

    @api.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        words = str(error.detail).lower()
        return _problem(error.status_code, words, "see /openapi.json", words.replace(" ", "-"), error.headers)

    @api.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("internal error", method=request.method, path=request.url.path, exc_info=error)
        return _problem(500, "internal error", "the bastion's log says more", "internal")


def _problem(status: int, error: str, hint: str, code: str, headers: object = None) -> JSONResponse:
    kept = dict(headers) if isinstance(headers, dict) else None
    return JSONResponse(Problem(error=error, hint=hint, code=code).model_dump(), status, headers=kept)
