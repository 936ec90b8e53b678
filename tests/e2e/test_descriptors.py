"""Idle connections of somebody who may enter nothing, at a server with few descriptors (threats E1)."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion

DESCRIPTORS = 160
AT_A_TIME = 8  # below [ssh] max_startups_per_source


@pytest.fixture
def scarce(place: Place, tmp_path: Path) -> Iterator[Bastion]:
    """Give a bastion, not started, that may open DESCRIPTORS files and cannot raise that; bob has no grant."""
    limited = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", sys.executable, "-m", "bastion")
    server = Bastion(tmp_path / "own", place.sections, program=limited)
    server.add("bob")
    yield server
    assert server.stop() == 0


@contextlib.asynccontextmanager
async def _idle(bastion: Bastion, user: str, number: int) -> AsyncIterator[list[asyncssh.SSHClientConnection]]:
    """Try to hold so many idle connections of a user; give those that logged in."""
    held: list[asyncssh.SSHClientConnection] = []
    turn = asyncio.Semaphore(AT_A_TIME)

    async def open_one() -> None:
        async with turn:
            with contextlib.suppress(OSError, asyncssh.Error):
                held.append(
                    await asyncssh.connect(
                        "127.0.0.1", bastion.port, username="web@mystack", known_hosts=None, config=None,
                        client_keys=[str(bastion.folder / f"{user}.key")], agent_path=None,
                    )
                )  # fmt: skip

    await asyncio.gather(*(open_one() for _ in range(number)))
    try:
        yield held
    finally:
        for connection in held:
            connection.abort()


def _echo(shell: asyncio.subprocess.Process, word: bytes) -> "asyncio.Future[bytes]":
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(word + b"\n")
    return asyncio.ensure_future(shell.stdout.readline())


@contextlib.asynccontextmanager
async def _session(bastion: Bastion) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_exec(*bastion.command("cat"), stdin=pipe, stdout=pipe)
    try:
        assert await _echo(shell, b"before") == b"before\n"
        yield shell
    finally:
        shell.kill()
        await shell.wait()


async def test_E1_idle_connections_of_a_stranger_to_every_grant_stop_nobody(scarce: Bastion) -> None:
    """More connections than descriptors: one user has a part of them, others' sessions and logins go on."""
    scarce.start()
    async with _session(scarce) as shell:
        before = scarce.log.stat().st_size
        async with _idle(scarce, "bob", DESCRIPTORS + 40):
            done = await asyncio.to_thread(scarce.ssh, "echo in")
            assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
            refused = await asyncio.to_thread(scarce.ssh, user="bob", options=("-N",))
            assert b"too many connections of bob: 50 are open" in refused.stderr
            assert await _echo(shell, b"after") == b"after\n"
        assert scarce.log.stat().st_size - before < 100_000
    assert not [line for line in scarce.events("connection ended") if line["user"] == "alice"]


async def test_E1_without_limits_the_reserve_keeps_sessions_and_operators(scarce: Bastion) -> None:
    """At the end of the descriptors sessions, the API's socket, the log and the ledger work; the rest is told why."""
    text = scarce.config.read_text()
    options = ("max_connections_per_user = 10000", "max_connections_per_source = 10000", "max_handshakes = 0")
    scarce.config.write_text(text.replace("[ssh]\n", "\n".join(("[ssh]", *options, ""))))
    scarce.start()
    async with _session(scarce) as shell:
        before = scarce.log.stat().st_size
        async with _idle(scarce, "bob", DESCRIPTORS + 40) as held:
            assert len(await asyncio.to_thread(os.listdir, f"/proc/{scarce.pid}/fd")) < DESCRIPTORS
            late = await asyncio.to_thread(scarce.ssh, "echo in")
            assert late.returncode == 255
            assert scarce.events("connections turned away")
            assert await _echo(shell, b"after") == b"after\n"
            listed = await asyncio.to_thread(scarce.cli, "sessions", "list", "--json")
            assert [session["user"] for session in json.loads(listed.stdout)["sessions"]] == ["alice"]
            await asyncio.to_thread(scarce.cli, "keys", "revoke", "bob")
            async with asyncio.timeout(20):
                await asyncio.gather(*(connection.wait_closed() for connection in held))
        assert await _echo(shell, b"later") == b"later\n"
        assert (await asyncio.to_thread(scarce.ssh, "echo in")).stdout == b"in\n"
        assert scarce.log.stat().st_size - before < 100_000
    ledger = (scarce.transcripts / "ledger.jsonl").read_text()
    assert "the key was revoked" in ledger
