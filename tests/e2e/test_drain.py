"""SIGTERM drains: nobody new comes in, those who are in are told and may finish, and the rest ends with its reason."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import httpx
import pexpect

from tests.e2e.server import Bastion, shown, uid_of

PROMPT = rb"[#$] "


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


def _start(own: Bastion, drain: str) -> Bastion:
    own.config.write_text(own.config.read_text().replace('drain_timeout = "0s"', f'drain_timeout = "{drain}"'))
    return own.start()


def _refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _ask(own: Bastion, path: str) -> tuple[int, dict[str, str]]:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(own.folder / "api.sock")), base_url="http://bastion"
    ) as client:
        answer = client.get(path)
        return answer.status_code, json.loads(answer.text)


def test_F8_a_drain_lets_a_command_finish(own: Bastion) -> None:
    """SIGTERM closes port, readiness and new channels, warns, and leaves when the running command has ended with 0."""
    _start(own, "600s")
    control = str(own.folder / "control")
    running = subprocess.Popen(
        own.command("echo begun; read line; echo got $line", options=["-M", "-S", control]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stderr is not None
    try:
        assert running.stdout.readline() == b"begun\n"
        assert _ask(own, "/readyz")[0] == 200
        own.send_signal(signal.SIGTERM)
        assert b"bastion: hint: the bastion is shutting down in 600 s" in running.stderr.readline()
        assert _wait(5, lambda: _refuses_connections(own.port))
        status, answer = _ask(own, "/readyz")
        assert (status, answer["code"], answer["error"]) == (503, "shutting-down", "the bastion is shutting down")
        assert _ask(own, "/healthz")[0] == 200
        refused = own.ssh("true", options=["-S", control])
        assert refused.returncode == 253
        assert b"bastion: error: the bastion is shutting down" in refused.stderr
        assert own.is_running
        output, _ = running.communicate(b"line\n", timeout=30)
        assert (running.returncode, output) == (0, b"got line\n")
    finally:
        running.kill()
        running.communicate()
    assert own.wait(30) == 0


def test_F8_a_second_signal_shortens_the_drain(own: Bastion) -> None:
    """An idle shell holds the drain up; a second SIGTERM ends it in 5 s, with 253 and its reason."""
    _start(own, "600s")
    shell = own.terminal()
    uid = uid_of(shell)
    shell.expect(PROMPT)
    own.send_signal(signal.SIGTERM)
    shell.expect(rb"bastion: hint: the bastion is shutting down in 600 s")
    shell.sendline(b"echo still-$((40 + 2))")
    shell.expect(rb"still-42")
    own.send_signal(signal.SIGTERM)
    shell.expect(rb"bastion: hint: the bastion is shutting down in 5 s")
    shell.expect(rb"bastion: error: the bastion is shutting down")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 253
    assert own.wait(30) == 0
    assert "shutting down" in shown(own.read(uid), "m")


def test_F8_the_time_of_a_drain_is_kept(own: Bastion) -> None:
    """What has not ended by itself `drain_timeout` after SIGINT ends with 253, and the bastion exits with 0."""
    _start(own, "1s")
    with subprocess.Popen(own.command("echo begun; sleep 600"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == b"begun\n"
        own.send_signal(signal.SIGINT)
        _, words = slow.communicate(timeout=30)
    assert slow.returncode == 253
    assert b"shutting down in 1 s" in words
    assert b"bastion: error: the bastion is shutting down" in words
    assert own.wait(30) == 0
