"""Where a Docker Engine listens: read from its address, connected to, and missed in the same words by everybody."""

import asyncio
import socket
import urllib.parse
from dataclasses import dataclass
from typing import Final

from bastion.errors import ConfigurationError, RuntimeUnreachable

TIMEOUT: Final = 20  # seconds of one request to the engine
_LINE_LIMIT: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a unix socket's path, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, address: str) -> "Endpoint":
        """Read unix:///PATH or tcp://HOST:PORT.

        Raises:
            ConfigurationError: it is none of the two. TLS and ssh:// cannot close one direction only, so that
                `… | ssh web sort` would lose its output.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return cls(path=parts.path)
        try:
            if parts.scheme == "tcp" and parts.hostname and not parts.path.strip("/"):
                return cls(host=parts.hostname, port=parts.port or 2375)
        except ValueError as error:
            raise ConfigurationError(f"docker host {address!r}: {error}", "write tcp://HOST:PORT") from error
        hint = "use unix:///PATH or tcp://HOST:PORT"
        if parts.scheme in ("http", "https", "ssh"):
            hint += "; forward a remote engine's socket here with ssh -NL /run/engine.sock:/var/run/docker.sock HOST"
        raise ConfigurationError(f"docker host {address!r} cannot be used", hint)

    def probe(self) -> None:
        """Connect to a unix socket and let go again; blocks.

        Raises:
            OSError: nobody listens. The SDK would leave its own socket open on that.
        """
        if self.path is not None:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(TIMEOUT)
                probe.connect(self.path)

    async def open(self, protocol: asyncio.Protocol) -> None:
        """Connect the protocol to the engine."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: protocol, self.path)
        else:
            await loop.create_connection(lambda: protocol, self.host, self.port)

    async def open_streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and return the two ends."""
        if self.path is not None:
            return await asyncio.open_unix_connection(self.path, limit=_LINE_LIMIT)
        return await asyncio.open_connection(self.host, self.port, limit=_LINE_LIMIT)


def unreachable(host: str, error: Exception) -> RuntimeUnreachable:
    """Return the error for an engine at `host` that does not answer."""
    return RuntimeUnreachable(
        f"the Docker Engine at {host} does not answer",
        "is it running, and may this user open its socket?",
        detail=str(error) or type(error).__name__,
    )
