"""Run `bastion` with a record that keeps nothing, to show what recording costs; exists for the benchmark only."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bastion import app
from bastion.cli import main
from bastion.config import Settings
from bastion.errors import BastionError
from bastion.keyring import Keyring
from bastion.model import Recorded, Request, Session, Target


class _Nothing:
    """A recorder, a ledger and transcripts that take everything and keep nothing."""

    def __init__(self) -> None:
        self.ledger = self

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    async def append(self, event: str, **fields: object) -> None:
        return

    async def record(self, event: Recorded) -> None:
        return

    async def mark(self, text: str) -> None:
        return

    @asynccontextmanager
    async def open(
        self, session: Session, request: Request, target: Target, *, on_failure: Callable[[BastionError], None]
    ) -> AsyncIterator["_Nothing"]:
        yield self


def _open_nothing(settings: Settings, keyring: Keyring, node: str) -> _Nothing:
    return _Nothing()


if __name__ == "__main__":
    app.open_transcripts = _open_nothing  # type: ignore[assignment]
    main()
