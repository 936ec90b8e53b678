"""The application: its routes, what each needs, and the description that clients are made from."""

import json
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from bastion.api.callers import Calling, Guard, GuardedRoute, needs
from bastion.api.cloud66 import add_cloud66
from bastion.api.keys import add_keys
from bastion.api.limits import Limits
from bastion.api.problems import PROBLEMS, explain_errors
from bastion.api.records import add_records
from bastion.api.services import Parts, Services
from bastion.api.sessions import add_sessions
from bastion.api.tokens import Tokens
from bastion.api.watch import add_watch
from bastion.model import Identity


class Health(BaseModel):
    """The process answers, or can do its work."""

    status: Literal["ok"] = "ok"


class StackOf(BaseModel):
    """One stack and its services that run."""

    name: str
    services: list[str]


class StackList(BaseModel):
    """What the caller may enter of what runs."""

    stacks: list[StackOf]


def create_api(services: Services, tokens: Tokens) -> FastAPI:
    """Return the application over the parts of a running bastion; the numbers of /metrics are read from them."""
    services.metrics.watch(lambda: len(services.sessions.own()))
    api = FastAPI(
        title="bastion",
        version=version("bastion"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
        redirect_slashes=False,
    )
    api.router.route_class = GuardedRoute
    api.state.guard = Guard(tokens)
    api.state.services = services
    api.add_middleware(Limits)
    explain_errors(api)
    add_sessions(api)
    add_watch(api)
    add_keys(api)
    add_records(api)
    add_cloud66(api)
    _add_rest(api)
    return api


def describe(api: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, with the tokens that every route asks for."""
    if "securitySchemes" not in (described := api.openapi()).setdefault("components", {}):
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return described


def describe_as_text(api: FastAPI) -> str:
    """Return the description as it stands in docs/openapi.json."""
    return json.dumps(describe(api), indent=1, ensure_ascii=False) + "\n"


def _add_rest(api: FastAPI) -> None:
    numbers: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    extra = needs("any")
    api.get("/api/stacks", tags=["stacks"], openapi_extra=extra)(list_stacks)
    api.get("/healthz", tags=["health"], openapi_extra=extra)(healthz)
    api.get("/readyz", tags=["health"], openapi_extra=extra)(readyz)
    api.get("/metrics", tags=["health"], openapi_extra=extra, response_class=Response, responses=numbers)(metrics)
    api.get("/openapi.json", tags=["health"], openapi_extra=extra)(openapi)


async def list_stacks(parts: Parts, caller: Calling) -> StackList:
    """List the stacks and services that the caller may enter; all that run, with a token that is no user's."""
    rules = parts.gateway.rules
    identity = Identity(caller.user or "", "", caller.address)

    def may_enter(stack: str, service: str) -> bool:
        return caller.user is None or rules.policy.may_enter(identity, stack, service)

    found: dict[str, list[str]] = {}
    for stack, service in await rules.targets.listing(may_enter):
        found.setdefault(stack, []).append(service)
    return StackList(stacks=[StackOf(name=name, services=services) for name, services in found.items()])


async def healthz() -> Health:
    """Say that the process answers."""
    return Health()


async def readyz(parts: Parts) -> Health:
    """Say whether sessions can be opened: 503 while an engine does not answer."""
    await parts.ready()
    return Health()


async def metrics(parts: Parts) -> Response:
    """Give the numbers in the Prometheus text format."""
    return Response(parts.metrics.render(), media_type=parts.metrics.content_type)


async def openapi(request: Request) -> dict[str, Any]:
    """Describe this API."""
    return describe(request.app)
