"""The configuration is read again while people work: at SIGHUP, when the file changes, and never by half."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pexpect

from tests.e2e.server import Bastion

PROMPT = rb"[#$] "
GRANT = '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\n'


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


def _write(bastion: Bastion, text: str) -> None:
    fresh = bastion.config.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(bastion.config)


def test_a_grant_taken_away_ends_its_sessions(own: Bastion) -> None:
    """Within 5 s of the change of the file the shell that the grant allowed ends with 253 and its reason."""
    own.start()
    shell = own.terminal()
    shell.expect(PROMPT)
    _write(own, own.config.read_text().replace('stacks = ["*"]', 'stacks = ["other"]'))
    shell.expect(rb"bastion: error: the grant for this session is gone", timeout=5)
    shell.expect(pexpect.EOF, timeout=5)
    shell.close()
    assert shell.exitstatus == 253
    assert own.ssh("true").returncode == 252
    _write(own, own.config.read_text().replace('stacks = ["other"]', 'stacks = ["*"]'))
    assert _wait(10, lambda: own.ssh("true").returncode == 0)


def test_a_grant_that_expires_ends_its_sessions(own: Bastion) -> None:
    """A shell lasts until its grant expires, and ends within 5 s of that."""
    own.start()
    shell = own.terminal()
    shell.expect(PROMPT)
    moment = datetime.now(UTC) + timedelta(seconds=8)
    _write(own, own.config.read_text().replace(GRANT, f"{GRANT}expires = {moment:%Y-%m-%dT%H:%M:%S.%fZ}\n"))
    shell.expect(rb"bastion: error: the grant for this session is gone", timeout=15)
    assert datetime.now(UTC) >= moment
    shell.expect(pexpect.EOF, timeout=5)
    assert own.ssh("true").returncode == 252


def test_a_grant_for_some_commands(own: Bastion) -> None:
    """With `command` patterns nothing but these runs, whatever a shell would make of the rest."""
    own.config.write_text(own.config.read_text().replace(GRANT, f'{GRANT}allow = ["exec"]\ncommand = ["echo *"]\n'))
    own.start()
    assert own.ssh("echo fine").stdout == b"fine\n"
    for command in ("id", "echo fine; id", "echo $(id)", "echo a\nid"):
        done = own.ssh(command)
        assert (done.returncode, done.stdout) == (252, b"")
        assert b"you may run: echo *" in done.stderr
    assert own.ssh(input=b"id\n").returncode == 252


def test_what_is_granted_but_not_served_is_logged(own: Bastion) -> None:
    """A grant of what does nothing yet is named at the start, and when a reload brings it."""
    good = own.config.read_text()
    own.config.write_text(good.replace(GRANT, f'{GRANT}allow = ["exec", "forward"]\npermitopen = ["db:5432"]\n'))
    own.start()
    (line,) = own.events("granted but not served yet")
    assert (line["grant"], line["permissions"]) == ("grants[0]", ["forward"])
    _write(own, good.replace(GRANT, f'{GRANT}allow = ["exec", "agent"]\n'))
    assert _wait(20, lambda: len(own.events("granted but not served yet")) == 2)
    assert own.events("granted but not served yet")[1]["permissions"] == ["agent"]


def test_a_hundred_reloads_lose_no_session(own: Bastion) -> None:
    """SIGHUP a hundred times under load, broken files among them: every session goes on, and the old rules count."""
    own.start()
    good = own.config.read_text()
    shell = own.terminal()
    shell.expect(PROMPT)
    flood = "while [ ! -e /tmp/enough ]; do head -c 262144 /dev/zero; sleep 0.02; done; exit 5"
    with subprocess.Popen(
        own.command("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 7"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as client, subprocess.Popen(
        own.command(flood), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as flooding:  # fmt: skip
        for number in range(100):
            _write(own, (good, f"{good}[sssh]\n", "[ssh", f"{good}# {number}\n")[number % 4])
            os.kill(own.pid, signal.SIGHUP)
            if number % 20 == 0:
                assert own.ssh(f"echo {number}").stdout == f"{number}\n".encode()
            time.sleep(0.03)
        out, _ = client.communicate(timeout=60)
        assert flooding.poll() is None
        assert own.ssh("touch /tmp/enough").returncode == 0
        assert flooding.wait(30) == 5
    assert own.ssh("rm /tmp/enough").returncode == 0
    assert client.returncode == 7
    assert out.split() == [b"%d" % number for number in range(1, 101)]
    shell.sendline(b"echo still-$((1+1)); exit 6")
    shell.expect(rb"still-2")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 6
    assert own.events("configuration not taken over")
    _write(own, good.replace('stacks = ["*"]', 'stacks = ["other"]'))
    os.kill(own.pid, signal.SIGHUP)
    assert _wait(10, lambda: own.ssh("true").returncode == 252)
