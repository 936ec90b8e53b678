"""Certificates as ssh-keygen signs them and the real ssh uses them: whom they name, what bounds and what ends them."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from tests.e2e.server import Bastion
from tests.e2e.test_keys import PROMPT, Master, fingerprint, ledger, wait

KEY_HOME_SECONDS = 2.5  # until the server has read the key home again
DENIED = b"Permission denied (publickey)"


def generate(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(path), *(options or ("-t", "ed25519"))], check=True)
    return path


@dataclass
class Authority:
    """A key that signs certificates, and the bastion that may trust it."""

    bastion: Bastion
    key: Path

    def sign(self, name: str, *options: str, key: tuple[str, ...] = ()) -> Path:
        """Make a key in the bastion's folder, where `user=name` finds it, and a certificate beside it."""
        made = self.bastion.folder / f"{name}.key"
        for old in (made, Path(f"{made}.pub"), Path(f"{made}-cert.pub")):
            old.unlink(missing_ok=True)
        generate(made, *key)
        sign = ["ssh-keygen", "-q", "-s", str(self.key), *options, f"{made}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        return made

    def trust(self, *lines: str) -> None:
        """Put it into ca/ and wait until the server knows."""
        (self.bastion.keys / "ca" / "test.pub").write_text("\n".join(lines) or Path(f"{self.key}.pub").read_text())
        time.sleep(KEY_HOME_SECONDS)


@pytest.fixture(scope="module")
def authority(bastion: Bastion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """Give an authority in ca/ of the shared bastion."""
    made = Authority(bastion, generate(tmp_path_factory.mktemp("ca") / "ca"))
    made.trust()
    yield made
    (bastion.keys / "ca" / "test.pub").unlink()


@pytest.fixture
def mine(own: Bastion, tmp_path: Path) -> Authority:
    """Give an authority in ca/ of a running bastion of the test's own."""
    own.start()
    made = Authority(own, generate(tmp_path / "ca"))
    made.trust()
    return made


def test_a_certificate_logs_its_principal_in(authority: Authority) -> None:
    """The user is the principal; key id and serial are in the log and the ledger, beside the certified key's name."""
    key = authority.sign("certified", "-I", "ticket 42", "-n", "alice", "-z", "77", "-V", "-1m:+1h")
    done = authority.bastion.ssh("echo in", user="certified")
    assert done.stdout == b"in\n", done.stderr
    for login in (authority.bastion.events("login")[-1], ledger(authority.bastion, "login")[-1]):
        assert (login["user"], login["key_id"], login["serial"]) == ("alice", "ticket 42", 77)
        assert login["key_fingerprint"] == fingerprint(key)
        assert login["authority"] == fingerprint(authority.key)
    session = authority.bastion.last_uid()
    assert authority.bastion.read(session)[0]["bastion"]["key_fingerprint"] == fingerprint(key)


@pytest.mark.parametrize(
    "options",
    [
        ("-n", "alice,bob@example.com,Team Ops"),
        ("-n", "alice", "-O", "source-address=127.0.0.0/8"),
        ("-n", "alice", "-O", "clear"),
        ("-n", "alice", "-O", "extension:somebody@example.com=words"),
    ],
    ids="/".join,
)
def test_a_good_certificate_logs_in(authority: Authority, options: tuple[str, ...]) -> None:
    """Principals that can be no user's name are left out, and unknown extensions; an address that fits is fine."""
    authority.sign("good", "-I", "x", *options)
    assert authority.bastion.ssh("echo in", user="good").stdout == b"in\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "name no users"),
        (("-n", "Alice"), "name no users"),
        (("-n", "web@mystack"), "name no users"),
        (("-n", "alice,bob"), "name 2 users"),
        (("-n", "alice", "-V", "20200101:20200102"), "expired"),
        (("-n", "alice", "-V", "+1d:+2d"), "not valid yet"),
        (("-n", "alice", "-O", "source-address=192.0.2.0/24"), "from this address"),
        (("-n", "alice", "-O", "verify-required"), "no security key"),
        (("-n", "alice", "-O", "critical:nope@example.com=1"), None),
        (("-n", "alice", "-h"), None),
    ],
    ids=str,
)
def test_a_certificate_that_is_not_good_is_refused(
    authority: Authority, options: tuple[str, ...], why: str | None
) -> None:
    """It is denied like any unknown key; why stands in the log, when a trusted authority signed it."""
    authority.sign("bad", "-I", "bad one", *options)
    before = len(authority.bastion.events("certificate refused"))
    assert DENIED in authority.bastion.ssh("true", user="bad").stderr
    refused = authority.bastion.events("certificate refused")[before:]
    if why is None:
        assert not refused
    else:
        assert why in refused[-1]["reason"]
        assert refused[-1]["key_id"] == "bad one"


def test_an_unknown_authority_is_nobody(authority: Authority, tmp_path: Path) -> None:
    """A certificate of an authority that is not in ca/ is refused, and logs nothing."""
    Authority(authority.bastion, generate(tmp_path / "other")).sign("foreign", "-I", "x", "-n", "alice")
    before = len(authority.bastion.events("certificate refused"))
    assert DENIED in authority.bastion.ssh("true", user="foreign").stderr
    assert len(authority.bastion.events("certificate refused")) == before


@pytest.mark.parametrize(
    ("algorithm", "accepted"), [("rsa-sha2-256", True), ("rsa-sha2-512", True), ("ssh-rsa", False)]
)
def test_an_authoritys_signature_is_no_sha1(mine: Authority, algorithm: str, *, accepted: bool) -> None:
    """An RSA authority's certificates are taken with SHA-2 and refused with SHA-1."""
    rsa = generate(mine.bastion.folder / "rsa_ca", "-t", "rsa", "-b", "2048")
    signer = Authority(mine.bastion, rsa)
    signer.trust()
    signer.sign("sha", "-I", "x", "-n", "alice", "-t", algorithm)
    assert (mine.bastion.ssh("echo in", user="sha").stdout == b"in\n") is accepted


@pytest.mark.parametrize("kind", [("-t", "ecdsa", "-b", "256"), ("-t", "rsa", "-b", "2048")], ids=" ".join)
def test_every_kind_of_key_is_certified(authority: Authority, kind: tuple[str, ...]) -> None:
    """Certified ECDSA and RSA keys log in like Ed25519 ones."""
    authority.sign("kind", "-I", "x", "-n", "alice", key=kind)
    assert authority.bastion.ssh("echo in", user="kind").stdout == b"in\n"


@pytest.mark.parametrize("kind", [("-t", "ecdsa", "-b", "384"), ("-t", "rsa", "-b", "1024")], ids=" ".join)
def test_a_weak_certified_key_is_refused(authority: Authority, kind: tuple[str, ...]) -> None:
    """A certificate does not make a key strong."""
    authority.sign("weak", "-I", "x", "-n", "alice", key=kind)
    assert DENIED in authority.bastion.ssh("true", user="weak").stderr


def test_a_terminal_needs_its_extension(authority: Authority) -> None:
    """Without permit-pty there is no terminal, and commands run all the same."""
    authority.sign("nopty", "-I", "x", "-n", "alice", "-O", "no-pty")
    assert authority.bastion.ssh("echo in", user="nopty").stdout == b"in\n"
    refused = authority.bastion.ssh(user="nopty", options=["-tt"])
    assert b"PTY allocation request failed" in refused.stderr


def test_a_forced_command_runs_in_place_of_what_was_asked_for(authority: Authority) -> None:
    """Whatever is asked for, the certificate's command runs, and finds that in SSH_ORIGINAL_COMMAND."""
    force = 'echo "forced: $SSH_ORIGINAL_COMMAND"'
    authority.sign("forced", "-I", "x", "-n", "alice", "-O", f"force-command={force}")
    assert authority.bastion.ssh("id; echo 'a  b'", user="forced").stdout == b"forced: id; echo 'a  b'\n"
    assert authority.bastion.ssh(user="forced", input=b"id\n").stdout == b"forced: \n"
    assert authority.bastion.ssh("sftp", user="forced", options=["-s"]).stdout == b"forced: sftp\n"
    session = authority.bastion.last_uid()
    assert authority.bastion.read(session)[0]["command"] == force


def _revoke_by_id(authority: Authority, _key: Path) -> None:
    authority.bastion.cli("keys", "revoke", "--id", "ticket  42")


def _revoke_by_serial(authority: Authority, _key: Path) -> None:
    authority.bastion.cli("keys", "revoke", "--serial", "77", "--ca", fingerprint(authority.key))


def _revoke_by_key(authority: Authority, key: Path) -> None:
    authority.bastion.cli("keys", "revoke", fingerprint(key))


def _revoke_the_authority(authority: Authority, _key: Path) -> None:
    authority.bastion.cli("keys", "revoke", fingerprint(authority.key))


def _forget_the_authority(authority: Authority, _key: Path) -> None:
    (authority.bastion.keys / "ca" / "test.pub").unlink()


@pytest.mark.parametrize(
    ("revoke", "words"),
    [
        (_revoke_by_id, rb"the certificate was revoked"),
        (_revoke_by_serial, rb"the certificate was revoked"),
        (_revoke_by_key, rb"the certificate was revoked"),
        (_revoke_the_authority, rb"the certificate was revoked"),
        (_forget_the_authority, rb"the certificate's authority is not trusted"),
    ],
)
def test_a_revoked_certificate_ends_what_it_opened(mine: Authority, revoke: object, words: bytes) -> None:
    """By id, serial, key or authority: open shells and idle masters end within 5 s, and it opens nothing more."""
    key = mine.sign("certified", "-I", "ticket 42", "-n", "alice", "-z", "77")
    other = mine.sign("other", "-I", "ticket 43", "-n", "alice", "-z", "78")
    master = Master(mine.bastion, "certified")
    shell = mine.bastion.terminal(user="certified")
    shell.expect(PROMPT)
    assert callable(revoke)
    revoke(mine, key)
    shell.expect(rb"bastion: error: " + words, timeout=5)
    shell.expect(pexpect.EOF, timeout=5)
    master.ended(5)
    assert master.use().returncode == 255
    assert DENIED in mine.bastion.ssh("true", user="certified").stderr
    others_work = "authority" not in getattr(revoke, "__name__", "")
    assert other.exists()
    assert (mine.bastion.ssh("echo in", user="other").stdout == b"in\n") is others_work


def test_an_expired_certificate_ends_what_it_opened(mine: Authority) -> None:
    """A certificate that `keys issue` signs opens a shell until it expires, and ends it then."""
    bastion = mine.bastion
    bastion.cli("keys", "init", "--ca")
    time.sleep(KEY_HOME_SECONDS)
    output = bastion.folder / "short.key"
    bastion.cli(
        "keys", "issue", "alice", "--stack", "mystack", "--service", "web", "--certificate", "--expires", "10s",
        "--from", "127.0.0.1", "--output", str(output),
    )  # fmt: skip
    modes = [path.stat().st_mode & 0o777 for path in (output, Path(f"{output}-cert.pub"))]
    assert modes == [0o600, 0o644]
    shell = bastion.terminal(user="short", name="web")
    shell.expect(PROMPT)
    assert bastion.ssh("true", user="short", name="small@mystack").returncode == 252
    shell.expect(rb"bastion: error: the certificate expired", timeout=20)
    shell.expect(pexpect.EOF, timeout=5)
    assert DENIED in bastion.ssh("true", user="short").stderr
    (issued,) = ledger(bastion, "certificate issued")
    login = ledger(bastion, "login")[0]
    assert (issued["user"], issued["serial"]) == ("alice", login["serial"])
    assert re.fullmatch(r"alice web@mystack", login["key_id"])


def test_a_certificate_is_two_files(own: Bastion) -> None:
    """Without --output, without an authority or without a grant no certificate is made, and the words say so."""
    own.cli("keys", "init", "--ca")
    done = own.cli("keys", "issue", "alice", "--stack", "mystack", "--certificate", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "FILE-cert.pub" in done.stderr
    output = str(own.folder / "x")
    nobody = own.cli("keys", "issue", "nobody", "--stack", "mystack", "--certificate", "--output", output, check=False)
    assert nobody.returncode == 1
    assert "nobody holds no grant on *@mystack" in nobody.stderr
    for path in (own.keys / "ca").iterdir():
        path.unlink()
    without = own.cli("keys", "issue", "alice", "--stack", "mystack", "--certificate", "--output", output, check=False)
    assert without.returncode == 1
    assert "keys init --ca" in without.stderr
    assert not Path(output).exists()


def test_a_line_of_a_user_trusts_an_authority_for_that_user(mine: Authority) -> None:
    """`cert-authority` with `principals=` in users/NAME.pub counts for NAME and for those principals only."""
    team = Authority(mine.bastion, generate(mine.bastion.folder / "team_ca"))
    public = Path(f"{team.key}.pub").read_text().strip()
    users = mine.bastion.keys / "users"
    with (users / "alice.pub").open("a") as file:
        file.write(f'cert-authority,no-pty,principals="web-team,Ops" {public}\n')
    time.sleep(KEY_HOME_SECONDS)
    team.sign("member", "-I", "x", "-n", "Ops")
    team.sign("stranger", "-I", "x", "-n", "alice")
    assert mine.bastion.ssh("echo in", user="member").stdout == b"in\n"
    assert mine.bastion.events("login")[-1]["user"] == "alice"
    assert b"PTY allocation request failed" in mine.bastion.ssh(user="member", options=["-tt"]).stderr
    assert DENIED in mine.bastion.ssh("true", user="stranger").stderr
    states = {key["state"] for key in json.loads(mine.bastion.cli("keys", "list", "--json").stdout)["keys"]}
    assert states == {"good", "authority"}


def test_a_host_certificate_is_shown(own: Bastion, tmp_path: Path) -> None:
    """Clients that know the authority only accept the server, also by a certificate that came while it ran."""
    host_key = own.keys / "host" / "ssh_host_ed25519_key"
    ca = generate(tmp_path / "host_ca")
    public = Path(f"{ca}.pub").read_text().strip()

    def certify(host: str, *options: str) -> None:
        words = ["ssh-keygen", "-q", "-h", "-s", str(ca), "-I", "bastion", "-n", host, *options, f"{host_key}.pub"]
        subprocess.run(words, check=True, capture_output=True)

    certify("bastion.example.com")
    own.start()
    plain = own.known_hosts.read_text()
    own.known_hosts.write_text(f"@cert-authority * {public}\n")
    named = ["-o", "HostKeyAlias=bastion.example.com"]
    assert own.ssh("echo in", options=named).stdout == b"in\n"
    assert own.ssh("echo in", options=["-o", "HostKeyAlias=other.example.com"]).returncode == 255
    certify("other.example.com")
    assert wait(10, lambda: own.ssh("echo in", options=["-o", "HostKeyAlias=other.example.com"]).returncode == 0)
    assert own.ssh("echo in", options=named).returncode == 255
    Path(f"{host_key}-cert.pub").write_text("nonsense\n")
    assert wait(10, lambda: own.events("host certificates not taken over"))
    assert own.ssh("echo in", options=["-o", "HostKeyAlias=other.example.com"]).returncode == 0
    own.known_hosts.write_text(plain)
    assert own.ssh("echo in").stdout == b"in\n"


def test_a_wrong_host_certificate_keeps_the_server_from_starting(own: Bastion, tmp_path: Path) -> None:
    """A certificate for another key, or a user's, is named with what to do."""
    host_key = own.keys / "host" / "ssh_host_ed25519_key"
    ca, other = generate(tmp_path / "host_ca"), generate(tmp_path / "other")
    sign = ["ssh-keygen", "-q", "-s", str(ca), "-I", "x", "-n", "y"]
    subprocess.run([*sign, "-h", f"{other}.pub"], check=True, capture_output=True)
    beside = Path(f"{host_key}-cert.pub")
    beside.write_text(Path(f"{other}-cert.pub").read_text())
    assert "is for another key" in own.cli("serve", check=False).stderr
    beside.unlink()
    subprocess.run([*sign, f"{host_key}.pub"], check=True, capture_output=True)
    assert "is no host's" in own.cli("serve", check=False).stderr
