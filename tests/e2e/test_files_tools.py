"""Files by other people's programs: sshfs, rclone and rsync, which agree with what the container holds."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.e2e.file_clients import every_byte, remote, scp, sftp, tree
from tests.e2e.server import Bastion
from tests.e2e.test_files import files

__all__ = ["files"]

SERVICES = pytest.mark.parametrize("service", ["web", "small"])


def _sent(bastion: Bastion, service: str, folder: Path, there: str, leave_out: bytes = b"") -> Path:
    """Make a tree of files, send it, and return it."""
    sent = every_byte(folder / "sent", leave_out=leave_out)
    (sent / "deep").mkdir()
    (sent / "deep" / "large").write_bytes(os.urandom(3 * 2**20))
    sftp(bastion, f"-mkdir {there}\n", name=f"{service}@mystack")
    assert scp(bastion, "-r", str(sent), remote(service, there)).returncode == 0
    return sent


@contextmanager
def mounted(bastion: Bastion, service: str, there: str, here: Path) -> Iterator[Path]:
    """Mount a folder of a service by sshfs for as long as the context lasts."""
    if not Path("/dev/fuse").exists():
        unavailable("this machine has no /dev/fuse")
    here.mkdir()
    ssh = " ".join(bastion.command()[:-1])
    words = [
        "sshfs",
        "-f",
        "-o",
        f"ssh_command={ssh}",
        "-o",
        "reconnect",
        f"{service}@mystack@127.0.0.1:{there}",
        str(here),
    ]
    process = subprocess.Popen(words)
    try:
        until = time.monotonic() + 20
        while not here.is_mount():
            assert process.poll() is None, "sshfs ended"
            assert time.monotonic() < until, "sshfs did not mount"
            time.sleep(0.05)
        yield here
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(here)], check=False)
        process.wait(timeout=20)


@SERVICES
def test_sshfs_mounts_a_service(files: Bastion, service: str, tmp_path: Path) -> None:
    """What is mounted is what was sent; what is written, renamed and removed through it is so in the container."""
    sent = _sent(files, service, tmp_path, "/tmp/sshfs")
    with mounted(files, service, "/tmp/sshfs", tmp_path / "mount") as mount:
        assert tree(mount / "sent") == tree(sent)
        (mount / "new").write_bytes(b"first line\n")
        with (mount / "new").open("ab") as file:
            file.write(b"second line\n")
        (mount / "new").chmod(0o600)
        (mount / "new").rename(mount / "renamed")
        (mount / "sent" / "deep" / "large").unlink()
        os.truncate(mount / "renamed", 16)
    done = files.ssh("cd /tmp/sshfs; cat renamed; ls -l renamed; ls sent/deep new", name=f"{service}@mystack")
    assert done.stdout.startswith(b"first line\nsecon-rw-------")
    assert b"large" not in done.stdout
    assert done.stderr.count(b"new") == 1


@SERVICES
def test_rclone_and_the_source_agree(files: Bastion, service: str, tmp_path: Path) -> None:
    """`rclone check` finds no difference, by download and by what it knows of each file."""
    # rclone itself has other names for what is no plain character
    sent = _sent(files, service, tmp_path, "/tmp/rclone", leave_out=bytes([*range(32), *range(48, 256)]))
    place = (
        f":sftp,host=127.0.0.1,port={files.port},user={service}@mystack,key_file={files.folder}/alice.key,"
        f"known_hosts_file={files.known_hosts},shell_type=unix:/tmp/rclone/sent"
    )
    for options in (["--download"], []):
        done = subprocess.run(
            ["rclone", "--config", os.devnull, "check", *options, str(sent), place],
            capture_output=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b" 0 differences found" in done.stderr


def test_rsync_and_the_source_agree(files: Bastion, tmp_path: Path) -> None:
    """`rsync -a --checksum` has nothing left to do, both ways, where the image has rsync."""
    sent = _sent(files, "web", tmp_path, "/tmp/rsync")
    ssh = " ".join(files.command()[:-1])

    def rsync(*words: str) -> bytes:
        command = ["rsync", "-a", "--checksum", "--itemize-changes", "-e", ssh, *words]
        done = subprocess.run(command, capture_output=True, check=False, timeout=90)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    there = f"{remote('web', '/tmp/rsync/sent/')}"
    rsync(f"{sent}/", there)
    assert rsync(f"{sent}/", there) == b""
    rsync(there, f"{tmp_path}/back/")
    assert tree(tmp_path / "back") == tree(sent)


def test_without_rsync_the_hint_says_what_to_use(files: Bastion, tmp_path: Path) -> None:
    """An image without rsync: the client is told to use scp or sftp."""
    (tmp_path / "x").write_bytes(b"x")
    command = ["rsync", "-e", " ".join(files.command()[:-1]), str(tmp_path / "x"), remote("small", "/tmp/")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode != 0
    assert b"bastion: hint: the container has no rsync" in done.stderr
