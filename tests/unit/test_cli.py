"""The command line as a process: what stands on which stream, in which form, and with which exit status."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bastion.cli.check import look_at_engine
from bastion.errors import RuntimeFailed
from tests.cluster import Cluster
from tests.unit.memory_runtime import MemoryRuntime


class Cli:
    """Runs commands of bastion's in a folder with a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configure()

    def configure(self, more: str = "") -> None:
        text = f'[api]\nlisten = "unix:{self.folder}/api.sock"\n[docker]\nhost = "unix://{self.folder}/none.sock"\n'
        (self.folder / "bastion.toml").write_text(text + more)

    def __call__(self, *words: str, status: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BASTION_")}
        command = [sys.executable, "-m", "bastion", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, env=kept | environment, timeout=60
        )
        assert done.returncode == status, done.stderr
        return done

    def ledger(self) -> list[dict[str, object]]:
        lines = (self.folder / "transcripts" / "ledger.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def home(cli: Cli) -> Cli:
    cli.configure('[[grants]]\nusers = ["alice"]\nstacks = ["mystack"]\n')
    cli("keys", "init")
    return cli


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("bastion: error: ")]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nope",),
        ("serve", "--nope"),
        ("keys",),
        ("keys", "issue"),
        ("sessions", "end", "x"),
        ("demo", "--port", "x"),
    ],
)
def test_wrong_usage_is_two_lines_and_status_2(cli: Cli, words: Sequence[str]) -> None:
    """Whatever is wrong with the words, stderr has one error and one hint in our form, and stdout nothing."""
    done = cli(*words, status=2)
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("bastion: error: ")
    assert hint.startswith("bastion: hint: bastion")
    assert not error.endswith(".")


def test_help_and_version_are_data(cli: Cli) -> None:
    """What was asked for stands on stdout, and the status is 0."""
    for command in ("serve", "check", "demo", "ssh-config", "keys", "sessions", "transcripts"):
        assert command in cli("--help").stdout
    assert cli("--version").stdout.startswith("bastion ")


def test_help_imports_nothing_dear() -> None:
    """The words of help cost none of the libraries that the server needs."""
    program = (
        "import sys\nfrom bastion.cli import run\nrun(['--help'])\n"
        "dear = {'pydantic', 'structlog', 'asyncssh', 'cryptography', 'docker', 'fastapi', 'httpx', 'rich'}\n"
        "sys.exit(', '.join(dear & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_configuration_is_found_where_it_is_said_to_be(cli: Cli, tmp_path: Path) -> None:
    """--config wins over $BASTION_CONFIG, which wins over ./bastion.toml; a missing one is an error with a hint."""
    (tmp_path / "a.toml").write_text("a = 1")
    (tmp_path / "b.toml").write_text("b = 1")
    (tmp_path / "bastion.toml").write_text("c = 1")
    assert "a.toml: a: " in cli("keys", "list", "--config", "a.toml", status=1, BASTION_CONFIG="b.toml").stderr
    assert "b.toml: b: " in cli("keys", "list", status=1, BASTION_CONFIG="b.toml").stderr
    assert "bastion.toml: c: " in cli("keys", "list", status=1).stderr
    assert "no configuration file at none.toml" in cli("keys", "list", "--config", "none.toml", status=1).stderr


def test_an_unknown_failure_shows_no_traceback_unless_asked(cli: Cli, tmp_path: Path) -> None:
    """What nobody foresaw is an internal error in one line; BASTION_DEBUG=1 shows where."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "httpx.py").write_text("raise ZeroDivisionError('CANARY')")
    done = cli("sessions", "list", status=1, PYTHONPATH=str(broken))
    assert errors(done.stderr) == ["bastion: error: internal error"]
    assert "CANARY" not in done.stderr
    assert "CANARY" in cli("sessions", "list", status=1, PYTHONPATH=str(broken), BASTION_DEBUG="1").stderr


def test_a_key_is_issued_once_and_stands_in_the_ledger(home: Cli) -> None:
    """The private half is a 0600 file that ssh-keygen reads; the public half is listed, and is in the ledger."""
    home("keys", "issue", "alice", "--stack", "mystack", "--service", "web", "--expires", "90d", "--output", "key")
    key = home.folder / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=True).stdout
    (listed,) = json.loads(home("keys", "list", "--json").stdout)["keys"]
    assert listed["fingerprint"] in public
    assert (listed["user"], listed["stack"], listed["service"], listed["state"]) == ("alice", "mystack", "web", "good")
    (entry,) = home.ledger()
    assert (entry["event"], entry["key_fingerprint"]) == ("key issued", listed["fingerprint"])

    done = home("keys", "issue", "alice", "--output", "key", status=1)
    assert "is not overwritten" in done.stderr
    assert len(json.loads(home("keys", "list", "--json").stdout)["keys"]) == 1


def test_a_key_goes_to_standard_output_alone(home: Cli) -> None:
    """Without --output stdout is the private key, whole, and nothing else."""
    done = home("keys", "issue", "alice")
    assert done.stdout.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert done.stdout.endswith("-----END OPENSSH PRIVATE KEY-----\n")


def test_a_key_whose_ledger_line_cannot_be_written_opens_nothing(home: Cli) -> None:
    """When the change cannot be recorded, it is taken back, and no private half is given."""
    (home.folder / "transcripts").write_text("in the way")
    done = home("keys", "issue", "alice", "--output", "key", status=1)
    assert errors(done.stderr)
    assert not (home.folder / "key").exists()
    assert all(key["state"] != "good" for key in json.loads(home("keys", "list", "--json").stdout)["keys"])


def test_a_key_is_added_and_revoked(home: Cli) -> None:
    """A public key of the user's own is added from its file, and revoked by its user's name; both are in the ledger."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home.folder / "own")], check=True)
    home("keys", "add", "bob", "own.pub")
    assert "bob" in home("keys", "list").stdout
    home("keys", "revoke", "bob")
    assert "bob" not in home("keys", "list").stdout
    assert [entry["event"] for entry in home.ledger()] == ["key added", "key revoked"]
    assert "was revoked" in home("keys", "add", "bob", "own.pub", status=1).stderr


@pytest.mark.parametrize("expires", ["90", "-1d", "soon", "1e9d", "99999999999d"])
def test_a_time_that_is_none_is_refused(home: Cli, expires: str) -> None:
    """A lifetime without a unit, or that no calendar holds, makes no key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BASTION_")}
    command = [sys.executable, "-m", "bastion", "keys", "issue", "alice", f"--expires={expires}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.folder, env=kept)
    assert done.returncode in (1, 2)
    assert len(errors(done.stderr)) == 1
    assert done.stdout == ""
    assert json.loads(home("keys", "list", "--json").stdout)["keys"] == []


def test_check_names_everything_that_is_wrong_in_one_pass(cli: Cli) -> None:
    """Key home, auditors, grants and engine are each an error with a hint; what is fine is on stdout."""
    done = cli("check", status=1)
    parts = [line.split(": ")[2] for line in errors(done.stderr)]
    assert parts == ["grants", "key home", "auditors", "engine"]
    assert done.stderr.count("bastion: hint: ") == 4
    assert "transcripts" in done.stdout
    found = json.loads(cli("check", "--json", status=1).stdout)
    assert [one["part"] for one in found["findings"] if not one["right"]] == parts


def test_check_warns_of_patterns_that_give_more_than_they_seem_to(home: Cli) -> None:
    """A pattern over a program that starts others is a warning with a hint, and no finding that is wrong."""
    config = home.folder / "bastion.toml"
    text = '[[grants]]\nusers = ["bob"]\nstacks = ["s"]\nallow = ["exec"]\ncommand = ["tar *", "uptime"]\n'
    config.write_text(config.read_text() + text)
    lines = home("check", status=1).stderr.splitlines()
    (at,) = [place for place, line in enumerate(lines) if line.startswith("bastion: warning: ")]
    words = 'allows the command "tar *": the caller chooses arguments of tar, which starts other programs'
    assert lines[at].startswith("bastion: warning: grants: grants[")
    assert lines[at].endswith(words)
    assert lines[at + 1].startswith("bastion: hint: write its arguments out")


async def test_check_names_what_keeps_sessions_from_working() -> None:
    """An engine that answers is fine; each right that it lacks is an error of its own, with its hint."""
    runtime = MemoryRuntime([])
    assert [(one.right, one.words) for one in await look_at_engine(runtime)] == [(True, "memory 1")]
    runtime.faulty = [RuntimeFailed("the bastion may not create pods/exec", "apply the Role"), RuntimeFailed("two")]
    found = await look_at_engine(runtime)
    assert [(one.part, one.right, one.words, one.hint) for one in found] == [
        ("engine", True, "memory 1", ""),
        ("engine", False, "the bastion may not create pods/exec", "apply the Role"),
        ("engine", False, "two", ""),
    ]
    runtime.answers = False
    assert [(one.right, one.words) for one in await look_at_engine(runtime)] == [(False, "the engine does not answer")]


def test_check_names_a_cluster_that_cannot_be_reached(home: Cli) -> None:
    """A kubeconfig that is not there is one error of the engine's, with a hint, and no traceback."""
    home.configure('[kubernetes]\nkubeconfig = "none.yaml"\n[[stacks]]\nname = "a"\nruntime = "kubernetes"\n')
    found = json.loads(home("check", "--json", status=1).stdout)["findings"]
    (fault,) = [one for one in found if one["part"] == "engine" and "none.yaml" in one["words"]]
    assert not fault["right"]
    assert fault["hint"]


@pytest.mark.kubernetes
def test_check_names_the_right_that_is_missing(home: Cli, cluster: Cluster) -> None:
    """Against a Role without `create` on pods/exec, check names exactly that, in its namespace, and fails."""
    home.configure(
        f'[kubernetes]\nkubeconfig = "{cluster.kubeconfig}"\n[[stacks]]\nname = "mystack"\nruntime = "kubernetes"\n'
        f'namespace = "{cluster.namespace}"\n'
    )

    def engine() -> list[tuple[bool, str, str]]:
        found = json.loads(home("check", "--json", status=1).stdout)["findings"]
        return [(one["right"], one["words"], one["hint"]) for one in found if "ubernetes" in str(one) + one["hint"]]

    before = engine()
    assert [right for right, _, _ in before] == [True]
    assert before[0][1].startswith("Kubernetes v1.")
    cluster.switch(forbid=[("create", "pods/exec")])
    try:
        (_, fault) = engine()
    finally:
        cluster.switch()
    right, words, hint = fault
    assert (right, words) == (False, f"in the namespace {cluster.namespace} the bastion may not create pods/exec")
    assert "examples/kubernetes" in hint


def test_check_of_a_docker_only_bastion_loads_no_client_of_clusters(home: Cli) -> None:
    """Neither the SDK of Kubernetes nor aiohttp is imported where no cluster is configured."""
    program = (
        "import sys\nfrom bastion.cli import run\n"
        "try:\n    run(['check'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(', '.join({'kubernetes', 'aiohttp'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=home.folder)
    assert "engine: " in done.stderr
    assert done.returncode == 0, done.stderr


def test_check_names_a_key_that_others_can_read(home: Cli) -> None:
    """A host key with a wrong mode is named with the command that mends it."""
    key = home.folder / "keys" / "host" / "ssh_host_ed25519_key"
    key.chmod(0o644)
    done = home("check", status=1)
    assert f"{key}: " in done.stderr
    assert f"chmod 600 {key}" in done.stderr


def test_sessions_without_a_server_say_so(cli: Cli) -> None:
    """When nothing answers on the socket, the error names it and the hint says how to start a server."""
    done = cli("sessions", "list", status=1)
    assert str(cli.folder / "api.sock") in done.stderr
    assert "bastion serve" in done.stderr


def test_a_configuration_that_names_local_processes_is_refused(cli: Cli) -> None:
    """The demo's runtime cannot be served."""
    cli.configure('[[stacks]]\nname = "x"\nruntime = "process"\n')
    assert "stacks[0].runtime" in cli("serve", status=1).stderr


def test_ssh_config_is_what_openssh_reads(home: Cli) -> None:
    """The real client resolves web@mystack.bastion to the server, the stack, the pinned key and a socket of its own."""
    home.configure(
        '[[stacks]]\nname = "mystack"\n[[stacks]]\nname = "other"\n[[grants]]\nusers = ["a"]\nstacks = ["third"]\n'
    )
    printed = home("ssh-config", "--host", "bastion.example.com", "--port", "2200", "--identity", "~/.ssh/my key")
    config = home.folder / "config"
    config.write_text(printed.stdout)

    def resolved(name: str) -> dict[str, str]:
        done = subprocess.run(["ssh", "-G", "-F", str(config), name], capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    mine, other, third = (resolved(f"web@{stack}.bastion") for stack in ("mystack", "other", "third"))
    assert (mine["hostname"], mine["port"], mine["user"]) == ("bastion.example.com", "2200", "web")
    assert (mine["setenv"], other["setenv"], third["setenv"]) == (
        "BASTION_STACK=mystack",
        "BASTION_STACK=other",
        "BASTION_STACK=third",
    )
    assert mine["hostkeyalias"] == "bastion"
    assert mine["identityfile"] == "~/.ssh/my key"
    assert mine["controlpath"] != other["controlpath"]
    assert resolved("web@mystack@bastion")["user"] == "web@mystack"

    pinned = home("ssh-config", "--known-hosts").stdout
    (home.folder / "known_hosts").write_text(pinned)
    found = subprocess.run(["ssh-keygen", "-F", "bastion", "-f", str(home.folder / "known_hosts")], check=False)
    assert found.returncode == 0


def test_ssh_config_does_not_guess_an_address(home: Cli) -> None:
    """A server that listens everywhere has no one address: the option is asked for."""
    home.configure('[ssh]\nlisten = ["0.0.0.0:2222"]\n')
    assert "--host" in home("ssh-config", "--stack", "x", status=1).stderr


@pytest.mark.parametrize(
    "option", [("--stack", "x\n  ProxyCommand evil"), ("--host", "-oProxyCommand=x"), ("--domain", "*")]
)
def test_ssh_config_takes_names_only(home: Cli, option: tuple[str, str]) -> None:
    """Nothing that could be another line or an option gets into the configuration."""
    done = home("ssh-config", *option, status=2)
    assert done.stdout == ""


def test_an_empty_folder_has_no_transcripts(home: Cli) -> None:
    """Listing nothing is no error; asking for one that is not there is, and escapes what was asked for."""
    assert json.loads(home("transcripts", "list", "--json").stdout) == {"transcripts": []}
    for uid in ("last", "0123456789abcdef", "../../etc/passwd", "\x1b[2J"):
        done = home("transcripts", "export", uid, "--identity", "none.key", status=1)
        assert len(errors(done.stderr)) == 1
        assert "\x1b" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback(home: Cli) -> None:
    """When nobody reads standard output any more, the command fails and says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bastion", "keys", "list", "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, cwd=home.folder)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
