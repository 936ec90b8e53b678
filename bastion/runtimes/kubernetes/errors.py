"""What a cluster answers when it will not or cannot, in our words."""

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import aiohttp.http_exceptions

from bastion.errors import RuntimeFailed, RuntimeUnreachable

FAILURES: Final = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError, ValueError, EOFError)
_MESSAGE_LIMIT: Final = 500
_LACKING: Final = re.compile(r"cannot (create|get) resource ")


class Answered(Exception):
    """An HTTP answer that is no success, of a request or of a handshake.

    `reason` and `message` are the Status object's, or "" where there is none.
    """

    def __init__(self, status: int, reason: str = "", message: str = "") -> None:
        super().__init__(f"{status} {reason} {message}".strip())
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def of(cls, status: int, body: object) -> "Answered":
        """Read an answer's body, a Status object if all is well; its words may be anybody's, so are escaped."""
        told: Mapping[str, Any] = body if isinstance(body, dict) else {}
        reason, message = (_words(told.get(key)) for key in ("reason", "message"))
        return cls(status, reason, message)


def refusal(answered: Answered, asked: str) -> RuntimeFailed:
    """Return our error for an answer to what was `asked` ("list pods in the namespace x")."""
    if answered.status == 403:  # noqa: PLR2004 - HTTP's own numbers
        return RuntimeFailed(
            f"the bastion may not {asked}",
            "grant it by the Role of examples/kubernetes; bastion check names every right that is missing",
            detail=str(answered),
        )
    if answered.status == 429 or answered.status >= 500:  # noqa: PLR2004
        return RuntimeUnreachable(
            f"the cluster could not {asked}: it answered {answered.status}",
            "try again in a moment",
            detail=str(answered),
        )
    return RuntimeFailed(
        f"the cluster did not {asked}: it answered {answered.status}",
        "the bastion's log says more",
        detail=str(answered),
    )


def stream_refusal(answered: Answered, resource: str, namespace: str) -> RuntimeFailed:
    """Return our error for a 403 to a stream: it names the right that the server says is missing, or both it needs."""
    lacking = _LACKING.search(answered.message)
    return refusal(answered, f"{lacking[1] if lacking else 'create and get'} {resource} in the namespace {namespace}")


@contextmanager
def mapped(server: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what goes wrong on the way to the server, and the errors that are so `also`, into RuntimeUnreachable."""
    failures: tuple[type[Exception], ...] = (*FAILURES, *also)
    try:
        yield
    except failures as error:
        raise unreachable(server, error) from error


def unreachable(server: str, error: BaseException) -> RuntimeUnreachable:
    """Return the error for a server that was not reached, or that answered what is no answer."""
    detail = _detail(error)
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        return _distrusted(server, str(getattr(error, "certificate_error", error)), detail)
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return RuntimeUnreachable(
            f"no TLS with {server}", "is it an API server, and is the client certificate still good?", detail=detail
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return RuntimeUnreachable(
            f"the proxy on the way to {server} does not answer", "see proxy-url, or HTTPS_PROXY", detail=detail
        )
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return RuntimeUnreachable(
            f"the cluster {server} does not answer", "is it up, and can this host reach it?", detail=detail
        )
    return RuntimeUnreachable(f"{server} does not answer as a cluster does", "is it an API server?", detail=detail)


def _distrusted(server: str, reason: str, detail: str) -> RuntimeUnreachable:
    if "ostname mismatch" in reason or "IP address mismatch" in reason:
        return RuntimeUnreachable(
            f"the certificate of {server} is for another name",
            "name the one it is for in the kubeconfig: tls-server-name",
            detail=detail,
        )
    if "has expired" in reason:
        return RuntimeUnreachable(f"the certificate of {server} has expired", "renew the server's", detail=detail)
    return RuntimeUnreachable(
        f"the certificate of {server} is not of the CA in the kubeconfig",
        "is certificate-authority-data this cluster's?",
        detail=detail,
    )


def unknown_here(server: str) -> RuntimeUnreachable:
    """Return the error for a server that answered 401."""
    return RuntimeUnreachable(
        f"the cluster {server} does not know the bastion's credentials any more", "renew the kubeconfig's token"
    )


def _detail(error: BaseException) -> str:
    """Say what kind of error it is, and what the system said of it; a URL may hold a command, so no other text."""
    system = error.strerror if isinstance(error, OSError) else None
    status = getattr(error, "status", None)
    return " ".join(ascii(str(part))[1:-1] for part in (type(error).__name__, system, status) if part)


def _words(value: object) -> str:
    return ascii(value[:_MESSAGE_LIMIT])[1:-1] if isinstance(value, str) else ""
