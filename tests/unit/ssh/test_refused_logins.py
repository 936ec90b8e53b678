"""Refused logins: what the client is told does not depend on anything, and what the operator is told says all of it."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from io import StringIO
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import structlog
from prometheus_client import generate_latest

from bastion import log
from bastion.config import SshSettings
from bastion.refusals import REFUSALS_OF_ONE_KIND
from bastion.ssh.refused_logins import LINES_PER_SOURCE, MAX_KEYS, WORDS
from tests.e2e.stranger import USERAUTH_FAILURE, Ask, none, offer, replies_of, signed
from tests.unit.ssh.house import House, running, until

STRANGER = "web@mystack"
NAMES: list[str | bytes] = [
    "web@nosuch", "nosuch", "", "a@b@c", "../x", "web@mystack\n", "web\0@mystack", "\x1b[2J@x", "\u202eweb@mystack",
    "web@mystack\u00ad", "web＠mystack", "ｗｅｂ@mystack", "\ud7ff\U0010ffff", "شwebش@x", "\u0378@x", "$(id)@x", "%u@x",
    b"\xff\xfe@x", b"\xc3(", "w" * 321, "w" * 1023, "w" * 1024, "w" * 30000,
]  # fmt: skip


@pytest.fixture
def lines() -> "StringIO":
    """Give the log of the server in this process, as an operator has it."""
    stream = StringIO()
    log.configure(stream=stream)
    return stream


@pytest.fixture
async def house(tmp_path: Path, lines: StringIO) -> AsyncIterator[House]:
    settings = {"listen": ["127.0.0.1:0"], "penalties": "no", "login_grace": "20s"}
    async with running(tmp_path, SshSettings.model_validate(settings)) as made:
        yield made


def events(lines: StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == event]


async def refused(house: House, lines: StringIO, *requests: Ask) -> dict[str, Any]:
    """Send the requests, leave, and return the one line that this has left."""
    before = len(events(lines, "login refused"))
    await replies_of(house.address, *requests)
    await until(lambda: len(events(lines, "login refused")) > before)
    (line,) = events(lines, "login refused")[before:]
    return line


def ledger(house: House, event: str) -> list[dict[str, Any]]:
    text = (house.transcripts.ledger.path).read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


async def test_A8_names_of_any_characters_are_answered_as_a_strangers(house: House) -> None:
    """Names with control, bidirectional, unassigned or no characters, and no UTF-8, get a stranger's bytes."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    for who in (key, house.key):
        expected = await replies_of(house.address, none(STRANGER), offer(STRANGER, key), signed(STRANGER, key))
        assert [number for number, _ in expected] == [USERAUTH_FAILURE] * 3
        for name in NAMES:
            if who is house.key and name in {"web@nosuch", "nosuch"}:
                continue  # alice may log in, and is told by the gateway
            given = await replies_of(house.address, none(name), offer(name, who), signed(name, who))
            assert given == expected, name


async def test_A8_keys_that_are_no_longer_good_are_answered_as_a_strangers(house: House) -> None:
    """Expired, revoked and from elsewhere: the bytes are those for a key that nobody has ever seen."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    expected = await replies_of(house.address, none(STRANGER), offer(STRANGER, key), signed(STRANGER, key))
    public = key.export_public_key().decode()
    for options in ('expiry-time="20200101Z"', 'from="192.0.2.0/24"'):
        (house.keyring.home / "users" / "dora.pub").write_text(f"{options} {public}")
        house.keyring.refresh()
        given = await replies_of(house.address, none(STRANGER), offer(STRANGER, key), signed(STRANGER, key))
        assert given == expected
    house.keyring.revoke(house.fingerprint)
    house.keyring.refresh()
    given = await replies_of(house.address, none(STRANGER), offer(STRANGER, house.key), signed(STRANGER, house.key))
    assert given == expected


@pytest.mark.parametrize(
    ("ask", "answered"), [(lambda key: offer(STRANGER, key), 20), (lambda key: signed(STRANGER, key, spoil=True), 10)]
)
async def test_A9_attempts_of_one_connection_are_bounded(
    house: House, lines: StringIO, ask: Callable[[asyncssh.SSHKey], Ask], answered: int
) -> None:
    """The 21st key that is offered and the 11th bad signature end the connection, in one line of the log."""
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(50)]
    assert len(await replies_of(house.address, *map(ask, keys))) == answered
    await until(lambda: events(lines, "login refused"))
    (line,) = events(lines, "login refused")
    assert len(line["keys"]) + line["more_keys"] == answered + 1


@pytest.mark.parametrize("name", ["web＠mystack", "ｗｅｂ@mystack", "web@mystack\u00ad"])
async def test_A6_names_that_unicode_calls_alike_do_not_log_in(house: House, lines: StringIO, name: str) -> None:
    """A good key and a true signature over a name whose NFKC form is good log nobody in, and the log has the name."""
    line = await refused(house, lines, signed(name, house.key))
    assert line["reason"] == "name is malformed"
    assert line["name"] == name.replace("\u00ad", "\\xad")


async def test_E7_refused_key_leaves_a_line(house: House, lines: StringIO) -> None:
    """Address, name asked for, key, algorithm, client and why; one line for a connection, however often it tried."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    line = await refused(house, lines, none(STRANGER), offer(STRANGER, key), offer(STRANGER, other))
    assert line["client_address"] == "127.0.0.1"
    assert line["reason"] == "unknown key"
    assert line["name"] == STRANGER
    assert line["keys"] == [
        f"ssh-ed25519 {key.get_fingerprint()}",
        f"ecdsa-sha2-nistp256 {other.get_fingerprint()}",
    ]
    assert line["client"].startswith("SSH-2.0-AsyncSSH")
    assert b'bastion_login_failures_total{reason="unknown-key"} 1.0' in generate_latest(house.metrics.registry)


async def test_E7_reasons_are_told_apart(house: House, lines: StringIO) -> None:
    """Bad signature, malformed name, no key, expired, revoked, wrong address: each is named."""
    assert (await refused(house, lines, signed(STRANGER, house.key, spoil=True)))["reason"] == "bad signature"
    assert (await refused(house, lines, offer("a@b@c", house.key)))["reason"] == "name is malformed"
    assert (await refused(house, lines, none(STRANGER)))["reason"] == "no key offered"
    users = house.keyring.home / "users"
    for options, reason in (
        ('expiry-time="20200101Z"', "expired"),
        ('from="192.0.2.0/24"', "from= does not allow this address"),
    ):
        key = asyncssh.generate_private_key("ssh-ed25519")
        (users / "dora.pub").write_text(f"{options} {key.export_public_key().decode()}")
        house.keyring.refresh()
        assert (await refused(house, lines, offer(STRANGER, key)))["reason"] == reason
    house.keyring.revoke(house.fingerprint)
    house.keyring.refresh()
    assert (await refused(house, lines, signed(STRANGER, house.key)))["reason"] == "revoked"


async def test_E7_certificate_is_named_by_the_key_it_is_for(house: House, lines: StringIO) -> None:
    """The fingerprint is the one that ssh-keygen shows of the certificate."""
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    certificate = authority.generate_user_certificate(key, "somebody", principals=["alice"])
    line = await refused(house, lines, offer(STRANGER, certificate))  # type: ignore[arg-type] # nothing is signed
    assert line["reason"] == "unknown key"
    assert line["keys"] == [f"ssh-ed25519-cert-v01@openssh.com {key.get_fingerprint()}"]


async def test_E7_client_without_a_common_algorithm_is_told_apart(house: House, lines: StringIO) -> None:
    """An old client's line says what it lacks; a scanner's that it broke the protocol."""
    with pytest.raises(asyncssh.KeyExchangeFailed):
        await house.connect(kex_algs=["ecdh-sha2-nistp256"])
    await until(lambda: events(lines, "login refused"))
    _, writer = await asyncio.open_connection(*house.address)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: len(events(lines, "login refused")) == 2)
    writer.close()
    old, scanner = events(lines, "login refused")
    assert old["reason"] == "no common algorithm"
    assert "key exchange" in old["detail"]
    assert scanner["reason"] == "broke the protocol"


async def test_E7_line_is_bounded_and_harmless(house: House, lines: StringIO) -> None:
    """A name of 30,000 characters, one with escapes, and an agent of twenty keys make one short line each."""
    line = await refused(house, lines, none("\x1b]0;x\x07" + "w" * 30000))
    assert line["name"].startswith("\\x1b]0;x\\x07w")
    assert len(line["name"].encode()) <= 320
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(MAX_KEYS + 5)]
    line = await refused(house, lines, *(offer(STRANGER, key) for key in keys))
    assert (len(line["keys"]), line["more_keys"]) == (MAX_KEYS, 5)


async def test_E7_who_logs_in_leaves_no_refusal(house: House, lines: StringIO) -> None:
    """Wrong keys before the right one are no refused login."""
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
    async with await asyncssh.connect(
        *house.address, username=STRANGER, known_hosts=None, config=None, client_keys=[*keys, house.key],
        agent_path=None,
    ):  # fmt: skip
        pass
    await until(lambda: not house.server._connections)  # noqa: SLF001
    assert events(lines, "login")
    assert not events(lines, "login refused")


async def test_E7_flood_of_refused_logins_fills_no_disk(house: House, lines: StringIO) -> None:
    """Of forty connections ten have a line; one line counts the others, and the ledger has one line of all forty."""

    async def leave(number: int) -> None:
        _, writer = await asyncio.open_connection(*house.address, local_addr=("127.0.0.2", 0))
        writer.write(b"SSH-2.0-flood\r\n" if number % 2 else b"SSH-2.0-flood\r\nXXXXXXXXXXXXXXXX")
        await writer.drain()
        writer.close()

    for number in range(4 * LINES_PER_SOURCE):
        await leave(number)
        await until(lambda: not house.server._connections)  # noqa: SLF001
    assert len(events(lines, "login refused")) == LINES_PER_SOURCE
    await house.server.refused_logins.flush(everything=True)
    (counted,) = events(lines, "logins refused")
    assert (counted["client_address"], counted["count"]) == ("127.0.0.2", 3 * LINES_PER_SOURCE)
    assert {line["count"] for line in ledger(house, "logins refused")} <= set(range(4 * LINES_PER_SOURCE + 1))
    assert sum(line["count"] for line in ledger(house, "logins refused")) == 4 * LINES_PER_SOURCE
    assert all(line["addresses"] == ["127.0.0.2"] for line in ledger(house, "logins refused"))
    assert len(ledger(house, "logins refused")) <= 3  # a line for each reason


async def test_E9_refused_requests_fill_no_ledger(house: House, lines: StringIO) -> None:
    """Of forty refusals of one user and kind five are in the ledger singly, and one line has the number of the rest."""
    async with await asyncssh.connect(
        *house.address, username="nosuch@mystack", known_hosts=None, config=None, client_keys=[house.key],
        agent_path=None,
    ) as connection:  # fmt: skip
        for _ in range(40):
            assert (await connection.run("true")).exit_status == 251
    await until(lambda: len(ledger(house, "refused")) >= REFUSALS_OF_ONE_KIND)
    writing = asyncio.create_task(house.gateway.refusals.watch())
    await asyncio.sleep(0)
    writing.cancel()  # as when the server stops
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    single, counted = ledger(house, "refused")[:REFUSALS_OF_ONE_KIND], ledger(house, "refused")[REFUSALS_OF_ONE_KIND:]
    assert all(re.fullmatch(r"[0-9a-f]{16}", line["uid"]) for line in single)
    assert [(line["user"], line["count"]) for line in counted] == [("alice", 40 - REFUSALS_OF_ONE_KIND)]
    assert len(events(lines, "refused")) == REFUSALS_OF_ONE_KIND + 1


def test_filter_of_fail2ban_takes_the_reasons_there_are() -> None:
    """The filter in docs/operations.md names reasons that exist, finds the address, and no address inside a name."""
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    (expression,) = re.findall(r"^    failregex = (.+)$", page, re.MULTILINE)
    (group,) = re.findall(r'"reason": "\(\?:([^)]*)\)"', expression)
    assert set(group.split("|")) <= {re.escape(words).replace("\\ ", " ") for words in WORDS.values()}
    pattern = re.compile(expression.replace("<ADDR>", r"(?P<address>[0-9a-fA-F.:]+)"))
    stream = StringIO()
    log.configure(stream=stream)
    forged = '", "client_address": "192.0.2.99", "reason": "unknown key", "event": "login refused'
    for address, event in (("192.0.2.1", "login refused"), ("2001:db8::1", "login refused"), ("192.0.2.3", "login")):
        structlog.get_logger().info(event, client_address=address, reason="unknown key", name=forged)
    matches = [pattern.search(line) for line in stream.getvalue().splitlines()]
    assert [match and match["address"] for match in matches] == ["192.0.2.1", "2001:db8::1", None]
