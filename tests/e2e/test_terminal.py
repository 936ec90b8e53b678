"""A shell on a terminal, typed at through the real `ssh` (RFC 4254 §6.2, §6.7, §6.9)."""

import re
import subprocess
import time
from pathlib import Path

import asyncssh
import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion

pytestmark = pytest.mark.everywhere

PROMPT = rb"[#$] "
RUN = b"sh -c 'echo runs-$((1+1)); exec sleep 1000'"
RUNS = rb"runs-2"


def test_notice_term_and_exit_status(bastion: Bastion, place: Place) -> None:
    """A shell says first that it is recorded, its uid and its container; TERM is the client's; its status is kept."""
    shell = bastion.terminal()
    shell.expect(rb"bastion: session ([0-9a-f]{16}) in %s(\+web)? is recorded" % place.replica("web").encode())
    shell.expect(PROMPT)
    shell.sendline(b"echo term=$TERM; exit 9")
    shell.expect(b"term=xterm-256color")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 9


def test_size_before_and_after_a_resize(bastion: Bastion, service: str) -> None:
    """`stty size` follows the client's window."""
    shell = bastion.terminal(name=f"{service}@mystack", size=(31, 97))
    shell.expect(PROMPT)
    shell.sendline(b"stty size")
    shell.expect(rb"31 97\r\n")
    shell.setwinsize(43, 121)
    _until_size(shell, rb"43 121\r\n")
    shell.sendline(b"exit")
    shell.expect(pexpect.EOF)


def _until_size(shell: "pexpect.spawn[bytes]", wanted: bytes) -> None:
    for _ in range(20):
        shell.sendline(b"stty size")
        if shell.expect([wanted, rb"\d+ \d+\r\n"]) == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"the size never became {wanted!r}")


def test_control_keys_reach_the_program(bastion: Bastion) -> None:
    """Ctrl-C interrupts, Ctrl-P arrives at once and Ctrl-P Ctrl-Q detaches nothing, Ctrl-Z stops a job."""
    shell = bastion.terminal(name="web@mystack")
    shell.expect(PROMPT)
    shell.sendline(RUN)
    shell.expect(RUNS)
    shell.send(b"\x03")
    shell.expect(PROMPT)
    for keys in (b"\x10", b"\x10\x11"):
        shell.sendline(b"stty raw -echo; echo READY; head -c %d | od -An -tx1; stty sane" % len(keys))
        shell.expect(rb"[\r\n]READY\r?\n")
        shell.send(keys)
        shell.expect(b"10" if len(keys) == 1 else b"10 11")
        shell.expect(PROMPT)
    shell.sendline(RUN)
    shell.expect(RUNS)
    shell.send(b"\x1a")
    shell.expect(rb"Stopped")
    shell.expect(PROMPT)
    shell.sendline(b"fg")
    shell.expect(rb"exec sleep 1000")  # the shell says what goes on before it does
    for _ in range(20):
        shell.send(b"\x03")
        if shell.expect([PROMPT, pexpect.TIMEOUT], timeout=1) == 0:
            break
    shell.sendline(b"exit 4")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 4


async def test_a_signal_of_the_client_reaches_the_program(bastion: Bastion) -> None:
    """A `signal` request is delivered to the command's process group."""
    async with asyncssh.connect(
        "127.0.0.1", bastion.port, username="web@mystack", known_hosts=str(bastion.known_hosts), config=None,
        client_keys=[str(bastion.folder / "alice.key")], agent_path=None,
    ) as connection:  # fmt: skip
        process = await connection.create_process(
            "trap 'echo caught; exit 6' USR1; echo ready; while :; do sleep 0.1; done"
        )
        assert await process.stdout.readline() == "ready\n"
        process.send_signal("USR1")
        done = await process.wait(timeout=20)
        assert (done.stdout, done.exit_status) == ("caught\n", 6)


def test_no_terminal_for_a_command_unless_asked(bastion: Bastion) -> None:
    """A command has no terminal without -t, and one with it."""
    assert bastion.ssh("test -t 0 || test -t 1 || echo none").stdout == b"none\n"
    shell = bastion.terminal("test -t 0 && test -t 1 && echo both")
    shell.expect(b"both")
    shell.expect(pexpect.EOF)


def test_sessions_of_one_connection_keep_their_own_sizes(bastion: Bastion, tmp_path: Path) -> None:
    """Two terminals over one ControlMaster each see their own width after their own resize."""
    control = tmp_path / "control"
    master = subprocess.Popen(
        bastion.command(options=["-M", "-N", "-S", str(control)]), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while not control.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        shells = [bastion.terminal(options=["-S", str(control)], size=(24, 80)) for _ in range(2)]
        for shell in shells:
            shell.expect(PROMPT)
        for shell, columns in zip(shells, (101, 66), strict=True):
            shell.setwinsize(30, columns)
        for shell, columns in zip(shells, (101, 66), strict=True):
            _until_size(shell, b"30 %d\r\n" % columns)
            shell.sendline(b"tput cols")
            shell.expect(rb"[\r\n]%d\r\n" % columns)
            shell.sendline(b"exit")
            shell.expect(pexpect.EOF)
    finally:
        master.terminate()
        master.wait()


def test_notice_can_be_turned_off(own: Bastion) -> None:
    """`[ssh] notice = false` ends the line about the recording."""
    own.config.write_text(own.config.read_text().replace("[ssh]", "[ssh]\nnotice = false"))
    own.start()
    shell = own.terminal()
    shell.expect(PROMPT)
    assert not re.search(rb"bastion:", shell.before or b"")
    shell.sendline(b"exit")
    shell.expect(pexpect.EOF)
