"""A stopped server, a locked database and a volume that fails: sessions open again at once, and the log stays ours."""

import fcntl
import os
import signal
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), fs/ext4/ext4.h; XFS and F2FS have the same
NO_LOG_FLUSH = 2
STOPPED_SECONDS = 6.0  # longer than the 5 s after which the database counts as not answering


def until(done: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def assert_no_unhandled_end(server: Bastion) -> None:
    text = server.log.read_text(errors="replace")
    for words in ("never retrieved", "exception_handler", "Exception in callback", "Traceback"):
        assert words not in text, [line for line in text.splitlines() if words in line][:3]
    assert not server.events("internal error")


def test_F10_sessions_open_again_after_the_server_was_stopped(own: Bastion) -> None:
    """SIGSTOP for 6 s while eight clients connect, then SIGCONT: all eight get their session, and so does the next."""
    own.start()
    with ThreadPoolExecutor(8) as clients:
        warm = own.ssh("echo first")
        assert warm.stdout == b"first\n", warm.stderr
        opening = [clients.submit(own.ssh, f"echo {number}") for number in range(8)]
        until(lambda: own.events("login")[1:])
        os.kill(own.pid, signal.SIGSTOP)
        try:
            time.sleep(STOPPED_SECONDS)  # the stall itself, not a wait for something
        finally:
            os.kill(own.pid, signal.SIGCONT)
        outcomes = [opened.result() for opened in opening]
    assert [(done.returncode, done.stderr) for done in outcomes] == [(0, b"")] * 8
    assert own.ssh("echo after").stdout == b"after\n"
    assert "database is locked" not in own.log.read_text()
    assert_no_unhandled_end(own)


def test_F10_a_locked_database_refuses_in_words_and_recovers(own: Bastion) -> None:
    """While another process holds SQLite's lock a live session goes on and new ones are refused; then they open."""
    own.start()
    shell = own.terminal()
    shell.expect(rb"[#$] ")
    with closing(sqlite3.connect(own.folder / "bastion.db", isolation_level=None, timeout=5)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        refused = own.ssh("echo never")
        assert refused.returncode == 255
        assert b"bastion: error: the sessions' database does not answer" in refused.stderr
        shell.sendline(b"echo $((6*7))-alive")
        shell.expect(b"42-alive")
    assert own.ssh("echo after").stdout == b"after\n"
    shell.sendline(b"exit")
    assert_no_unhandled_end(own)


@pytest.fixture
def failing_volume(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Give a file system of its own, and what makes every input and output on it fail with EIO from then on."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    image, folder = tmp_path / "image", tmp_path / "volume"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    descriptor = os.open(folder, os.O_RDONLY)

    def fail() -> None:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))

    try:
        yield folder, fail
    finally:
        os.close(descriptor)
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_F7_D2_a_volume_that_fails_ends_sessions_in_words(
    failing_volume: tuple[Path, Callable[[], None]], place: Place, tmp_path: Path
) -> None:
    """EIO on transcripts and database: the session ends with 254, new ones are refused, no task's end is unhandled."""
    volume, fail = failing_volume
    server = Bastion(tmp_path / "b", place.sections, audit=volume / "transcripts").start()
    try:
        with ThreadPoolExecutor(1) as client:
            assert server.readiness() == (200, "")
            running = client.submit(server.ssh, "while :; do echo line; sleep 0.1; done")
            until(server.sessions)
            fail()
            ended = running.result()
        assert ended.returncode == 254, ended.stderr
        assert b"bastion: error: " in ended.stderr
        refused = [server.ssh("echo never") for _ in range(3)]
        assert {done.returncode for done in refused} <= {254, 255}
        assert all(b"bastion: error: " in done.stderr and not done.stdout for done in refused)
        assert server.readiness()[0] == 503
        assert_no_unhandled_end(server)
    finally:
        server.stop()
    assert_no_unhandled_end(server)
