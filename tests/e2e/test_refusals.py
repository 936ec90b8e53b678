"""What is refused is refused in words, with the design's exit status, and nothing was started."""

import subprocess
import time
from pathlib import Path

import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion

SAME_FOR_EVERYBODY = b"Permission denied (publickey)"


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("web@nosuch", 251, b"mystack"),
        ("nosuch@mystack", 251, b"web"),
        ("web.2@mystack", 251, b"1"),
        ("mystack@web", 251, b"did you mean web@mystack?"),
        ("web+nosuch@mystack", 251, b"nosuch"),
        ("host@mystack", 252, b"pid namespace"),
        ("socket@mystack", 252, b"Docker socket"),
    ],
)
def test_names_that_cannot_be_entered(bastion: Bastion, name: str, status: int, words: bytes) -> None:
    """Each has one line with the session's uid, one with what to do, and its exit status."""
    done = bastion.ssh("true", name=name)
    assert done.returncode == status, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith(b"bastion: error: ")
    assert b"(session " in first
    assert second.startswith(b"bastion: hint: ")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("mystack", b"mystack is a stack: name a service of it too, such as "), ("root", b"services of mystack: ")],
)
def test_a_name_without_a_stack_is_of_the_only_one(own: Bastion, name: str, words: bytes) -> None:
    """Who may enter one stack names it without saying so; the hint says what of it there is."""
    own.config.write_text(own.config.read_text().replace('stacks = ["*"]', 'stacks = ["mystack"]'))
    done = own.start().ssh("true", name=name)
    assert done.returncode == 251, done.stderr
    assert words in done.stderr


def test_a_container_without_a_shell_says_so(bastion: Bastion) -> None:
    """A shell in an image that has none is refused with 255 and words that name what is missing."""
    done = bastion.ssh("true", name="bare@mystack")
    assert done.returncode == 255
    assert b"shell" in done.stderr
    assert b"bastion: hint: " in done.stderr


def test_a_subsystem_is_refused_in_words(bastion: Bastion) -> None:
    """`ssh -s name sftp` fails with a hint, not with silence."""
    done = bastion.ssh("sftp", options=["-s"])
    assert done.returncode == 252
    assert b"bastion: hint: " in done.stderr


def test_the_stack_is_found_without_naming_it(bastion: Bastion) -> None:
    """`ssh web` reaches the stack sent with SetEnv BASTION_STACK."""
    done = bastion.ssh("echo here", name="web", options=["-o", "SetEnv=BASTION_STACK=mystack"])
    assert (done.stdout, done.returncode) == (b"here\n", 0)


def test_a_replica_by_its_number(bastion: Bastion) -> None:
    """`web.1` is the first container of web by name, where neither Compose nor Swarm numbers it."""
    assert bastion.ssh("echo one", name="web.1@mystack").stdout == b"one\n"


def test_a_container_by_its_own_name(bastion: Bastion) -> None:
    """The exact name of a container of the stack is a service too."""
    assert bastion.ssh("echo named", name="mystack-small-1@mystack").stdout == b"named\n"


def test_grants_are_obeyed(place: Place, tmp_path: Path) -> None:
    """Who has no grant for a service, or not for a shell, is refused with 252 and told what is allowed."""
    grants = '[[grants]]\nusers = ["alice"]\nstacks = ["mystack"]\nservices = ["small"]\nallow = ["exec"]\n'
    server = Bastion(tmp_path / "b", place.sections, grants=grants).start()
    try:
        assert server.ssh("true", name="small@mystack").returncode == 0
        refused = server.ssh("true", name="web@mystack")
        assert (refused.returncode, refused.stdout) == (252, b"")
        shell = server.terminal(name="small@mystack")
        shell.expect(rb"bastion: error: ")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 252
        assert not list(server.transcripts.rglob("*.wal"))
    finally:
        server.stop()


def test_before_authentication_everybody_gets_the_same_words(bastion: Bastion, tmp_path: Path) -> None:
    """An unknown key, a bad name and a nosuch stack with a foreign key are answered alike."""
    key = tmp_path / "alice.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    answers = set()
    for name in ("web@mystack", "web@nosuch", "nosuch", "a@b@c", "../x@y", "web+a+b@s"):
        command = [
            word.replace(str(bastion.folder / "alice.key"), str(key)) for word in bastion.command("true", name="NAME")
        ]
        command[-2] = f"{name}@127.0.0.1"
        done = subprocess.run([*command[:-2], "-l", name, "127.0.0.1", "true"], capture_output=True, check=False)
        assert done.returncode == 255
        assert SAME_FOR_EVERYBODY in done.stderr
        answers.add(done.stderr.replace(name.encode(), b"NAME"))
    assert len(answers) == 1


@pytest.mark.parametrize("kind", [("rsa", "1024"), ("dsa", "1024"), ("ecdsa", "521")], ids="-".join)
def test_weak_keys_are_no_keys(bastion: Bastion, tmp_path: Path, kind: tuple[str, str]) -> None:
    """A key of a type or size that is not allowed does not log in, though it is in the key home."""
    key = tmp_path / "weak"
    made = subprocess.run(["ssh-keygen", "-q", "-t", kind[0], "-b", kind[1], "-N", "", "-f", str(key)], check=False)
    if made.returncode != 0:
        pytest.skip(f"this ssh-keygen makes no {kind[0]} key of {kind[1]} bits")
    seen = len(bastion.events("key home"))
    (bastion.keys / "users" / "weak.pub").write_text(Path(f"{key}.pub").read_text())
    try:
        until = time.monotonic() + 20
        while not any("weak.pub" in line["problem"] for line in bastion.events("key home")[seen:]):
            assert time.monotonic() < until
            time.sleep(0.1)
        done = subprocess.run(
            [*bastion.command(user="weak", options=["-i", str(key)]), "true"], capture_output=True, check=False
        )
        assert done.returncode == 255
        assert SAME_FOR_EVERYBODY in done.stderr
    finally:
        (bastion.keys / "users" / "weak.pub").unlink()


def test_a_revoked_key_ends_its_connections_and_opens_none(own: Bastion) -> None:
    """Within 5 s of `keys revoke` the open shell ends with its reason, its ControlMaster too, and no login works."""
    own.start()
    key = own.add("bob")
    own.config.write_text(own.config.read_text())
    control = str(own.folder / "control")
    shell = own.terminal(user="alice", options=["-M", "-S", control])
    shell.expect(rb"[#$] ")
    own.cli("keys", "revoke", "alice")
    shell.expect(rb"bastion: error: .*revoked", timeout=5)
    shell.expect(pexpect.EOF, timeout=5)
    assert own.ssh("true", options=["-S", control]).returncode == 255
    assert SAME_FOR_EVERYBODY in own.ssh("true").stderr
    assert key.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[sssh]\n", "sssh"),
        ("[[grants]]\nusers = 1\n", "grants[1].users"),
        ("[ssh\n", "line"),
        ('[[stacks]]\nname = "x"\nruntime = "process"\n', "stacks[0].runtime"),
    ],
)
def test_a_bad_configuration_is_named_by_its_path(own: Bastion, change: str, words: str) -> None:
    """`serve` exits 1 with one line that names the key, and starts nothing."""
    own.config.write_text(own.config.read_text() + change)
    done = own.cli("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("bastion: error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_world_readable_host_key_is_refused(own: Bastion) -> None:
    """`serve` and `check` name the file and the command that mends it."""
    key = own.keys / "host" / "ssh_host_ed25519_key"
    key.chmod(0o644)
    for command in ("serve", "check"):
        done = own.cli(command, check=False)
        assert done.returncode == 1
        assert str(key) in done.stderr
        assert "chmod" in done.stderr


def test_an_engine_that_is_down_is_named(tmp_path: Path) -> None:
    """Without an engine the bastion serves, `check` names it, and a session is refused with 255."""
    server = Bastion(tmp_path / "b", f'[docker]\nhost = "unix://{tmp_path}/none.sock"\n').start()
    try:
        done = server.ssh("true")
        assert done.returncode == 255
        assert b"bastion: error: " in done.stderr
        assert b"bastion: hint: " in done.stderr
        checked = server.cli("check", check=False)
        assert checked.returncode == 1
        assert "none.sock" in checked.stderr
    finally:
        server.stop()
