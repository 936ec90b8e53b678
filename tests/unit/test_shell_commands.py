"""The one place where command lines are assembled: a user's command stays one argument, byte for byte (threats C3)."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.errors import RuntimeFailed
from bastion.model import Name, Request
from bastion.runtimes import shell

PROGRAMS = {"bash": ["bash"], "dash": ["dash"], "sh": ["busybox", "sh"]}
PIECES = st.one_of(
    st.sampled_from(['"', "\\", "%s", "%%", "\\n", "$x", "`id`", "\n", "\n\n", ";", "&", ".", "é", "\0"]).map(
        str.encode
    ),
    st.binary(max_size=6),
)


def arguments(chosen: str, command: bytes) -> tuple[str, ...]:
    """Return the command line of a session in a container whose shell is `chosen`."""
    return shell.command_line(
        chosen, Request("u" * 16, Name("web"), "exec", command.decode("utf-8", "surrogateescape"))
    )


def shown(chosen: str, command: bytes) -> bytes:
    """Run the command line by a shell of this machine; return what the command printed."""
    line = arguments(chosen, command)
    assert line[0] == chosen
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*PROGRAMS[chosen], *line[1:]], capture_output=True, check=True, env=environment)
    assert done.stderr == b""
    return done.stdout


@pytest.mark.parametrize("chosen", PROGRAMS)
@settings(deadline=None, max_examples=25)
@given(pieces=st.lists(PIECES, max_size=12))
def test_C3_the_shell_sees_the_same_bytes(chosen: str, pieces: list[bytes]) -> None:
    """Whatever a command holds, its shell's own arguments are `-c` and exactly that; a NUL is refused."""
    payload = b"".join(pieces).replace(b"'", b"")
    command = b"cat /proc/$$/cmdline; : '" + payload + b"'\n\n"
    if b"\0" in payload:
        with pytest.raises(RuntimeFailed, match="NUL"):
            arguments(chosen, command)
        return
    assert shown(chosen, command).endswith(b"-c\0" + command + b"\0")


@pytest.mark.parametrize("chosen", PROGRAMS)
def test_C3_every_byte_and_the_longest_command(chosen: str) -> None:
    """Every byte that a command may hold comes through, and so do 128 KiB less one of them."""
    begin, every = b"cat /proc/$$/cmdline; : '", bytes(byte for byte in range(1, 256) if byte != ord("'"))
    command = begin + (every * 600)[: shell.MAX_ARGUMENT - len(begin) - 1] + b"'"
    assert len(command) == shell.MAX_ARGUMENT
    assert shown(chosen, command).endswith(b"-c\0" + command + b"\0")
    with pytest.raises(RuntimeFailed, match="131071 is the most"):
        arguments(chosen, command + b" ")


def test_C3_a_command_that_is_text_is_handed_over_as_it_is() -> None:
    """Nothing of ours stands before a command that engines can take; another shell than a Bourne shell gets it too."""
    assert arguments("fish", "echo é; id".encode()) == ("fish", "-c", "echo é; id")
    assert arguments("fish", b"echo \xe9")[:2] == ("sh", "-c")
    assert arguments("fish", b"echo \xe9")[3:] == ("fish", "echo \\351")


def test_C3_a_shell_that_cannot_rebuild_a_command_runs_nothing() -> None:
    """Where printf fails the command is not run in part, and the status is the bastion's own."""
    line = arguments("dash", b"echo ran; : \xe9")
    broken = ["dash", "-c", f"printf() {{ return 1; }}\n{line[2]}", *line[3:]]
    done = subprocess.run(broken, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.startswith(b"bastion: error: ")
