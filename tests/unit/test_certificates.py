"""Certificates in the keyring: whom each names, what its authority's line bounds, and that no altered one is taken."""

import base64
import struct
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import ConfigurationError
from bastion.keyring import Keyring, NotAdmitted
from bastion.keyring.certificates import InvalidCertificateError, parse, string
from bastion.model import Identity
from tests.authenticator import SecurityKey
from tests.unit.keyring_home import ADDRESS, Wall, blob, generate

HOUR = timedelta(hours=1)


class Authority:
    """An authority that a key home trusts, by ssh-keygen."""

    def __init__(self, folder: Path, keyring: Keyring, *options: str) -> None:
        self.folder = folder
        self.keyring = keyring
        self.public = generate(folder, *(options or ("-t", "ed25519")))
        self.private = max(folder.glob("made*.pub"), key=lambda path: path.stat().st_mtime_ns).with_suffix("")

    def trust(self, before: str = "") -> None:
        path = self.keyring.home / "ca" / "test.pub"
        path.write_text(f"{before}{' ' if before else ''}{self.public}\n")
        path.chmod(0o600)
        self.keyring.refresh()

    def sign(self, *options: str, public: str = "") -> bytes:
        """Return a certificate's blob for a new key, or this one."""
        path = self.folder / "certified.pub"
        path.write_text(public or generate(self.folder, "-t", "ed25519"))
        command = ["ssh-keygen", "-q", "-s", str(self.private), "-I", "x", *options, str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return base64.b64decode((self.folder / "certified-cert.pub").read_text().split()[1])


@pytest.fixture
def authority(keyring: Keyring, tmp_path: Path) -> Authority:
    made = Authority(tmp_path, keyring)
    made.trust()
    return made


def admitted(keyring: Keyring, certificate: bytes) -> Identity:
    return keyring.admit(certificate, ADDRESS).identity


def refusal(keyring: Keyring, certificate: bytes, address: str = ADDRESS) -> str:
    with pytest.raises(NotAdmitted) as caught:
        keyring.admit(certificate, address)
    return str(caught.value)


def test_certificates_bounds_are_the_identitys(keyring: Keyring, authority: Authority) -> None:
    """Extensions that are left out, and the forced command, are in the identity beside the certificate's names."""
    certificate = authority.sign(
        "-n", "alice", "-z", "5", "-O", "no-pty", "-O", "no-agent-forwarding", "-O", "force-command=id"
    )
    identity = admitted(keyring, certificate)
    assert (identity.user, identity.may_pty, identity.may_forward, identity.may_agent) == ("alice", False, True, False)
    assert identity.force_command == "id"
    assert identity.certificate is not None
    assert (identity.certificate.serial, identity.certificate.key_id) == (5, "x")
    bare = admitted(keyring, authority.sign("-n", "alice", "-O", "clear"))
    assert (bare.may_pty, bare.may_forward, bare.may_agent) == (False, False, False)


def test_line_of_the_authority_bounds_its_certificates(keyring: Keyring, authority: Authority) -> None:
    """Options in ca/*.pub hold for every certificate, whatever it permits."""
    authority.trust('cert-authority,no-pty,stack="s",from="192.0.2.0/24",principals="alice,carol"')
    identity = admitted(keyring, authority.sign("-n", "alice,bob"))
    assert (identity.user, identity.may_pty, identity.key_stack) == ("alice", False, "s")
    certificate = authority.sign("-n", "alice")
    assert "not be used from this address" in refusal(keyring, certificate, "198.51.100.1")
    assert "name no users" in refusal(keyring, authority.sign("-n", "bob"))
    authority.trust('expiry-time="20200101"')
    assert "expired" in refusal(keyring, certificate)


def test_two_lines_that_both_fit_name_nobody(keyring: Keyring, authority: Authority) -> None:
    """An authority that is trusted for alice and for bob speaks of one of them at a time."""
    (keyring.home / "ca" / "test.pub").unlink()
    keyring.add("alice", f'cert-authority,principals="ops,web" {authority.public}')
    keyring.add("bob", f'cert-authority,principals="ops,db" {authority.public}')
    keyring.refresh()
    assert admitted(keyring, authority.sign("-n", "web")).user == "alice"
    assert admitted(keyring, authority.sign("-n", "db,alice")).user == "bob"
    assert "name 2 users" in refusal(keyring, authority.sign("-n", "ops"))
    assert "name no users" in refusal(keyring, authority.sign("-n", "alice"))
    assert keyring.identify(blob(authority.public), ADDRESS) is None
    assert {key.state for key in keyring.list()} == {"authority"}
    assert keyring.revoke("bob")
    keyring.refresh()
    assert admitted(keyring, authority.sign("-n", "ops")).user == "alice"


def test_own_name_is_the_principal_of_a_plain_authority_line(keyring: Keyring, authority: Authority) -> None:
    """`cert-authority` without `principals=` in users/NAME.pub takes NAME and no other."""
    (keyring.home / "ca" / "test.pub").unlink()
    keyring.add("alice", f"cert-authority {authority.public}")
    keyring.refresh()
    assert admitted(keyring, authority.sign("-n", "alice,bob")).user == "alice"
    assert "name no users" in refusal(keyring, authority.sign("-n", "bob"))
    assert "name no users" in refusal(keyring, authority.sign())


def test_certificate_goes_by_the_clock_that_never_goes_back(keyring: Keyring, authority: Authority, wall: Wall) -> None:
    """A certificate ends at its time to the second, and a clock that is set back revives it not (A16)."""
    expiry = int(time.time()) + 3600
    wall.offset = -10.0
    certificate = authority.sign("-n", "alice", "-V", f"0x0:{expiry:#x}")
    identity = admitted(keyring, certificate)
    wall.offset = expiry - time.time() - 0.5
    assert admitted(keyring, certificate) == identity
    wall.offset = expiry - time.time() + 1
    assert keyring.objection(identity) == "the certificate expired"
    wall.offset = -86400
    assert refusal(keyring, certificate) == "the certificate expired"


def test_certificate_for_ever_does_not_expire(keyring: Keyring, authority: Authority, wall: Wall) -> None:
    """Without an end of validity there is none."""
    certificate = authority.sign("-n", "alice", "-V", "always:forever")
    wall.offset = 3e9
    assert admitted(keyring, certificate).user == "alice"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("id ticket 42", "revoked"),
        ("id   ticket\t42  ", "revoked"),
        ("serial {ca} 7", "revoked"),
        ("serial {ca} 7 # left the company", "revoked"),
        ("{key}", "revoked"),
        ("{ca}", "revoked"),
        ("id ticket", None),
        ("serial {ca} 8", None),
        ("serial {key} 7", None),
    ],
)
def test_certificate_is_revoked_by_any_of_its_names(
    keyring: Keyring, authority: Authority, line: str, words: str | None
) -> None:
    """Key id, serial of that authority, certified key and authority each end it; another one does not."""
    command_line = authority.sign("-n", "alice", "-z", "7", "-I", "ticket 42")
    identity = admitted(keyring, command_line)
    assert identity.certificate is not None
    names = {"ca": identity.certificate.authority, "key": identity.key_fingerprint}
    with (keyring.home / "revoked").open("a") as file:
        file.write(line.format(**names) + "\n")
    keyring.refresh()
    if words is None:
        assert keyring.objection(identity) is None
    else:
        assert keyring.objection(identity) == "the certificate was revoked"
        assert refusal(keyring, command_line) == "the certificate was revoked"


@pytest.mark.parametrize(
    "line",
    [
        "serial",
        "serial 7",
        "serial SHA256:short 7",
        "serial {ca} x",
        "serial {ca} -1",
        "serial {ca} 18446744073709551616",
        "serial {ca} ٧",
        "id",
        "SSHKRL\n\0\0\0\1",
        "number 7",
    ],
)
def test_line_of_revoked_that_is_none_lets_nobody_in(keyring: Keyring, authority: Authority, line: str) -> None:
    """A line in doubt closes the door for new logins, and is named."""
    certificate = authority.sign("-n", "alice")
    identity = admitted(keyring, certificate)
    assert identity.certificate is not None
    (keyring.home / "revoked").write_text(line.format(ca=identity.certificate.authority) + "\n")
    keyring.refresh()
    assert "not known which keys are revoked" in refusal(keyring, certificate)
    assert keyring.objection(identity) is None
    assert f"{keyring.home / 'revoked'}:1: " in keyring.problems[0]


@pytest.mark.parametrize("options", [(), ("-t", "ecdsa", "-b", "256"), ("-t", "rsa", "-b", "2048")], ids=str)
def test_altered_certificate_is_refused(keyring: Keyring, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Whichever byte of a certificate is changed, nobody is let in by it."""
    authority = Authority(tmp_path, keyring, *options)
    authority.trust()
    certificate = authority.sign("-n", "alice")
    assert admitted(keyring, certificate).user == "alice"
    for position in range(0, len(certificate), 1 if len(certificate) < 600 else 3):
        altered = bytearray(certificate)
        altered[position] ^= 0x40
        assert keyring.identify(bytes(altered), ADDRESS) is None, position
    for size in range(0, len(certificate), 7):
        assert keyring.identify(certificate[:size], ADDRESS) is None
    assert keyring.identify(certificate + b"\0", ADDRESS) is None


def test_authority_that_is_a_security_key_signs(keyring: Keyring, tmp_path: Path) -> None:
    """An authority's key may be in hardware; its signature covers the flags as well."""
    token = SecurityKey("ssh-ed25519")
    (keyring.home / "ca" / "test.pub").write_text(
        f"{token.algorithm.decode()} {base64.b64encode(token.public_data).decode()}\n"
    )
    keyring.refresh()
    signed = crafted(blob(generate(tmp_path, "-t", "ed25519")), token.public_data)
    certificate = signed + string(token.sign(signed, b""))
    assert admitted(keyring, certificate).user == "alice"
    assert keyring.identify(certificate[:-1] + b"\x09", ADDRESS) is None


def crafted(key: bytes, authority: bytes, *, kind: int = 1, critical: bytes = b"", extensions: bytes = b"") -> bytes:
    """Return a certificate of an Ed25519 key for alice, without its signature."""
    return b"".join(
        [
            string(b"ssh-ed25519-cert-v01@openssh.com"),
            string(b"nonce"),
            key[15:],
            struct.pack(">QI", 1, kind),
            string(b"x"),
            string(string(b"alice")),
            struct.pack(">QQ", 0, 2**64 - 1),
            string(critical),
            string(extensions),
            string(b""),
            string(authority),
        ]
    )


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("no user's", {"kind": 2}),
        ("no user's", {"kind": 0}),
        ("not known", {"critical": string(b"permit-all") + string(b"")}),
        ("twice", {"critical": 2 * (string(b"force-command") + string(string(b"id")))}),
        ("twice", {"extensions": 2 * (string(b"permit-pty") + string(b""))}),
        ("force-command", {"critical": string(b"force-command") + string(string(b""))}),
        ("force-command", {"critical": string(b"force-command") + string(string(b"a\0b"))}),
        ("behind its end", {"critical": string(b"force-command") + string(string(b"id") + b"x")}),
        ("source-address", {"critical": string(b"source-address") + string(string(b"*"))}),
        ("source-address", {"critical": string(b"source-address") + string(string(b"!192.0.2.1,192.0.2.0/24"))}),
        ("source-address", {"critical": string(b"source-address") + string(string(b"192.0.2.1/24"))}),
        ("verify-required", {"critical": string(b"verify-required") + string(b"no")}),
        ("stack@bastion", {"critical": string(b"stack@bastion") + string(string(b"a/b"))}),
        ("cut short", {"critical": b"\xff\xff\xff\xff"}),
        ("UTF-8", {"extensions": string(b"\xff") + string(b"")}),
    ],
)
def test_certificate_in_doubt_is_invalid(words: str, changes: dict[str, object]) -> None:
    """What is unknown and critical, doubled, malformed or no user's is refused before anybody looks at who signed."""
    key = string(b"ssh-ed25519") + string(bytes(32))
    with pytest.raises(InvalidCertificateError, match=words):
        parse(crafted(key, key, **changes) + string(b""))  # type: ignore[arg-type] # crafted's own words


def test_nested_certificate_is_refused(keyring: Keyring, authority: Authority) -> None:
    """A certificate signed by a certified key, which shows its own certificate as authority, is nobody's."""
    inner = authority.sign("-n", "alice")
    outer = crafted(blob(authority.public), inner) + string(b"")
    assert "not trusted" in refusal(keyring, outer)


def test_value_of_an_extension_permits_nothing(keyring: Keyring, authority: Authority) -> None:
    """`permit-pty` with a value is another extension than permit-pty."""
    certificate = authority.sign("-n", "alice", "-O", "clear", "-O", "extension:permit-pty=yes")
    assert not admitted(keyring, certificate).may_pty


@given(st.binary(max_size=400))
def test_parser_raises_only_its_own_error_for_bytes(contents: bytes) -> None:
    """No bytes at all end in another exception."""
    for text in (contents, string(b"ssh-ed25519-cert-v01@openssh.com") + contents):
        try:
            parse(text)
        except InvalidCertificateError:
            continue


def test_issued_certificate_is_what_ssh_keygen_shows(keyring: Keyring, tmp_path: Path) -> None:
    """The certificate has the user as principal, the place and the addresses as critical options, and a serial."""
    keyring.init(authority=True)
    keyring.refresh()
    issued = keyring.certify("alice", stack="s", service="web", expires=HOUR, sources=["192.0.2.0/24", "2001:db8::7"])
    path = tmp_path / "x-cert.pub"
    path.write_text(issued.public_line)
    shown = subprocess.run(["ssh-keygen", "-L", "-f", str(path)], check=True, capture_output=True, text=True).stdout
    for words in ("alice web@s", str(issued.serial), "192.0.2.0/24,2001:db8::7", "stack@bastion", "permit-pty"):
        assert words in shown
    certificate = base64.b64decode(issued.public_line.split()[1])
    identity = admitted(keyring, certificate)
    assert (identity.user, identity.key_stack, identity.key_service) == ("alice", "s", "web")
    assert "address" in refusal(keyring, certificate, "198.51.100.1")
    private = tmp_path / "x"
    private.write_text(issued.private_text)
    private.chmod(0o600)
    public = subprocess.run(["ssh-keygen", "-y", "-f", private], check=True, capture_output=True, text=True).stdout
    assert parse(certificate).key == blob(public)
    secret = issued.private_text.splitlines()[3]
    assert not [file for file in keyring.home.rglob("*") if file.is_file() and secret in file.read_text()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda keyring: keyring.certify("Alice"), "no name of a user"),
        (lambda keyring: keyring.certify("alice", stack="a b"), "stack"),
        (lambda keyring: keyring.certify("alice", sources=["*"]), "no patterns"),
        (lambda keyring: keyring.certify("alice", sources=["example.com"]), "addresses"),
        (lambda keyring: keyring.certify("alice", expires=-HOUR), "cannot expire"),
        (lambda keyring: keyring.certify("alice", authority="other"), "no private key other"),
    ],
)
def test_certificate_that_cannot_be_is_not_signed(
    keyring: Keyring, change: Callable[[Keyring], object], words: str
) -> None:
    """Names, places, addresses and times that cannot be are refused in words."""
    keyring.init(authority=True)
    with pytest.raises(ConfigurationError, match=words):
        change(keyring)


def test_authority_that_is_not_trusted_signs_nothing(keyring: Keyring) -> None:
    """A private key in ca/ whose public half is away or revoked is refused, and so are two without a choice."""
    keyring.init(authority=True)
    [private] = (path for path in (keyring.home / "ca").iterdir() if path.suffix != ".pub")
    public = private.with_name(f"{private.name}.pub")
    line = public.read_text()
    public.unlink()
    with pytest.raises(ConfigurationError, match="not accepted here"):
        keyring.certify("alice")
    public.write_text(line)
    private.with_name("second").write_bytes(private.read_bytes())
    with pytest.raises(ConfigurationError, match="several"):
        keyring.certify("alice")
    assert keyring.certify("alice", authority=private.name).serial


def test_authoritys_private_key_that_others_can_read_keeps_the_server_from_starting(keyring: Keyring) -> None:
    """A private key in ca/ is guarded like a host key."""
    keyring.init(authority=True)
    private = keyring.home / "ca" / "user_ca_ed25519"
    private.chmod(0o644)
    with pytest.raises(ConfigurationError, match="user_ca_ed25519"):
        Keyring(keyring.home).load()
