"""Who calls, and what they may: decided before a request's body is read, and denied where no scope is declared."""

import pwd
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from bastion.admission import source_of
from bastion.api.problems import ForbiddenError, TooManyFailuresError, UnauthenticatedError
from bastion.api.tokens import SCOPES, Scope, Token, Tokens

MOST_FAILURES: Final = 10  # of one address in a window
WINDOW_SECONDS: Final = 60.0
ADDRESSES_KEPT: Final = 4096
_EXTRA: Final = "x-scope"
_HINT: Final = "send Authorization: Bearer TOKEN, with a token of bastion tokens issue"

log = structlog.get_logger(__name__)

Need = Scope | Literal["any"]


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection; `user_id` is set where a unix socket's mode let it in."""

    address: str
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. With a `user` it is for that user only, and within that user's grants."""

    name: str
    address: str
    scopes: frozenset[Scope]
    user: str | None = None
    token: Token | None = None

    def may(self, need: Need) -> bool:
        """Tell whether a scope is enough for what needs `need`."""
        return need == "any" or need in self.scopes or "admin" in self.scopes

    def sees(self, user: str) -> bool:
        """Tell whether what belongs to this user is the caller's to see."""
        return self.user in {None, user}


class Failures:
    """Counts failures by address, in a bounded number of windows; addresses of IPv6 count by their /64."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> int:
        """Count one more and return how many it were in this window."""
        key, present = source_of(address), self._clock()
        began, number = self._windows.pop(key, (present, 0))
        if present - began >= WINDOW_SECONDS:
            began, number = present, 0
        self._windows[key] = began, number + 1
        while len(self._windows) > ADDRESSES_KEPT:
            self._windows.popitem(last=False)
        return number + 1


class Guard:
    """Tells who calls: by the token, or without one by who opened the unix socket, who is an administrator."""

    def __init__(self, tokens: Tokens, failures: Failures | None = None) -> None:
        self._tokens = tokens
        self._failures = failures or Failures()

    def admit(self, request: Request, need: Need | None) -> Caller:
        """Return the caller.

        Raises:
            UnauthenticatedError: there is no token, or none that is good.
            TooManyFailuresError: as before, and not for the first time from there.
            ForbiddenError: the caller's scopes do not allow it, or nothing does.
        """
        peer = getattr(request.state, "peer", None) or Peer("unknown")
        caller = self._identify(request, peer)
        if need is None or not caller.may(need):
            log.warning("api refused", caller=caller.name, address=peer.address, path=request.url.path, need=need)
            raise ForbiddenError(
                f"this needs the scope {need}" if need else "nobody may do this",
                "ask whoever runs this bastion for a token with it",
            )
        return caller

    def is_good(self, caller: Caller) -> bool:
        """Tell whether a caller who was admitted earlier would be now."""
        return caller.token is None or self._tokens.is_good(caller.token)

    def _identify(self, request: Request, peer: Peer) -> Caller:
        header = request.headers.get("authorization")
        if header is None and peer.user_id is not None:
            return Caller(_name_of(peer.user_id), peer.address, frozenset(SCOPES))
        kind, _, text = (header or "").partition(" ")
        token = self._tokens.find(text.strip()) if kind.lower() == "bearer" else None
        if token is None:
            raise self._failed(request, peer, given=header is not None)
        return Caller(token.name, peer.address, frozenset(token.scopes), token.user, token)

    def _failed(self, request: Request, peer: Peer, *, given: bool) -> UnauthenticatedError | TooManyFailuresError:
        number = self._failures.count(peer.address)
        if number > MOST_FAILURES:
            return TooManyFailuresError("too many tokens from your address were not good", "wait a minute")
        log.warning(
            "api refused",
            address=peer.address,
            path=request.url.path,
            reason="not a good token" if given else "no token",
            last_one_logged=number == MOST_FAILURES,
        )
        if self._tokens.problem:
            log.warning("no token is accepted", problem=self._tokens.problem)
        return UnauthenticatedError("a good token is needed" if given else "a token is needed", _HINT)


class GuardedRoute(APIRoute):
    """A route that is there for those only whom its declared scope lets in; without one, for nobody."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # a coroutine is one
        """Wrap the handler: first who calls, then what they send."""
        handle = super().get_route_handler()
        need = need_of(self)

        async def guarded(request: Request) -> Response:
            caller = request.app.state.guard.admit(request, need)
            request.state.caller = caller
            response: Response = await handle(request)
            level = log.debug if need == "any" else log.info
            level("api used", caller=caller.name, address=caller.address, method=request.method, path=request.url.path)
            return response

        return guarded


def needs(need: Need) -> dict[str, Any]:
    """Declare what a route needs, as its `openapi_extra`; `any` is any good token."""
    return {_EXTRA: need, "security": [{"token": []}]}


def need_of(route: APIRoute) -> Need | None:
    """Return what a route declared, None when nothing."""
    found = (route.openapi_extra or {}).get(_EXTRA)
    return found if found == "any" or found in SCOPES else None


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Calling = Annotated[Caller, Depends(_caller)]


def _name_of(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"uid {user_id}"
