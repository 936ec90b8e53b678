"""Tricks with names, keys and probes: rows A1 to A9 and A16 of the threats, each against a running bastion.

Their other halves: A3 and A10 in test_hostile.py, A5 in unit/ssh/test_proof.py, A6 in unit/test_targets.py, A14 and
A15 in test_keys.py and test_certificates.py, A16 in unit/test_keyring_clock.py.
"""

import asyncio
import base64
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
from asyncssh.packet import Boolean, NameList, String, UInt32

from tests.authenticator import PRESENT, VERIFIED, SecurityKey
from tests.e2e.server import Bastion
from tests.e2e.stranger import USERAUTH_FAILURE, USERAUTH_PK_OK, USERAUTH_SUCCESS, Ask, none, offer, replies, signed

NAME = "web@mystack"
NO = (USERAUTH_FAILURE, NameList([b"publickey"]) + Boolean(value=False))
NO_NAMES = [
    "", "@", "+", "web@", "@mystack", "web+@mystack", "a@b@c", "a@@b", "a+b+c@d", "a@b+c", "web @mystack",
    " web@mystack", "web\t@mystack", "web@mystack\n", "web\r\n@mystack", "web\0@mystack", "\x1b[2J@mystack",
    "web@../mystack", "../web@x", "..@x", "a/b@x", "/etc/passwd", "a\\b@x", "-web@mystack", "-oProxyCommand=id",
    ".web@mystack", "%u@x", "%h", "$(id)@x", "`id`@x", "${HOME}@x", "a;b@x", "a|b@x", "a&b@x", "a>b@x",
    "'web'@mystack", '"web"@mystack', "web'--@mystack", "a=b@x", "a,b@x", "a:b@x", "a*@mystack", "w?b@mystack",
    "[a]@x", "{a}@x", "~root@x", "#a@x", "!a@x", "web＠mystack", "ｗｅｂ@mystack", "．．／@x", "wéb@x",
    "web\u00ad@mystack", "web\u202e@x", "web٢@x", "wеb@mystack", "a" * 254, f"web@{'a' * 254}",
    f"{'a' * 253}@{'b' * 67}", "a" * 1023, "a" * 1024,
]  # fmt: skip


def alice(bastion: Bastion) -> asyncssh.SSHKey:
    return asyncssh.read_private_key(bastion.folder / "alice.key")


def generate() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def said(bastion: Bastion) -> list[str]:
    """Return the server's log without what it says by itself of earlier tests' sessions and keys."""
    kept = {"session", "key home", "connection ended"}
    lines = bastion.log.read_text(errors="replace").splitlines()
    return [line for line in lines if not any(f'"event": "{event}"' in line for event in kept)]


async def login(bastion: Bastion, before: int) -> str:
    """Return who logged in when so many had before: the log says it a moment after the client is told."""
    async with asyncio.timeout(10):
        while len(logins := bastion.events("login")) <= before:
            await asyncio.sleep(0.05)
    return str(logins[-1]["user"])


def in_fours(names: list[str]) -> list[list[str]]:
    return [names[start : start + 4] for start in range(0, len(names), 4)]


async def until_known(bastion: Bastion, key: asyncssh.SSHKey | SecurityKey) -> None:
    """Wait until the server has read the key home with this key in it."""
    async with asyncio.timeout(30):
        while [number for number, _ in await replies(bastion, offer(NAME, key))] != [USERAUTH_PK_OK]:
            await asyncio.sleep(0.2)


async def add(bastion: Bastion, user: str, key: asyncssh.SSHKey) -> None:
    bastion.cli("keys", "add", user, key.export_public_key().decode())
    await until_known(bastion, key)


async def test_the_key_that_signed_counts_whatever_was_offered(bastion: Bastion) -> None:
    """A1, A4: offers of other keys and other names before the signature leave no trace in the identity."""
    dave, before = generate(), len(bastion.events("login"))
    await add(bastion, "dave", dave)
    answers = await replies(
        bastion,
        offer("db@other", alice(bastion)),
        signed("db@other", alice(bastion), spoil=True),
        offer(NAME, alice(bastion)),
        signed("small@mystack", dave),
    )
    assert answers[-1] == (USERAUTH_SUCCESS, b"")
    assert await login(bastion, before) == "dave"


async def test_an_offer_is_no_login(bastion: Bastion) -> None:
    """A2: a known key without a signature, or with alice's signature shown for another key, opens nothing."""
    logins = len(bastion.events("login"))
    carol = generate()
    for request in (
        signed(NAME, carol, shown=alice(bastion).public_data),
        signed(NAME, alice(bastion), shown=carol.public_data),
        signed(NAME, alice(bastion), spoil=True),
        signed(NAME, carol),
    ):
        (offered, _), answer = await replies(bastion, offer(NAME, alice(bastion)), request)
        assert (offered, answer) == (USERAUTH_PK_OK, NO)
    assert len(bastion.events("login")) == logins


async def test_a_channel_behind_an_offer_ends_the_connection(bastion: Bastion) -> None:
    """A2, A3: a key that would do is no login, and who opens a channel on the strength of it is cut off."""
    session = String("session") + UInt32(0) + UInt32(2**20) + UInt32(32768)
    logins = len(bastion.events("login"))
    [(number, _)] = await replies(bastion, offer(NAME, alice(bastion)), behind=session)
    assert number == USERAUTH_PK_OK
    assert len(bastion.events("login")) == logins


@pytest.mark.parametrize("algorithm", [b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"", b"x" * 1000])
async def test_the_algorithm_is_the_keys_own(bastion: Bastion, algorithm: bytes) -> None:
    """A5: an RSA key that is called something else, or signs with SHA-1, does not log in, and by its own name does."""
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    await add(bastion, "erin", rsa)
    try:
        request = signed(NAME, rsa, algorithm=algorithm or b"none", signed_with=b"rsa-sha2-512")
        assert await replies(bastion, request, signed(NAME, rsa, algorithm=b"rsa-sha2-512")) == [
            NO,
            (USERAUTH_SUCCESS, b""),
        ]
        assert await replies(bastion, signed(NAME, rsa, algorithm=b"ssh-rsa")) == [NO]
    finally:
        bastion.cli("keys", "revoke", "erin")


@pytest.mark.parametrize("names", in_fours(NO_NAMES), ids=lambda names: ascii(names[0][:20]))
async def test_what_is_no_name_gets_the_answer_of_a_stranger(bastion: Bastion, names: list[str]) -> None:
    """A6, A7: over a name that is none, the best key and a true signature get the one answer, and the log no line."""
    before = said(bastion)
    answers = await replies(bastion, *[signed(name, alice(bastion)) for name in names])
    # SASLprep refuses some of them for us, and asyncssh then ends the connection: no login either way.
    assert set(answers) <= {NO}
    plain = [name for name in names if name.isascii()]  # asyncssh normalises others, and offers have no signed name
    assert set(await replies(bastion, *[offer(name, alice(bastion)) for name in plain])) <= {NO}
    assert said(bastion) == before


@pytest.mark.parametrize("name", ["", NAME, "root", "alice", "web"])
async def test_nothing_is_open_to_anybody(bastion: Bastion, name: str) -> None:
    """A7: `none` authentication is refused for every name, the empty one too."""
    assert await replies(bastion, none(name), none(name)) == [NO, NO]


async def test_known_and_unknown_are_answered_alike(bastion: Bastion) -> None:
    """A8: whatever exists or not, a key that is not good gets the same bytes, and the same lines in the log: none."""
    revoked, expired, foreign = generate(), generate(), generate()
    past = f'expiry-time="20200101" {expired.export_public_key().decode()}'
    bastion.cli("keys", "add", "frank", past)
    bastion.cli("keys", "add", "grace", revoked.export_public_key().decode())
    bastion.cli("keys", "revoke", "grace")
    await add(bastion, "ivan", generate())  # and with it what was done before
    authority, certified = generate(), generate()
    certificate = authority.generate_user_certificate(certified, "x", principals=["alice"])
    before = said(bastion)
    answers: list[tuple[int, bytes]] = []
    for name in (NAME, "nosuch@mystack", "web@nosuch", "alice", "nosuch", "a@b@c", ""):
        requests: list[Ask] = []
        for key in (revoked, expired, foreign):
            requests += [offer(name, key), signed(name, key)]
        requests += [
            signed(name, certified, shown=certificate.public_data, algorithm=b"ssh-ed25519-cert-v01@openssh.com",
                   signed_with=b"ssh-ed25519"),
            signed(name, alice(bastion), spoil=True),
        ]  # fmt: skip
        answers += await replies(bastion, *requests)
    assert len(answers) == 7 * 8
    assert set(answers) == {NO}
    assert said(bastion) == before


async def test_guesses_are_counted(bastion: Bastion) -> None:
    """A9: ten false signatures are answered, and twenty offers; one more ends the connection, whatever follows it."""
    wrong = generate()
    answers = await replies(bastion, *[signed(NAME, wrong)] * 50, signed(NAME, alice(bastion)))
    assert answers == [NO] * 10
    offers = await replies(bastion, *[offer(NAME, wrong)] * 50)
    assert offers == [NO] * 20


def test_an_agent_with_many_keys_logs_in(bastion: Bastion, tmp_path: Path) -> None:
    """A9: stock ssh that offers fifteen other keys first is let in by the sixteenth."""
    options: list[str] = []
    for number in range(15):
        key = tmp_path / str(number)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        options += ["-i", str(key)]
    command = bastion.command("echo in")
    command[1:1] = options
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stdout == b"in\n", done.stderr


def test_a_clock_that_was_set_back_revives_no_key(own: Bastion) -> None:
    """A16: by the highest time seen a key has expired, though by the wall clock it has an hour left."""
    moment = datetime.now(UTC) + timedelta(hours=1)
    line = (own.folder / "alice.key.pub").read_text()
    (own.keys / "users" / "alice.pub").write_text(f'expiry-time="{moment:%Y%m%d%H%M%S}Z" {line}')
    own.start()
    assert own.ssh("echo in").stdout == b"in\n"
    own.stop()
    (own.keys / "clock").write_text(f"{time.time() + 7200:.0f}\n")
    own.start()
    assert b"Permission denied (publickey)" in own.ssh("true").stderr
    assert any("minutes behind" in line["problem"] for line in own.events("key home"))


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
@pytest.mark.parametrize(
    ("options", "flags", "answer"),
    [
        ("", PRESENT, USERAUTH_SUCCESS),
        ("", 0, USERAUTH_FAILURE),
        ("no-touch-required", 0, USERAUTH_SUCCESS),
        ("verify-required", PRESENT, USERAUTH_FAILURE),
        ("verify-required", PRESENT | VERIFIED, USERAUTH_SUCCESS),
    ],
)
async def test_a_security_key_is_touched(bastion: Bastion, kind: str, options: str, flags: int, answer: int) -> None:
    """A FIDO key logs in when it says that somebody touched it, unless its line needs no touch, or a PIN besides."""
    key, before = SecurityKey(kind, flags), len(bastion.events("login"))
    public = f"{key.algorithm.decode()} {base64.b64encode(key.public_data).decode()}"
    bastion.cli("keys", "add", "heidi", f"{options} {public}".strip())
    await until_known(bastion, key)
    try:
        [(number, _)] = await replies(bastion, signed(NAME, key))
        assert number == answer
        if answer == USERAUTH_SUCCESS:
            assert await login(bastion, before) == "heidi"
    finally:
        bastion.cli("keys", "revoke", "heidi")
