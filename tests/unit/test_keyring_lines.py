"""The line format of the key home: every option, the quoting, and that nothing in doubt is accepted."""

import base64
import string
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.keyring.authorized_keys import LINE_LIMIT, AuthorizedKey, fingerprint, parse
from bastion.keyring.options import InvalidLineError, Options

BLOB = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + bytes(range(32))
KEY = "ssh-ed25519 " + base64.b64encode(BLOB).decode()
KNOWN = {
    "pty", "no-pty", "restrict", "port-forwarding", "no-port-forwarding", "agent-forwarding", "no-agent-forwarding",
    "x11-forwarding", "no-x11-forwarding", "user-rc", "no-user-rc", "cert-authority", "no-touch-required",
    "verify-required",
}  # fmt: skip


def options(text: str) -> Options:
    key = parse(f"{text} {KEY} a comment".encode())
    assert key is not None
    assert key.blob == BLOB
    assert key.comment == "a comment"
    return key.options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-pty", Options(may_pty=False)),
        ("NO-PTY", Options(may_pty=False)),
        ("no-port-forwarding", Options(may_forward=False)),
        ("restrict", Options(may_pty=False, may_forward=False, may_agent=False)),
        ("restrict,pty", Options(may_forward=False, may_agent=False)),
        ("Restrict,Port-Forwarding", Options(may_pty=False, may_agent=False)),
        ("restrict,agent-forwarding", Options(may_pty=False, may_forward=False)),
        ("pty,restrict", Options(may_pty=False, may_forward=False, may_agent=False)),
        ("no-agent-forwarding,no-X11-forwarding,no-user-rc", Options(may_agent=False)),
        ("no-touch-required", Options(touch_required=False)),
        ("verify-required", Options(verify_required=True)),
        ("cert-authority", Options(is_authority=True)),
        ('cert-authority,principals="alice,web-team"', Options(is_authority=True, principals=("alice", "web-team"))),
        ('principals="alice@corp",cert-authority', Options(is_authority=True, principals=("alice@corp",))),
        ("agent-forwarding,X11-forwarding,user-rc,pty,port-forwarding", Options()),
        ('stack="mystack"', Options(stack="mystack")),
        ('STACK="mystack",service="web.1"', Options(stack="mystack", service="web.1")),
        ('permitopen="localhost:80"', Options(permit_open=("localhost:80",))),
        ('permitopen="DB:5432",permitopen="[::0001]:*"', Options(permit_open=("db:5432", "[::1]:*"))),
        ('expiry-time="20270102Z"', Options(expires=datetime(2027, 1, 2, tzinfo=UTC).timestamp())),
        ('expiry-time="202701020304Z"', Options(expires=datetime(2027, 1, 2, 3, 4, tzinfo=UTC).timestamp())),
        ('expiry-time="20270102030405Z"', Options(expires=datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())),
        ('expiry-time="20270102030405"', Options(expires=datetime(2027, 1, 2, 3, 4, 5).timestamp())),  # noqa: DTZ001 - local time is what it means
        (
            'expiry-time="20270102Z",expiry-time="20260102Z"',
            Options(expires=datetime(2026, 1, 2, tzinfo=UTC).timestamp()),
        ),
    ],
)
def test_option_is_read(text: str, expected: Options) -> None:
    """Each option bounds the key as sshd(8) says, in any case; a later flag undoes an earlier one."""
    assert options(text) == expected


@pytest.mark.parametrize(
    ("sources", "address", "admitted"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.70", False),
        ("192.0.2.*", "192.0.2.70", True),
        ("192.0.2.?", "192.0.2.70", False),
        ("192.0.2.0/24", "192.0.2.70", True),
        ("192.0.2.0/24", "192.0.3.1", False),
        ("192.0.2.0/24", "::ffff:192.0.2.70", True),
        ("192.0.2.0/24,!192.0.2.7", "192.0.2.7", False),
        ("!192.0.2.7,192.0.2.0/24", "192.0.2.7", False),
        ("!192.0.2.7,192.0.2.0/24", "192.0.2.8", True),
        ("2001:DB8::/32", "2001:db8::1", True),
        ("2001:DB8:0::1", "2001:db8::1", True),
        ("2001:db8::*", "2001:db8::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::/0", "192.0.2.7", False),
        ("0.0.0.0/0", "", False),
        ("*", "not an address", False),
        ("*", "192.0.2.7", True),
    ],
)
def test_from_admits_addresses(sources: str, address: str, *, admitted: bool) -> None:
    """`from=` takes CIDR networks, patterns and negations, a negation outweighs, and no address, no match."""
    assert options(f'from="{sources}"').admits(address) is admitted


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"frobnicate {KEY}", "unknown option frobnicate"),
        (f'frobnicate="x" {KEY}', "unknown option frobnicate="),
        (f"no-restrict {KEY}", "unknown option"),
        (f"no-stack {KEY}", "unknown option"),
        (f"stack {KEY}", "no value for stack"),
        (f"ptyx {KEY}", "unknown option"),
        (f'pty="yes" {KEY}', "unknown option pty="),
        (f"pty,,restrict {KEY}", "neither a key type nor an option"),
        (f"pty, {KEY}", "neither a key type nor an option"),
        (f",pty {KEY}", "neither a key type nor an option"),
        (f"pty;restrict {KEY}", "other than a comma"),
        (f"pty,pty {KEY}", "twice"),
        (f'stack="a",Stack="b" {KEY}', "twice"),
        (f'from="*",from="10.0.0.0/8" {KEY}', "twice"),
        (f"stack=mystack {KEY}", "no quotes"),
        (f'stack="mystack {KEY}', "no closing quote"),
        (f'stack="mystack\\" {KEY}', "no closing quote"),
        (f'stack="my stack" {KEY}', "stack="),
        (f'stack="*" {KEY}', "stack="),
        (f'stack="" {KEY}', "stack="),
        (f'service="a/b" {KEY}', "service="),
        (f'service="a\\"b" {KEY}', "service="),
        (f'expiry-time="2027" {KEY}', "expiry-time"),
        (f'expiry-time="20271301Z" {KEY}', "no date"),
        (f'expiry-time="20270230" {KEY}', "no date"),
        (f'expiry-time="2027010203040" {KEY}', "expiry-time"),
        (f'expiry-time="20270102z" {KEY}', "expiry-time"),
        (f'expiry-time="٢٠٢٧٠١٠٢" {KEY}', "expiry-time"),
        (f'expiry-time="" {KEY}', "expiry-time"),
        (f'from="" {KEY}', "from="),
        (f'from="*.example.com" {KEY}', "names are not looked up"),
        (f'from="192.0.2.1/24" {KEY}', "network"),
        (f'from="192.0.2.0/33" {KEY}', "network"),
        (f'from="!192.0.2.1" {KEY}', "nobody"),
        (f'permitopen="localhost" {KEY}', "HOST:PORT"),
        (f'permitopen="localhost:0" {KEY}', "HOST:PORT"),
        (f'permitopen="localhost:65536" {KEY}', "HOST:PORT"),
        (f'permitopen="*:80" {KEY}', "HOST:PORT"),
        (f'permitopen="::1:80" {KEY}', "HOST:PORT"),
        (f'permitopen="[:::]:80" {KEY}', "HOST:PORT"),
        (f'principals="web" {KEY}', "without cert-authority"),
        (f'cert-authority,principals="" {KEY}', "principals="),
        (f'cert-authority,principals="a,,b" {KEY}', "principals="),
        (f'cert-authority,principals="a b" {KEY}', "principals="),
        (f'cert-authority="yes" {KEY}', "unknown option cert-authority="),
        (f"no-cert-authority {KEY}", "unknown option"),
        (f"no-verify-required {KEY}", "unknown option"),
        (f"touch-required {KEY}", "unknown option"),
        (f'command="id" {KEY}', "command"),
        (f'environment="A=b" {KEY}', "environment"),
        (f'permitlisten="80" {KEY}', "permitlisten"),
        (f'tunnel="0" {KEY}', "tunnel"),
        ("no-pty", "options but no key"),
        ("no-pty ", "options but no key"),
        ("no-pty nothing", "no key type"),
        ("ssh-ed25519", "another type"),
        ("ssh-ed25519 !!!!", "not base64"),
        (KEY.replace("ssh-ed25519", "ssh-rsa"), "another type"),
        (f"pty {KEY}\x00", "control characters"),
        (f"pty {KEY} \x1b[2J", "control characters"),
        (f"{KEY}\n{KEY}", "control characters"),
        (f"{KEY} {'x' * LINE_LIMIT}", "longer than"),
    ],
)
def test_line_in_doubt_is_invalid(line: str, words: str) -> None:
    """What is unknown, doubled, malformed or cannot be enforced makes the line invalid, and the reason says which."""
    with pytest.raises(InvalidLineError, match=words):
        parse(line.encode())


def test_line_that_is_not_utf8_is_invalid() -> None:
    """Bytes that are no text are refused."""
    with pytest.raises(InvalidLineError, match="UTF-8"):
        parse(KEY.encode() + b" \xff")


@pytest.mark.parametrize("line", ["", "   ", "\t", "# a comment", "  # pty ssh-ed25519", "\r"])
def test_empty_line_and_comment_are_nothing(line: str) -> None:
    """Empty lines and comments hold no key."""
    assert parse(line.encode()) is None


@pytest.mark.parametrize(
    "line", [f"  {KEY}", f"\t{KEY}\r", KEY.replace(" ", "\t"), KEY.replace(" ", "   "), f"pty\t{KEY}"]
)
def test_blanks_between_fields_do_not_matter(line: str) -> None:
    """Tabs and several spaces stand between fields as well."""
    key = parse(line.encode())
    assert key is not None
    assert key.blob == BLOB


def _accepted(line: bytes) -> AuthorizedKey | None:
    try:
        return parse(line)
    except InvalidLineError:
        return None


@given(st.binary(max_size=300))
def test_parser_raises_only_its_own_error_for_bytes(line: bytes) -> None:
    """No bytes at all end in another exception."""
    _accepted(line)


@given(st.text(alphabet='ptyresicfomxk-=",\\! \t#*?0129.:/[]Z', max_size=60))
def test_parser_accepts_no_unknown_option(text: str) -> None:
    """Whatever stands before a key is accepted only when every bare word of it is a known option."""
    key = _accepted(f"{text} {KEY}".encode())
    if key is not None and '"' not in text:
        words = {word for word in text.strip(" \t").split(",") if word}
        assert {word.lower() for word in words} <= KNOWN
        assert fingerprint(key.blob) == key.fingerprint


@given(st.text(alphabet=string.ascii_lowercase + "-", min_size=1, max_size=24).filter(lambda word: word not in KNOWN))
def test_no_invented_option_is_accepted(word: str) -> None:
    """An option outside of the list makes the line invalid, with a value and without."""
    for text in (word, f'{word}="1"'):
        if not text.startswith(("from=", "sk-", "ssh-", "ecdsa-")):
            assert _accepted(f"{text} {KEY}".encode()) is None or text.split("=")[0] in {"stack", "service"}
