"""`ssh name command`: the command whole, its streams apart, its status kept (RFC 4254 §6.5, §6.10)."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.server import Bastion

pytestmark = pytest.mark.everywhere


def test_streams_and_status_are_kept_apart(bastion: Bastion, service: str) -> None:
    """Standard output, standard error and the exit status arrive each on its own."""
    done = bastion.ssh("echo out; echo err >&2; exit 7", name=f"{service}@mystack")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


@pytest.mark.half_close
def test_input_end_is_forwarded(bastion: Bastion, service: str) -> None:
    """`printf … | ssh name sort` ends: the end of input reaches the program and its output comes back."""
    done = bastion.ssh("sort", name=f"{service}@mystack", input=b"b\na\n")
    assert (done.stdout, done.returncode) == (b"a\nb\n", 0)


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 128, 143, 254, 255])
def test_every_status_is_the_commands_own(bastion: Bastion, status: int) -> None:
    """The client exits with what the command exited with."""
    assert bastion.ssh(f"exit {status}").returncode == status


def test_killed_by_a_signal(bastion: Bastion) -> None:
    """A command that a signal ends is 128 + its number."""
    assert bastion.ssh("kill -TERM $$").returncode == 128 + 15


AWKWARD = [
    "printf %s \"a  b\" 'c;d' e\\|f",
    "printf '%s\\n' 'line one\nline two' | cat",
    'for i in 1 2 3; do echo "$i"; done | tac',
    'echo $((6*7)) && false || echo "no\'quote"',
    "printf %s '$HOME `id` $(id) \\ \" é 漢 \t'",
    "cat <<'END'\n  indented 'quoted' $x\nEND",
]


@pytest.mark.parametrize("command", AWKWARD)
def test_the_command_is_handed_whole_to_the_shell(bastion: Bastion, command: str) -> None:
    """Quotes, pipes, newlines and substitutions mean what they mean to a shell."""
    expected = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    done = bastion.ssh(command)
    assert (done.stdout, done.returncode) == (expected.stdout, expected.returncode)


def test_a_command_of_100_kib(bastion: Bastion) -> None:
    """A command of 100 KiB arrives whole."""
    done = bastion.ssh("printf %s '" + "x" * 102400 + "' | wc -c")
    assert done.stdout.strip() == b"102400"


def test_a_command_too_long_for_the_kernel_is_refused_in_words(bastion: Bastion) -> None:
    """What Linux takes as no single argument is refused, and never run in part."""
    name, middle = "x" * 70000, "y" * 70000  # our own kernel bounds the client's arguments alike
    done = bastion.ssh(f"echo '{name}", f"{middle}'")
    assert done.returncode == 255
    assert done.stdout == b""
    assert b"bastion: error: " in done.stderr


@pytest.mark.half_close
def test_a_script_on_standard_input(bastion: Bastion, service: str) -> None:
    """`ssh -T name < script` runs the script in the container's shell."""
    done = bastion.ssh(name=f"{service}@mystack", options=["-T"], input=b"echo one\necho two >&2\nexit 5\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"one\n", b"two\n", 5)


def test_a_command_that_runs_on_after_its_input_ended(bastion: Bastion) -> None:
    """`ssh -n name 'sleep …; exit 3'` gives 3."""
    assert bastion.ssh("sleep 3; exit 3", options=["-n"]).returncode == 3


def test_a_fast_command_without_input_loses_no_output(bastion: Bastion) -> None:
    """Output of a command that ends at once is complete, time after time."""
    for _ in range(10):
        assert bastion.ssh("seq 5000").stdout == b"".join(b"%d\n" % n for n in range(1, 5001))


def test_a_program_that_stops_reading_is_no_error(bastion: Bastion) -> None:
    """`… | ssh name 'head -c 3'` gives three bytes and 0, whatever is left of the input."""
    done = bastion.ssh("head -c 3", input=b"abc" + b"x" * 8_000_000)
    assert (done.stdout, done.returncode) == (b"abc", 0)


def test_command_not_found_is_on_standard_error(bastion: Bastion, service: str) -> None:
    """An unknown command is 127, and the words about it are not on standard output."""
    done = bastion.ssh("no-such-program", name=f"{service}@mystack")
    assert (done.stdout, done.returncode) == (b"", 127)
    assert b"not found" in done.stderr


def test_C4_only_harmless_variables_reach_the_program(bastion: Bastion) -> None:
    """LANG, LC_*, COLORTERM and BASTION_* pass; what changes how programs run, and the session's own mark, does not."""
    bad = ["LD_PRELOAD", "BASH_ENV", "ENV", "PATH", "PYTHONPATH", "IFS", "PS4", "HOME", "SHELLOPTS", "PROMPT_COMMAND"]
    bad += ["LD_LIBRARY_PATH", "PERL5OPT"]
    values = [*(f"{name}=evil" for name in bad), "BASTION_SESSION=evil", "LC_TIME=fine", "BASTION_NOTE=fine"]
    done = bastion.ssh("env", options=["-o", "SetEnv=" + " ".join(values)])
    assert done.returncode == 0
    assert b"evil" not in done.stdout
    assert b"LC_TIME=fine\n" in done.stdout
    assert b"BASTION_NOTE=fine\n" in done.stdout


def test_no_notice_without_a_terminal(bastion: Bastion) -> None:
    """Nothing of the bastion's own is on standard error of a command that works."""
    assert bastion.ssh("true").stderr == b""


def test_plain_names_work_with_the_printed_configuration(bastion: Bastion, tmp_path: Path) -> None:
    """With what `bastion ssh-config` prints, `ssh web@mystack.bastion` is all one types; the host key is checked."""
    options = ["--port", str(bastion.port), "--identity", str(bastion.folder / "alice.key")]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(bastion.cli("ssh-config", *options, "--known-hosts").stdout)
    file = tmp_path / "config"
    file.write_text(f"UserKnownHostsFile {known_hosts}\n" + bastion.cli("ssh-config", *options).stdout)
    command = ["ssh", "-F", str(file), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "web@mystack.bastion"]
    done = subprocess.run([*command, "echo hello"], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"hello\n", 0), done.stderr
