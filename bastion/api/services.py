"""What the routes work with, given to the application once and asked for by each that needs it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator

from bastion.api.actions import Actions
from bastion.gateway import Gateway
from bastion.grammar import NAME_PART
from bastion.keyring import Keyring
from bastion.metrics import Metrics
from bastion.sessions import Sessions
from bastion.transcripts import Transcripts

UID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
NAME_PATTERN = f"^{NAME_PART}$"
MOST_ON_A_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the running bastion that the API shows.

    `ready` raises a BastionError while sessions cannot be opened; `ssh_addresses` gives the (host, port) pairs that the
    SSH server is bound to.
    """

    sessions: Sessions
    gateway: Gateway
    keyring: Keyring
    transcripts: Transcripts
    metrics: Metrics
    actions: Actions
    ready: Callable[[], Awaitable[None]]
    ssh_addresses: Callable[[], Sequence[tuple[str, int]]]


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be one line of text that prints")
    return value.strip()


Parts = Annotated[Services, Depends(_services)]
Uid = Annotated[str, Path(pattern=UID_PATTERN, description="the session's uid")]
Stack = Annotated[str, Path(pattern=NAME_PATTERN, description="the stack")]
Page = Annotated[int, Query(ge=1, le=10**6, description="the number of the page, from 1")]
PerPage = Annotated[int, Query(ge=1, le=MOST_ON_A_PAGE, description="how many on a page")]
Line = Annotated[str, AfterValidator(_one_line)]
Named = Annotated[str | None, Query(pattern=NAME_PATTERN)]
