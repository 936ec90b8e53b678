"""What the tests of the HTTP API share: a whole bastion in this process, its API on a unix socket and on loopback."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from bastion.api.actions import Actions
from bastion.api.routes import create_api
from bastion.api.server import serve_api
from bastion.api.services import Services
from bastion.api.tokens import Tokens
from bastion.config import ApiSettings, SshSettings
from bastion.model import Identity, Name, Request
from bastion.sessions import LiveSession
from tests.unit.ssh.house import WEB, House, running

UID = "0123456789abcdef"
DAY = 86400.0


class ApiHouse:
    """A bastion of `House` and the API over it; `engine_answers` is what /readyz goes by."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.folder = folder
        self.socket = folder / "api.sock"
        self.tokens = Tokens(house.keyring.home, house.keyring.now)
        parts = Services(
            house.sessions,
            house.gateway,
            house.keyring,
            house.transcripts,
            house.metrics,
            actions=Actions(),
            ready=self._ready,
            ssh_addresses=lambda: [house.address],
        )
        self.api: FastAPI = create_api(parts, self.tokens)
        self.address = ("", 0)

    async def _ready(self) -> None:
        await self.house.containers.ping()

    def token(self, *scopes: str, user: str | None = None, name: str | None = None) -> dict[str, str]:
        """Issue a token and return the header that shows it."""
        name = name or f"t{len(self.tokens.list())}"
        return {"Authorization": f"Bearer {self.tokens.issue(name, scopes, seconds=DAY, user=user)}"}

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client of the unix socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://bastion") as client:
            yield client

    @asynccontextmanager
    async def client(self, headers: Mapping[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client of the address on loopback."""
        base = f"http://{self.address[0]}:{self.address[1]}"
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
            yield client

    @asynccontextmanager
    async def live(self, uid: str = UID, user: str = "alice") -> AsyncIterator[LiveSession]:
        """Give a session that is live and does nothing."""
        identity = Identity(user, "SHA256:x", "192.0.2.1")
        request = Request(uid, Name("web", stack="mystack"), "exec", "sleep 9")
        async with self.house.sessions.open(identity, request, WEB) as session:
            yield session

    def ledger(self) -> str:
        """Return the ledger's text, none before its first line."""
        path = self.house.transcripts.ledger.path
        return path.read_text() if path.exists() else ""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[ApiHouse]:
    """Run a bastion with its API."""
    async with running(folder, SshSettings(listen=("127.0.0.1:0",))) as house:
        made = ApiHouse(house, folder)
        settings = ApiSettings(listen=(f"unix:{made.socket}", "127.0.0.1:0"))
        async with serve_api(made.api, settings) as addresses:
            made.address = addresses[0]
            yield made
