"""Strangers at the running server, by the stock client: they keep nobody out, learn nothing, and leave a trace."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Bastion

SAME_FOR_EVERYBODY = b"Permission denied (publickey)"
NOT_NOW = b"Not allowed at this time"


@pytest.fixture
def stranger(own: Bastion) -> str:
    """Make a key that nobody has added; return its user, for `own.ssh(user=…)`."""
    key = own.folder / "stranger.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return "stranger"


def wait(done: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (result := done()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return result


def log_in_from(bastion: Bastion, source: str, *more: str, user: str = "alice") -> "subprocess.CompletedProcess[bytes]":
    return bastion.ssh("echo in", user=user, options=["-b", source, *more])


def test_E6_silent_sockets_keep_nobody_out(own: Bastion) -> None:
    """With 120 silent sockets of 12 addresses and the default limits, logins from elsewhere succeed, one and all."""
    own.start()
    with contextlib.ExitStack() as silent:
        for number in range(120):
            silent.enter_context(
                socket.create_connection(("127.0.0.1", own.port), source_address=(f"127.0.0.{2 + number % 12}", 0))
            )
        for source in ("127.0.0.1", "127.0.0.100", "127.0.0.101") * 2:
            done = log_in_from(own, source)
            assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr


def test_B2_wrong_keys_shut_a_source_out_and_no_other(own: Bastion, stranger: str) -> None:
    """The client reads "Not allowed at this time"; others log in, and so does whoever is logged in from there again."""
    own.config.write_text(own.config.read_text().replace("[ssh]", '[ssh]\npenalties = "authfail:5m"'))
    own.start()
    assert SAME_FOR_EVERYBODY in log_in_from(own, "127.0.0.2", user=stranger).stderr
    for user in (stranger, "alice"):
        shut_out = log_in_from(own, "127.0.0.2", "-v", user=user)
        assert shut_out.returncode == 255
        assert NOT_NOW in shut_out.stderr
        assert SAME_FOR_EVERYBODY not in shut_out.stderr
    assert log_in_from(own, "127.0.0.3").stdout == b"in\n"
    refused = wait(lambda: [line for line in own.events("login refused") if line["reason"] == "penalty"])
    assert {line["client_address"] for line in refused} == {"127.0.0.2"}
    numbers = subprocess.run(
        ["curl", "-s", "--unix-socket", str(own.folder / "api.sock"), "http://bastion/metrics"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert 'bastion_login_failures_total{reason="unknown-key"} 1.0' in numbers
    assert 'bastion_login_failures_total{reason="penalty"} 2.0' in numbers


def test_E7_refused_login_leaves_a_trace(own: Bastion, stranger: str) -> None:
    """One line with address, name, key and why for each connection; the ledger has their number; both verify."""
    own.start()
    public = Path(f"{own.folder}/stranger.key.pub")
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    answers = set()
    names = ("web@mystack", "web@nosuch", "a@b@c", "web\u202e@x", "\u200bweb@x", "web＠mystack", "w" * 400)
    for number, name in enumerate(names, 1):
        command = own.command("true", user=stranger)
        command[-2:] = ["-l", name, "127.0.0.1", "true"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 255
        answers.add(done.stderr.partition(b"@127.0.0.1")[2] or done.stderr)
        assert SAME_FOR_EVERYBODY in done.stderr, name
        line = wait(lambda: own.events("login refused")[number - 1 :])[0]  # noqa: B023 - it is awaited at once
        assert line["client_address"] == "127.0.0.1"
        assert line["reason"] == ("unknown key" if number <= 2 else "name is malformed")
        assert line["keys"] == [f"ssh-ed25519 {fingerprint}"]
        assert line["client"].startswith("SSH-2.0-OpenSSH")
    assert len(answers) == 1
    assert len(own.events("login refused")) == len(names)
    assert own.stop() == 0
    ledger = [json.loads(line) for line in (own.transcripts / "ledger.jsonl").read_text().splitlines()]
    counted = {line["reason"]: line["count"] for line in ledger if line["event"] == "logins refused"}
    assert counted == {"unknown key": 2, "name is malformed": len(names) - 2}
    assert own.cli("transcripts", "verify").returncode == 0


def test_E9_flood_of_refused_requests_is_counted(own: Bastion) -> None:
    """Of eight refusals of one user and kind the ledger has five singly, and at the stop the number of the rest."""
    own.start()
    control = str(own.folder / "c")
    for _ in range(8):
        options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={control}", "-o", "ControlPersist=yes"]
        assert own.ssh("true", name="nosuch@mystack", options=options).returncode == 251
    assert own.stop() == 0
    ledger = [json.loads(line) for line in (own.transcripts / "ledger.jsonl").read_text().splitlines()]
    refused = [line for line in ledger if line["event"] == "refused"]
    assert [line.get("count") for line in refused] == [None] * 5 + [3]
    assert refused[-1]["names"] == ["nosuch@mystack"]
