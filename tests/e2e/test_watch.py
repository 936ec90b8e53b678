"""Watching a live session with the command line, while its user works with the real ssh."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion, uid_of

QUIET = '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\nwatch_notice = false\n'


class Watching:
    """`bastion sessions watch UID`, its output going into a file."""

    def __init__(self, server: Bastion, uid: str, *words: str) -> None:
        self.output = server.folder / f"watch-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "bastion", "sessions", "watch", uid, "--config", str(server.config), *words]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=server.folder)

    def text(self) -> str:
        return self.output.read_bytes().decode(errors="replace")

    def expect(self, pattern: str, seconds: float = 20) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if match := re.search(pattern, self.text(), re.DOTALL):
                return match[0]
            assert self.process.poll() is None or re.search(pattern, self.text(), re.DOTALL), self.text()
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} is not in {self.text()!r}")

    def leave(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def watchers() -> Iterator[list[Watching]]:
    """Give a list of watchers that are ended with the test."""
    made: list[Watching] = []
    yield made
    for one in made:
        one.close()


def ledger(server: Bastion) -> list[dict[str, object]]:
    return [json.loads(line) for line in (server.transcripts / "ledger.jsonl").read_text().splitlines()]


def test_a_shell_is_watched_and_its_user_is_told(bastion: Bastion, watchers: list[Watching]) -> None:
    """The watcher sees what the user sees, but nothing that acts on terminals; user and ledger are told."""
    shell = bastion.terminal()
    uid = uid_of(shell)
    watching = Watching(bastion, uid)
    watchers.append(watching)
    watching.expect("watching alice in web@mystack")
    shell.expect(rb"bastion: note: \S+ watches this session\r\n")
    shell.sendline("printf 'mar''ker \\033]52;c;Y2FuYXJ5\\007\\033]0;canary\\007\\033[6n\\033[31mred\\n'")
    shell.expect(rb"marker .*red")
    seen = watching.expect("marker .*red")
    assert "\x1b[31m" in seen
    for hidden in ("\x1b]", "canary", "Y2FuYXJ5", "\x1b[6n"):
        assert hidden not in seen.partition("marker")[2]
    assert watching.leave() == 0
    shell.sendline("exit 3")
    shell.expect(b"exit|logout")
    shell.close()
    bastion.finished(uid)
    events = {entry["event"]: entry for entry in ledger(bastion) if entry.get("uid") == uid}
    assert events["watch begun"]["user"] == "alice"
    assert events["watch ended"]["by"] == events["watch begun"]["by"]


def test_watching_ends_with_the_session(bastion: Bastion, watchers: list[Watching]) -> None:
    """When the session ends the watcher reads why, and exits 0; with --json every event is a line."""
    shell = bastion.terminal()
    uid = uid_of(shell)
    watching, reading = Watching(bastion, uid), Watching(bastion, uid, "--json")
    watchers += [watching, reading]
    watching.expect("watching alice")
    reading.expect('"event": "session"')
    bastion.cli("sessions", "end", uid, "--reason", "enough")
    watching.expect("watching has ended: .*enough")
    assert watching.process.wait(timeout=20) == 0
    assert reading.process.wait(timeout=20) == 0
    kinds = [json.loads(line)["event"] for line in reading.text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("session", "end")
    shell.close()


def test_a_grant_may_keep_watching_quiet(place: Place, tmp_path: Path, watchers: list[Watching]) -> None:
    """With watch_notice = false the user is not told; the ledger is."""
    server = Bastion(tmp_path / "quiet", place.sections, grants=QUIET).start()
    try:
        shell = server.terminal()
        uid = uid_of(shell)
        watching = Watching(server, uid)
        watchers.append(watching)
        watching.expect("watching alice")
        shell.sendline("echo after''wards")
        watching.expect("afterwards")
        shell.expect(b"afterwards")
        assert b"watches" not in (shell.before or b"")
        assert watching.leave() == 0
        shell.close()
        assert any(entry["event"] == "watch begun" for entry in ledger(server))
    finally:
        server.stop()


def test_a_watcher_that_stops_reading_slows_nobody(bastion: Bastion, watchers: list[Watching]) -> None:
    """With a stopped watcher a session that floods goes on to its end; when it goes on, it reads what it lost."""
    shell = bastion.terminal()
    uid = uid_of(shell)
    watching = Watching(bastion, uid)
    watchers.append(watching)
    watching.expect("watching alice")
    watching.process.send_signal(signal.SIGSTOP)
    shell.sendline("head -c 6000000 /dev/zero | tr '\\0' x | fold -w 100; echo; echo flood''ed")
    shell.expect(rb"flooded\r\n", timeout=60)
    watching.process.send_signal(signal.SIGCONT)
    watching.expect(r"… \d+ frames lost …", 30)
    watching.expect("flooded", 30)
    shell.close()


def test_nobody_watches_what_is_not_there(bastion: Bastion) -> None:
    """A uid that is no live session's is refused in words."""
    done = bastion.cli("sessions", "watch", "0" * 16, check=False)
    assert done.returncode == 1
    assert "bastion: error: no live session 0000000000000000" in done.stderr
