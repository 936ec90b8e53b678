"""The command line over the API: by address and token as by the socket, and `bastion tokens`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.api_house import UID, ApiHouse, serving


class Cli:
    """Runs commands of bastion's against the key home of a house, the API where `listen` says."""

    def __init__(self, house: ApiHouse, listen: str) -> None:
        self._folder = house.folder
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BASTION_")}
        home, records = house.house.keyring.home, house.folder / "transcripts"
        text = f'[api]\nlisten = ["{listen}"]\n[keys]\nhome = "{home}"\n[audit]\ndirectory = "{records}"\n'
        (self._folder / "bastion.toml").write_text(text)

    async def __call__(self, *words: str, status: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "bastion", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            env=self._environment | environment,
            timeout=60,
        )
        assert done.returncode == status, done.stderr
        return done


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


@pytest.fixture
def by_address(house: ApiHouse) -> Cli:
    return Cli(house, f"{house.address[0]}:{house.address[1]}")


async def test_by_an_address_the_token_of_the_environment_is_shown(house: ApiHouse, by_address: Cli) -> None:
    """With a token the commands do what its scopes let them; without one, or with a wrong one, they say why not."""
    issued = await by_address("tokens", "issue", "console", "--scope", "sessions:read", "--expires", "1h")
    token = issued.stdout.strip()
    assert token.startswith("bastion_")
    assert token not in issued.stderr
    async with house.live():
        listed = json.loads((await by_address("sessions", "list", "--json", BASTION_TOKEN=token)).stdout)
        assert [one["uid"] for one in listed["sessions"]] == [UID]
        refused = await by_address("sessions", "end", UID, "--reason", "x", BASTION_TOKEN=token, status=1)
        assert "bastion: error: this needs the scope sessions:write" in refused.stderr
    for environment in ({}, {"BASTION_TOKEN": "bastion_CANARY"}):
        refused = await by_address("sessions", "list", status=1, **environment)
        assert "token is needed" in refused.stderr
        assert "CANARY" not in refused.stderr
    await by_address("tokens", "revoke", "console")
    assert "a good token is needed" in (await by_address("sessions", "list", status=1, BASTION_TOKEN=token)).stderr


async def test_tokens_are_listed_with_their_state(by_address: Cli) -> None:
    """The table and the JSON have name, scopes, user, times and state, and no hash."""
    await by_address("tokens", "issue", "a", "--scope", "sessions:read", "--scope", "keys:issue", "--user", "alice")
    await by_address("tokens", "issue", "b", "--scope", "admin", "--expires", "1ms")
    table = (await by_address("tokens", "list")).stdout.splitlines()
    assert table[0].split() == ["NAME", "SCOPES", "USER", "ISSUED", "EXPIRES", "STATE"]
    assert [line.split()[-1] for line in table[1:]] == ["good", "expired"]
    listed = json.loads((await by_address("tokens", "list", "--json")).stdout)["tokens"]
    assert set(listed[0]) == {"name", "scopes", "user", "created", "expires", "state"}


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("issue", "a"), 2, "--scope"),
        (("issue", "a", "--scope", "root"), 1, "there is no scope 'root'"),
        (("issue", "a", "--scope", "admin", "--expires", "soon"), 2, "write a number and a unit"),
        (("issue", "A", "--scope", "admin"), 1, "is no name"),
        (("revoke", "a\x1b[2J"), 1, "there is no token"),
    ],
)
async def test_a_wrong_order_is_refused_in_words(
    by_address: Cli, words: tuple[str, ...], status: int, error: str
) -> None:
    """What cannot be issued or revoked is an error that says what is wrong, and prints as text."""
    done = await by_address("tokens", *words, status=status)
    assert error in done.stderr
    assert done.stdout == ""
    assert "\x1b" not in done.stderr


async def test_watching_prints_every_event(house: ApiHouse, by_address: Cli) -> None:
    """With --json the events of a stream are lines, from the session to its end."""
    token = house.token("audit:read")["Authorization"].split()[1]
    async with house.live() as session:
        watching = asyncio.create_task(by_address("sessions", "watch", UID, "--json", BASTION_TOKEN=token))
        async with asyncio.timeout(30):
            while '"event":"watch begun"' not in house.ledger():
                await asyncio.sleep(0.02)
        session.update(reason="done")
    events = [json.loads(line) for line in (await watching).stdout.splitlines()]
    assert (events[0]["event"], events[-1]) == ("session", {"event": "end", "reason": "done"})


async def test_check_looks_at_certificates(house: ApiHouse) -> None:
    """A certificate that is not there is named before the server is started."""
    cli = Cli(house, "127.0.0.1:0")
    where = {"BASTION_API__CERTIFICATE": "none.pem", "BASTION_API__PRIVATE_KEY": "none.key"}
    findings = json.loads((await cli("check", "--json", status=1, **where)).stdout)
    assert "no such file" in json.dumps(findings)
    findings = json.loads((await cli("check", "--json", status=1)).stdout)
    assert "listens on 127.0.0.1:0 without TLS" in json.dumps(findings)
