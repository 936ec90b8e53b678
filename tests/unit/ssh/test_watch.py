"""The look at the key home beside the server: it outlives a key home that disappears, and never ends unseen."""

import asyncio
import contextlib

import asyncssh
import pytest

import bastion.ssh
from tests.unit.ssh.house import House, until


async def test_a_key_home_that_disappears_ends_connections_until_it_is_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without users/ nobody stays or comes in; with it back, alice logs in again."""
    monkeypatch.setattr(bastion.ssh, "KEY_CHECK_SECONDS", 0.02)
    users = house.keyring.home / "users"
    away = house.keyring.home / "away"
    watching = asyncio.create_task(house.server.watch_keys())
    connection = await house.connect()
    users.rename(away)
    await asyncio.wait_for(connection.wait_closed(), 10)
    with pytest.raises(asyncssh.PermissionDenied):
        await house.connect()
    away.rename(users)
    await until(lambda: house.keyring.identify(house.key.public_data, "127.0.0.1"))
    (await house.connect()).close()
    assert not watching.done()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
