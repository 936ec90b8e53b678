"""The command line's client of the HTTP API, over its unix socket."""

from pathlib import Path
from typing import Any, Final

import httpx

from bastion.errors import BastionError, ConfigurationError

_SECONDS: Final = 10.0


def ask(socket: Path, method: str, path: str, **parameters: str) -> Any:
    """Send one request to the server behind the socket and return its JSON answer.

    Raises:
        BastionError: nothing answers there, or the answer is an error; its words and hint are the server's.
    """
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://bastion") as client:
            answer = client.request(method, path, params=parameters, timeout=_SECONDS)
            content = answer.json()
    except (httpx.TransportError, OSError) as error:
        raise ConfigurationError(f"no server answers at {socket}: {error}", _hint(socket)) from error
    except ValueError as error:
        raise BastionError(f"what answers at {socket} is no bastion", "look at [api] listen") from error
    if answer.is_success:
        return content
    problem = content if isinstance(content, dict) else {}
    raise BastionError(str(problem.get("error", answer.reason_phrase)), str(problem.get("hint", "")))


def _hint(socket: Path) -> str:
    if socket.exists():
        return "only the owner and the group of the socket may use it; is the server running?"
    return "start it with: bastion serve; or name its configuration with --config"
