"""What goes wrong with a request, as an answer: ours for ours, and in Cloud 66's words below /api/3."""

from typing import ClassVar, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bastion.errors import BastionError
from bastion.log import shorten

CLOUD66: Final = "/api/3/"
_STATUS: Final = {
    "configuration": 400,
    "refused": 403,
    "no-such-target": 404,
    "transcript": 404,
    "limit": 409,
    "ended": 409,
    "recording": 503,
    "unreachable": 503,
    "database": 503,
    "shutting-down": 503,
    "unauthenticated": 401,
    "forbidden": 403,
    "too-many-failures": 429,
    "no-such-session": 404,
    "elsewhere": 409,
    "invalid": 422,
}
_OURS_TO_MEND: Final = 500
_BAD_REQUEST: Final = 400
_LONGEST: Final = 1000

log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """Every answer that is not a success: what is wrong, what to do, and a code for programs."""

    error: str
    hint: str
    code: str


class Cloud66Problem(BaseModel):
    """The same below /api/3: a code for programs, what is wrong, and that with what to do."""

    error: str
    error_description: str
    details: str


class UnauthenticatedError(BastionError):
    """No token, or none that is good."""

    code: ClassVar[str] = "unauthenticated"


class ForbiddenError(BastionError):
    """The token is good, but not for this."""

    code: ClassVar[str] = "forbidden"


class TooManyFailuresError(BastionError):
    """Too many tokens from this address were none."""

    code: ClassVar[str] = "too-many-failures"


class InvalidError(BastionError):
    """What was sent does not go together."""

    code: ClassVar[str] = "invalid"


class NoSuchSessionError(BastionError):
    """No session of that uid that the caller may see."""

    code: ClassVar[str] = "no-such-session"


class ElsewhereError(BastionError):
    """The session is live on another node."""

    code: ClassVar[str] = "elsewhere"


PROBLEMS: Final[dict[int | str, dict[str, object]]] = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}
CLOUD66_PROBLEMS: Final[dict[int | str, dict[str, object]]] = {
    "4XX": {"model": Cloud66Problem},
    "5XX": {"model": Cloud66Problem},
}


def explain_errors(api: FastAPI) -> None:
    """Answer every error of this application in one shape."""

    @api.exception_handler(BastionError)
    async def known(request: Request, error: BastionError) -> JSONResponse:
        if error.detail:
            log.warning("failure", path=request.url.path, code=error.code, detail=error.detail)
        status = _STATUS.get(error.code, _OURS_TO_MEND)
        if isinstance(error.__cause__, OSError):
            status = 503
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}}.get(status)
        return answer(request, status, error.public, error.hint, code=error.code, headers=headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        words = f"{first['loc'][-1]}: {first['msg'].removeprefix('Value error, ')}"
        return answer(request, 422, words[:1].lower() + words[1:], "see /openapi.json", code="invalid")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        words = str(error.detail).lower()
        code = words.replace(" ", "-")
        return answer(request, error.status_code, words, "see /openapi.json", code=code, headers=error.headers)

    @api.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("internal error", method=request.method, path=request.url.path, exc_info=error)
        return answer(request, 500, "internal error", "the bastion's log says more", code="internal")


def answer(request: Request, status: int, error: str, hint: str, *, code: str, headers: object = None) -> JSONResponse:
    """Return the answer to a request that failed; below /api/3 what the caller may mend is 400, as documented there."""
    kept = dict(headers) if isinstance(headers, dict) else None
    error, hint = shorten(error, _LONGEST), shorten(hint, _LONGEST)
    if not request.url.path.startswith(CLOUD66):
        return JSONResponse(Problem(error=error, hint=hint, code=code).model_dump(), status, headers=kept)
    if code in {"refused", "no-such-target", "no-such-session", "invalid"}:
        status = _BAD_REQUEST
    details = f"{error} ({hint})" if hint else error
    content = Cloud66Problem(error=code, error_description=error, details=details).model_dump()
    return JSONResponse(content, status, headers=kept)
