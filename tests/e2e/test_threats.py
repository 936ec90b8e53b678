"""Rows of the threats that no other file tries on the running server: B3, B12, B15, C6, C9 and D12.

Their neighbours: A in test_names.py, B in test_hostile.py, test_transfer.py and unit/ssh, C and D by their names.
"""

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.engine import Engine

GRACE_SECONDS = 2
KEEPALIVE_SECONDS = 1


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hasty(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a bastion that waits briefly: two seconds for a login, three for a client that went silent."""
    server = Bastion(tmp_path_factory.mktemp("hasty"), place.sections)
    text = server.config.read_text()
    options = f'login_grace = "{GRACE_SECONDS}s"\nkeepalive = "{KEEPALIVE_SECONDS}s"\n'
    server.config.write_text(text.replace("[ssh]\n", f"[ssh]\n{options}"))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("opening", [b"", b"SSH-2.0-slow\r\n", b"S"], ids=["silent", "version only", "trickle"])
def test_B3_a_handshake_that_does_not_end_is_closed(hasty: Bastion, opening: bytes) -> None:
    """A client that says nothing, its version only, or one byte after another is cut when its grace is over."""
    with socket.create_connection(("127.0.0.1", hasty.port)) as client:
        client.settimeout(0.2)
        client.sendall(opening)
        closed = False
        until = time.monotonic() + 30 * GRACE_SECONDS
        while not closed and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                try:
                    closed = client.recv(4096) == b""
                    if opening == b"S":
                        client.sendall(opening)
                except ConnectionError:
                    closed = True
        assert closed


def test_B12_a_client_that_asks_for_compression_is_served_without(bastion: Bastion) -> None:
    """`ssh -C` logs in, and what is agreed on is no compression; test_algorithms.py has the client that insists."""
    assert bastion.ssh("echo in", options=["-C"]).stdout == b"in\n"
    shown = bastion.ssh("true", options=["-C", "-v"]).stderr
    assert b"compression: none" in shown
    assert b"compression: zlib" not in shown


def test_B15_a_peer_that_stopped_loses_its_session_and_its_program(
    hasty: Bastion, place: Place, tmp_path: Path
) -> None:
    """The client's machine freezes, and no FIN arrives: keepalive ends the session, and the program with it."""
    with (tmp_path / "output").open("wb") as output:
        client = subprocess.Popen(hasty.command("sleep 7071"), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait(lambda: bool(place.running("web", "sleep 7071")))
        client.send_signal(signal.SIGSTOP)
        _wait(lambda: not place.running("web", "sleep 7071"))
        _wait(lambda: not hasty.sessions())
    finally:
        client.kill()
        client.wait()


def test_C6_no_agent_and_no_display_reach_a_container(bastion: Bastion, tmp_path: Path) -> None:
    """With `-A` and `-X` the session runs without agent and display, and the server makes no socket for them."""
    agent = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        _wait(agent.exists)
        options = ["-A", "-X", "-o", f"IdentityAgent={agent}"]
        words = [word for word in bastion.command("env", options=options) if word != "IdentityAgent=none"]
        words = [word for at, word in enumerate(words) if not (word == "-o" and words[at + 1] == "-o")]
        done = subprocess.run(
            words, capture_output=True, check=False, timeout=60, env={"DISPLAY": ":9", "PATH": "/usr/bin:/bin"}
        )
    finally:
        process.terminate()
        process.wait()
    assert done.returncode == 0
    assert b"HOME=" in done.stdout
    assert b"SSH_AUTH_SOCK" not in done.stdout
    assert b"DISPLAY" not in done.stdout
    assert not list(Path("/tmp").glob("asyncssh-*"))


def test_C9_an_exec_asks_for_no_privileges(bastion: Bastion, containers: Engine) -> None:
    """The engine itself says of a session's exec: not privileged, and as the container's own user."""
    client = subprocess.Popen(
        bastion.command("sleep 7072"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    transport = httpx.HTTPTransport(uds=containers.host.removeprefix("unix://"))
    try:
        with httpx.Client(transport=transport, base_url="http://engine") as engine:

            def execs() -> list[dict[str, object]]:
                ids = engine.get("/containers/mystack-web-1/json").json()["ExecIDs"] or []
                inspected = [engine.get(f"/exec/{one}/json").json() for one in ids]
                return [one["ProcessConfig"] for one in inspected if "sleep 7072" in json.dumps(one)]

            _wait(lambda: bool(execs()))
            for config in execs():
                assert not config["privileged"]
                assert not config.get("user")
    finally:
        client.terminate()
        client.wait()


def test_D12_no_secret_of_a_session_is_in_the_log_or_the_metrics(bastion: Bastion) -> None:
    """A word in a command, a variable, the input, the output and a key's comment is in no log line and no metric."""
    word = "canary9f3b"
    key = bastion.folder / "dora.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", word, "-f", str(key)], check=True)
    bastion.cli("keys", "add", "dora", f"{key}.pub")
    known = len(bastion.events("refused"))
    _wait(lambda: bastion.ssh("true", user="dora").returncode == 252)
    _wait(lambda: len(bastion.events("refused")) > known)
    bastion.ssh(f"cat; echo {word}; env", options=["-o", f"SetEnv=LC_CANARY={word}"], input=word.encode())
    bastion.last_uid()
    transport = httpx.HTTPTransport(uds=str(bastion.folder / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://bastion") as api:
        assert word not in api.get("/metrics").text
    assert word not in bastion.log.read_text(errors="replace")
