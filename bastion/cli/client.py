"""The command line's client of the HTTP API: by its unix socket, or by an address with the token of $BASTION_TOKEN."""

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from bastion.config import ApiSettings
from bastion.errors import BastionError, ConfigurationError

TOKEN_VARIABLE: Final = "BASTION_TOKEN"  # noqa: S105 - its name
_SECONDS: Final = 10.0
_LONGEST_LINE: Final = 4 * 2**20


def ask(settings: ApiSettings, method: str, path: str, **parameters: str | int) -> Any:
    """Send one request to the running server and return its JSON answer.

    Raises:
        BastionError: nothing answers there, or the answer is an error; its words and hint are the server's.
    """
    with _client(settings) as client, _explained(settings):
        answer = client.request(method, path, params=parameters, timeout=_SECONDS)
        _refuse(answer)
        return answer.json()


def follow(settings: ApiSettings, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the server-sent events of a path, each its kind and its data, until there are no more.

    Raises:
        BastionError: as `ask`, or the stream broke.
    """
    timeout = httpx.Timeout(_SECONDS, read=3 * _SECONDS)  # a sign of life comes every five seconds
    with _client(settings) as client, _explained(settings), client.stream("GET", path, timeout=timeout) as answer:
        if not answer.is_success:
            answer.read()
        _refuse(answer)
        kind = ""
        for line in _lines(answer):
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and isinstance(data := json.loads(value), dict):
                yield kind, data


def _lines(answer: httpx.Response) -> Iterator[str]:
    held = ""
    for text in answer.iter_text():
        *whole, held = (held + text).split("\n")
        yield from whole
        if len(held) > _LONGEST_LINE:
            raise ValueError("a line is too long")


@contextmanager
def _client(settings: ApiSettings) -> Iterator[httpx.Client]:
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    if settings.socket is not None:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(settings.socket)), base_url="http://bastion", headers=headers
        ) as client:
            yield client
        return
    verify = ssl.create_default_context()
    if settings.certificate is not None and settings.certificate.is_file():
        verify.load_verify_locations(settings.certificate)
    with httpx.Client(base_url=_where(settings), headers=headers, verify=verify, trust_env=False) as client:
        yield client


@contextmanager
def _explained(settings: ApiSettings) -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, OSError) as error:
        where = settings.socket or _where(settings)
        raise ConfigurationError(f"no server answers at {where}: {error}", _hint(settings.socket)) from error
    except ValueError as error:
        where = settings.socket or _where(settings)
        raise BastionError(f"what answers at {where} is no bastion", "look at [api] listen") from error


def _refuse(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    problem = answer.json()
    if not isinstance(problem, dict):
        problem = {}
    raise BastionError(str(problem.get("error", answer.reason_phrase)), str(problem.get("hint", "")))


def _where(settings: ApiSettings) -> str:
    if not settings.endpoints:
        raise ConfigurationError("[api] listen has no address", "set it to unix:/PATH or HOST:PORT")
    host, port = settings.endpoints[0]
    return f"{'https' if settings.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _hint(socket: Path | None) -> str:
    if socket is None:
        return "is the server running? by an address it also needs a certificate that names the host"
    if socket.exists():
        return "only the owner and the group of the socket may use it; is the server running?"
    return "start it with: bastion serve; or name its configuration with --config"
