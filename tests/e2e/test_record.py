"""What happened is on a record that stock `age`, `zcat` and `ssh-keygen` open, never less than what was seen."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion, shown, uid_of

PROMPT = rb"[#$] "


def test_stock_age_and_zcat_show_a_shell(bastion: Bastion) -> None:
    """The header has the whole session; output and the exit are events; a password typed at a terminal is not."""
    shell = bastion.terminal(size=(30, 90))
    uid = uid_of(shell)
    shell.expect(PROMPT)
    shell.sendline(b"echo $((6*7))-marker; read -s secret; echo done-$((1+1)); exit 3")
    shell.expect(b"42-marker")
    time.sleep(0.5)
    shell.sendline(b"canary-password")
    shell.expect(b"done-2")
    shell.expect(pexpect.EOF)
    header, *events = lines = bastion.read(uid)
    assert header["version"] == 3
    assert header["term"] == {"cols": 90, "rows": 30, "type": "xterm-256color"}
    session = header["bastion"]
    assert {"uid": uid, "service_name": "web", "stack": "mystack", "user": "alice"}.items() <= session.items()
    assert {"namespace", "command", "deployment_name", "pod_name", "container_name", "title"} <= session.keys()
    assert "42-marker" in shown(lines)
    assert "canary-password" not in json.dumps(lines)
    assert events[-1][1] == "x"
    assert events[-1][2] == "3"


def test_a_command_is_recorded_with_its_input(bastion: Bastion) -> None:
    """Without a terminal what was piped in is on record, and bytes that are no text are kept exactly."""
    bastion.ssh("cat; printf '\\377\\376'; echo oops >&2", input=b"piped in\n")
    uid = bastion.last_uid()
    lines = bastion.read(uid)
    assert lines[0]["command"].startswith("cat; printf")
    assert shown(lines, "i") == "piped in\n"
    assert "piped in\n" in shown(lines)
    assert [event[2] for event in lines[1:] if event[1] == "b"] in (["1o://4="], ["1o:/w==", "1o:/g=="])


def test_E10_what_a_user_saw_beside_bytes_that_are_no_text_is_played(bastion: Bastion) -> None:
    """A line behind NUL and 0xff, and a page of Latin-1, are in `transcripts play` and in every player's `o` events."""
    page = "".join(f"Zeile {number}: größer\n" for number in range(40)).encode("latin-1")
    script = "printf '\\377\\0hidden\\n'; cat; echo END-MARK"
    assert b"hidden" in bastion.ssh(script, input=page).stdout
    uid = bastion.last_uid()
    lines = bastion.read(uid)
    for text in ("\ufffd\0hidden\n", "Zeile 39: gr\ufffd\ufffder\n", "END-MARK\n"):
        assert text in shown(lines)
    assert "Zeile 39: gr\ufffd\ufffder\n" in shown(lines, "i")
    played = bastion.cli("transcripts", "play", uid, "--identity", str(bastion.auditor), "--speed", "0").stdout
    assert "\ufffdhidden\n" in played
    assert [line.startswith("Zeile") for line in played.splitlines()].count(True) == 40


def test_ssh_keygen_says_good(bastion: Bastion) -> None:
    """The signature beside a transcript is one that `ssh-keygen -Y verify` checks; a changed byte is noticed."""
    bastion.ssh("echo signed")
    file = bastion.finished(bastion.last_uid())
    signers = next((bastion.keys / "signing").glob("allowed_signers"))
    command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "bastion", "-n", "bastion-transcript", "-s"]
    command.append(str(file.with_name(file.name.replace(".cast.age", ".sig"))))
    good = subprocess.run(command, input=file.read_bytes(), capture_output=True, check=False)
    assert good.returncode == 0
    assert b"Good" in good.stdout
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    assert subprocess.run(command, input=bytes(changed), capture_output=True, check=False).returncode != 0


def test_the_command_line_reads_lists_and_verifies(bastion: Bastion) -> None:
    """`transcripts list`, `show`, `play`, `export` and `verify` work on what was recorded."""
    bastion.ssh("echo once upon a time")
    uid = bastion.last_uid()
    bastion.finished(uid)
    assert uid in bastion.cli("transcripts", "list").stdout
    assert uid in bastion.cli("transcripts", "show", uid).stdout
    identity = ("--identity", str(bastion.auditor))
    assert "once upon a time" in bastion.cli("transcripts", "export", uid, *identity).stdout
    assert "once upon a time" in bastion.cli("transcripts", "play", uid, *identity, "--speed", "1000").stdout
    assert bastion.cli("transcripts", "verify").returncode == 0


def _drain(stream: "object", into: bytearray) -> threading.Thread:
    def read() -> None:
        while piece := os.read(stream.fileno(), 65536):  # type: ignore[attr-defined]
            into.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("delay", [0.3, 0.9, 2.2])
def test_kill_9_of_the_server_loses_nothing_that_was_seen(own: Bastion, delay: float) -> None:
    """Every byte the client saw before the crash is in `transcripts export`; the next start seals it as unclean."""
    own.start()
    seen = bytearray()
    with subprocess.Popen(
        own.command("i=0; while :; do i=$((i+1)); echo line $i; done"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        reader = _drain(client.stdout, seen)
        until = time.monotonic() + 20
        while not seen and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(delay)
        own.kill()
        reader.join(20)
    assert seen
    own.start()
    uid = next(own.transcripts.rglob("*.cast.age")).name.removesuffix(".cast.age")
    exported = own.cli("transcripts", "export", uid, "--identity", str(own.auditor)).stdout
    recorded = shown([json.loads(line) for line in exported.splitlines()])
    assert recorded.encode().startswith(bytes(seen))
    verified = own.cli("transcripts", "verify", check=False)
    assert "unclean" in verified.stdout + verified.stderr


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 10 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=0700", "bastion-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_volume_ends_the_session_with_254(small_volume: Path, place: Place, tmp_path: Path) -> None:
    """Filled mid-session, the client stops with 254, the last byte it saw is on record, new sessions are refused."""
    server = Bastion(tmp_path / "b", place.sections, audit=small_volume).start()
    try:
        done = server.ssh("head -c 48000000 /dev/urandom | base64", timeout=60)
        assert done.returncode == 254, done.stderr
        assert b"bastion: error: " in done.stderr
        uid = server.last_uid()
        exported = server.cli("transcripts", "export", uid, "--identity", str(server.auditor)).stdout
        recorded = shown([json.loads(line) for line in exported.splitlines()]).encode()
        assert recorded.startswith(done.stdout)
        assert len(done.stdout) > 1_000_000
        (small_volume / "filler").write_bytes(b"")
        with (small_volume / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        refused = server.ssh("echo never")
        assert (refused.returncode, refused.stdout) == (254, b"")
        (small_volume / "filler").unlink()
        for file in small_volume.rglob(f"{uid}*"):
            file.unlink()
        assert server.ssh("echo again").stdout == b"again\n"
    finally:
        server.stop()


def test_an_unwritable_folder_is_no_start(own: Bastion) -> None:
    """Where no transcript can be written nothing is served, and the folder is named."""
    own.transcripts.rename(own.folder / "aside")
    own.transcripts.write_text("in the way")
    done = own.cli("serve", check=False)
    assert done.returncode == 1
    assert str(own.transcripts) in done.stderr
