"""However a session ends, nothing of it is left running, and whoever is there is told why."""

import signal
import subprocess
import time
from collections.abc import Callable

import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion, shown, uid_of
from tests.engine import Engine

PROMPT = rb"[#$] "


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


@pytest.mark.everywhere
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize(
    "command",
    ["sleep 9999 & sleep 9999", "setsid sleep 9999 & (trap '' HUP TERM; sleep 9999) & sleep 9999", "exec sleep 9999"],
    ids=["child", "setsid and deaf", "alone"],
)
def test_a_client_that_vanishes_leaves_nothing_running(
    bastion: Bastion, place: Place, service: str, number: signal.Signals, command: str
) -> None:
    """Children, `setsid` ones and those deaf to HUP and TERM are gone within 10 s of the client's end."""
    client = subprocess.Popen(
        bastion.command(command, options=["-tt"], name=f"{service}@mystack"), stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert _wait(30, lambda: len(place.running(service, "sleep 9999")) >= 1)
    time.sleep(0.5)
    client.send_signal(number)
    client.wait()
    assert client.stdin is not None
    client.stdin.close()
    assert _wait(10, lambda: not place.running(service, "sleep 9999"))


@pytest.mark.everywhere
def test_what_a_finished_command_left_behind_is_ended(bastion: Bastion, place: Place) -> None:
    """A background process of a command that ended with its own status is ended too, and the status is kept."""
    done = bastion.ssh("setsid sleep 8888 >/dev/null 2>&1 </dev/null & exit 3")
    assert done.returncode == 3
    assert _wait(10, lambda: not place.running("web", "sleep 8888"))


@pytest.mark.parametrize("how", [("stop", "-t", "0"), ("rm", "-f"), ("kill",)], ids=lambda how: str(how[0]))
def test_a_container_that_ends_ends_its_sessions(bastion: Bastion, containers: Engine, how: tuple[str, ...]) -> None:
    """The terminal says within 2 s that the container is gone, and the client exits 255."""
    containers.remove("mystack-doomed-1")
    containers.start("mystack-doomed-1", containers.image_debian, service="doomed")
    try:
        shell = bastion.terminal(name="doomed@mystack")
        shell.expect(PROMPT)
        containers.docker(*how, "mystack-doomed-1")
        shell.expect(rb"bastion: error: .*mystack-doomed-1", timeout=2)
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 255
    finally:
        containers.remove("mystack-doomed-1")


def test_a_paused_container_is_refused_in_words(bastion: Bastion, containers: Engine) -> None:
    """Entering a paused container is an error that says so."""
    containers.remove("mystack-asleep-1")
    containers.start("mystack-asleep-1", containers.image_debian, service="asleep")
    containers.docker("pause", "mystack-asleep-1")
    try:
        done = bastion.ssh("true", name="asleep@mystack")
        assert done.returncode == 255
        assert b"paused" in done.stderr
    finally:
        containers.docker("unpause", "mystack-asleep-1")
        containers.remove("mystack-asleep-1")


@pytest.mark.everywhere
def test_an_administrator_ends_a_session(bastion: Bastion) -> None:
    """`bastion sessions end` ends it with the reason given, 253, and the reason is in the transcript."""
    shell = bastion.terminal()
    uid = uid_of(shell)
    shell.expect(PROMPT)
    listed = [session for session in bastion.sessions() if session["uid"] == uid]
    assert [(s["service_name"], s["stack"], s["user"], s["state"]) for s in listed] == [
        ("web", "mystack", "alice", "active")
    ]
    bastion.cli("sessions", "end", uid, "--reason", "maintenance window")
    shell.expect(rb"bastion: error: .*maintenance window")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 253
    assert "maintenance window" in shown(bastion.read(uid), "m")


@pytest.mark.everywhere
def test_the_servers_end_ends_its_sessions_with_a_reason(own: Bastion, place: Place) -> None:
    """SIGTERM ends every session with 253 and its reason, leaves no process and exits 0; transcripts are complete."""
    own.start()
    shell = own.terminal()
    uid = uid_of(shell)
    shell.expect(PROMPT)
    shell.sendline(b"sleep 7777")
    assert _wait(30, lambda: bool(place.running("web", "sleep 7777")))
    assert own.stop() == 0
    shell.expect(rb"bastion: error: the bastion is shutting down")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 253
    assert not place.running("web", "sleep 7777")
    assert "shutting down" in shown(own.read(uid), "m")


@pytest.mark.everywhere
def test_limits_count_channels_and_name_who_holds_them(own: Bastion) -> None:
    """The 16th session of a service is refused with 253, names the limit and who holds it; one that ends makes room."""
    text = own.config.read_text().replace("[ssh]", "[ssh]\nmax_channels = 20")
    own.config.write_text(f"{text}[sessions]\nper_user_per_service = 15\n")
    own.start()
    control = str(own.folder / "control")
    clients = [subprocess.Popen(own.command("cat", options=["-M", "-S", control]), stdin=subprocess.PIPE)]
    try:
        assert _wait(20, lambda: len(own.sessions()) == 1)
        shared = own.command("cat", options=["-S", control])
        clients += [subprocess.Popen(shared, stdin=subprocess.PIPE) for _ in range(13)]
        clients.append(subprocess.Popen(own.command("cat"), stdin=subprocess.PIPE))
        assert _wait(60, lambda: len([s for s in own.sessions() if s["state"] == "active"]) == 15)
        refused = own.ssh("true")
        assert refused.returncode == 253
        assert b"15" in refused.stderr
        assert b"alice (15)" in refused.stderr
        assert own.ssh("true", name="small@mystack").returncode == 0
        clients[-1].kill()
        assert _wait(20, lambda: own.ssh("true").returncode == 0)
    finally:
        for client in clients:
            client.kill()
            client.communicate()


@pytest.mark.parametrize(
    ("limit", "words"), [('idle_timeout = "6s"', rb"nothing was typed"), ('max_duration = "6s"', rb"has lasted")]
)
def test_time_ends_a_session_with_a_warning(own: Bastion, limit: str, words: bytes) -> None:
    """An idle terminal, and a session that lasts too long, are warned and then ended with 253."""
    own.config.write_text(f"{own.config.read_text()}[sessions]\n{limit}\n")
    own.start()
    shell = own.terminal()  # no prompt is waited for: on a slow day the warning comes before it
    shell.expect(rb"bastion: hint: this session ends in \d seconds?", timeout=10)
    shell.expect(rb"bastion: error: .*" + words, timeout=10)
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 253


def test_a_terminal_in_use_and_a_silent_command_are_not_idle(own: Bastion) -> None:
    """Typing puts the idle time-out off, and a command without a terminal has none."""
    own.config.write_text(f'{own.config.read_text()}[sessions]\nidle_timeout = "5s"\n')
    own.start()
    with subprocess.Popen(own.command("sleep 10; exit 3"), stdin=subprocess.DEVNULL) as silent:
        shell = own.terminal()
        for number in range(9):
            shell.sendline(b"echo in-use-%d" % number)
            shell.expect(rb"[\r\n]in-use-%d\r\n" % number)
            time.sleep(1)
        shell.sendline(b"exit 4")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 4
        assert silent.wait(20) == 3
