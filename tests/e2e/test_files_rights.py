"""Who may move which files: paths of a grant, reading without writing, roles without a shell; and what goes wrong."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.e2e.file_clients import digest, operations, remote, scp, scp_command, sftp
from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.engine import Engine

GRANTS = """
[[grants]]
users = ["alice"]
stacks = ["*"]
allow = ["shell", "exec", "files:read", "files:write"]
[[grants]]
users = ["bob"]
stacks = ["mystack"]
allow = ["files:read"]
paths = ["/app/log/**"]
[[grants]]
users = ["carol"]
stacks = ["mystack"]
allow = ["files:read", "files:write"]
paths = ["/app/drop/**"]
"""
MOVED = 2**20
SERVICES = pytest.mark.parametrize("service", ["web", "small"])
TREE = (
    "rm -rf /app; mkdir -p /app/log/old /app/drop; echo secret >/app/secret; seq 1000 >/app/log/app.log; "
    "echo old >/app/log/old/1; ln -s ../secret /app/log/out; ln -s /app/log/app.log /app/log/in; "
    "ln -s /app/secret /app/drop/out; ln -s / /app/drop/root; chmod 777 /app/drop"
)


@pytest.fixture(scope="module")
def files(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a running bastion: alice may do everything, bob read logs, carol use one folder."""
    server = Bastion(tmp_path_factory.mktemp("rights"), place.sections, grants=GRANTS)
    server.add("bob")
    server.add("carol")
    server.start()
    yield server
    assert server.stop() == 0
    assert not server.events("internal error"), "an unknown error was logged"


@pytest.fixture
def tree(files: Bastion, service: str) -> str:
    """Have the tree of an application in the service's container; return what sftp connects to."""
    name = f"{service}@mystack"
    assert files.ssh(TREE, name=name).returncode == 0
    return name


@SERVICES
@pytest.mark.everywhere
def test_inside_its_paths_a_role_reads(files: Bastion, service: str, tree: str, tmp_path: Path) -> None:
    """What lies there is listed and fetched, by a link that stays there too; the record's hash is sha256sum's."""
    done = sftp(
        files,
        f"pwd\nls /app/log\nget /app/log/app.log {tmp_path}/one\nget in {tmp_path}/two\ncd old\nget 1 {tmp_path}/3\n",
        name=tree,
        user="bob",
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"/app/log\n" in done.stdout
    assert b"/app/log/app.log" in done.stdout
    uid = files.last_uid(user="bob")
    told = files.ssh("sha256sum /app/log/app.log", name=tree).stdout.split()[0].decode()
    reads = [fact for fact in operations(files, uid) if fact["operation"] == "read"]
    assert [fact["sha256"] for fact in reads][:2] == [told, told]
    assert digest(tmp_path / "one") == digest(tmp_path / "two") == told
    fetched = scp(files, remote(service, "/app/log/app.log"), str(tmp_path / "scp"), user="bob")
    assert (fetched.returncode, digest(tmp_path / "scp")) == (0, told)
    fetched = scp(files, remote(service, "/app/log/app.log"), str(tmp_path / "old"), user="bob", options=["-O"])
    assert (fetched.returncode, digest(tmp_path / "old")) == (0, told)


@SERVICES
@pytest.mark.everywhere
@pytest.mark.parametrize(
    "line",
    [
        "get /app/secret",
        "get /app/log/../secret",
        "get /app/log/out",
        "get /etc/passwd",
        "get //app//secret",
        "ls /app",
        "ls /",
        "ls /app/log/../../etc",
        "put known_hosts /app/log/new",
        "put known_hosts /tmp/new",
        "rm /app/log/app.log",
        "rename /app/log/app.log /app/log/other",
        "chmod 777 /app/log/app.log",
        "mkdir /app/log/new",
        "symlink /app/secret /app/log/link",
        "ln /app/secret /app/log/link",
    ],
)
def test_outside_its_paths_a_role_does_nothing(files: Bastion, service: str, tree: str, line: str) -> None:
    """By `..`, by links, by writing: permission denied, on record, and nothing has changed."""
    done = sftp(files, f"{line}\n", name=tree, user="bob")
    assert done.returncode == 1
    assert b"ermission denied" in done.stderr
    assert not (files.folder / "secret").exists()
    denied = [fact["result"] for fact in operations(files, files.last_uid(user="bob"))]
    assert "permission denied" in denied
    left = files.ssh("cd /app/log; echo *; cat /app/secret; ls -l app.log", name=tree).stdout
    assert left.startswith(b"app.log in old out\nsecret\n-rw-r--r--")


@SERVICES
def test_a_role_of_files_has_no_shell(files: Bastion, tree: str) -> None:
    """A shell, a command and a program that sounds like a copy are refused, and the hint says what there is."""
    for words in ([], ["id"], ["scp -f /app/log/app.log; id"], ["rsync --server . /"]):
        done = files.ssh(*words, name=tree, user="bob")
        assert done.returncode == 252
        assert b"bastion: error: no grant lets bob" in done.stderr
        assert b"files:read" in done.stderr
    done = scp(files, str(files.known_hosts), remote(tree.partition("@")[0], "/app/log/x"), user="bob", options=["-O"])
    assert done.returncode != 0
    assert b"ermission denied" in done.stderr


@SERVICES
@pytest.mark.everywhere
def test_links_lead_no_writer_out(files: Bastion, service: str, tree: str, tmp_path: Path) -> None:
    """Who may write in one folder writes there, and through no link to what lies elsewhere."""
    (tmp_path / "x").write_bytes(b"overwritten\n")
    inside = f"put {tmp_path}/x /app/drop/x\nrename /app/drop/x /app/drop/y\nchmod 600 /app/drop/y\nmkdir /app/drop/d\n"
    done = sftp(files, inside, name=tree, user="carol")
    assert done.returncode == 0, done.stderr.decode()
    for line in (
        f"put {tmp_path}/x /app/drop/out",
        f"put {tmp_path}/x /app/drop/root/app/secret",
        f"put {tmp_path}/x /app/drop/../secret",
        "rename /app/drop/y /app/log/y",
        "rename /app/secret /app/drop/secret",
        "get /app/drop/out",
        "ls /app/drop/root/app",
        "chmod 777 /app/drop/out",
        "symlink / /app/drop/new",
    ):
        done = sftp(files, f"{line}\n", name=tree, user="carol")
        assert (done.returncode, b"ermission denied" in done.stderr) == (1, True), (line, done.stderr)
    left = files.ssh("cat /app/secret; ls -l /app/secret; ls /app/log; cat /app/drop/y", name=tree).stdout
    assert left.startswith(b"secret\n-rw-r--r--")
    assert left.endswith(b"app.log\nin\nold\nout\noverwritten\n")


def test_a_full_disk_is_said_and_leaves_no_silence(files: Bastion, containers: Engine, tmp_path: Path) -> None:
    """What does not fit fails at the client, in words, and the record says how much went and that it failed."""
    containers.remove("mystack-full-1")
    containers.start(
        "mystack-full-1",
        containers.image_debian,
        service="full",
        args=["--tmpfs", "/small:size=1m", "--read-only", "--tmpfs", "/tmp"],
    )
    try:
        (tmp_path / "large").write_bytes(b"x" * 5_000_000)
        done = sftp(files, f"put {tmp_path}/large /small/large\n", name="full@mystack")
        assert done.returncode == 1
        assert b"no space left" in done.stderr
        (fact,) = (fact for fact in operations(files, files.last_uid()) if fact["operation"] == "write")
        assert "no space left" in fact["result"]
        done = sftp(files, f"put {tmp_path}/large /etc/large\n", name="full@mystack")
        assert done.returncode == 1
        assert b"read-only" in done.stderr.lower()
        for line, words in (
            (f"put {tmp_path}/large /small", b""),
            ("get /small", b""),
            (f"put {tmp_path}/large /tmp/{'x' * 300}", b"the name is too long"),
            ("get /nowhere", b"not found"),
            ("mkdir /nowhere/deep", b""),
        ):
            done = sftp(files, f"{line}\n", name="full@mystack")
            assert done.returncode in {0, 1}
            assert words in done.stderr.lower(), (line, done.stderr)
    finally:
        containers.remove("mystack-full-1")


@pytest.mark.parametrize("direction", ["out", "into"])
def test_a_container_that_stops_ends_the_transfer(
    files: Bastion, containers: Engine, direction: str, tmp_path: Path
) -> None:
    """Killed in the middle: the client fails and is told why, and the record says that the file was cut off."""
    containers.remove("mystack-doomed-1")
    containers.start("mystack-doomed-1", containers.image_debian, service="doomed")
    try:
        containers.docker("exec", "mystack-doomed-1", "truncate", "-s", "20G", "/tmp/huge")
        (tmp_path / "huge").touch()
        subprocess.run(["truncate", "-s", "20G", str(tmp_path / "huge")], check=True)
        words = {
            "out": [remote("doomed", "/tmp/huge"), str(tmp_path / "fetched")],
            "into": [str(tmp_path / "huge"), remote("doomed", "/tmp/received")],
        }[direction]

        def moved() -> bool:
            """Tell whether some of it has got to the other side."""
            if direction == "out":
                return (tmp_path / "fetched").exists() and (tmp_path / "fetched").stat().st_size > MOVED
            size = containers.docker("exec", "mystack-doomed-1", "sh", "-c", "wc -c </tmp/received || echo 0")
            return int(size.split()[-1]) > MOVED

        with subprocess.Popen(scp_command(files, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            until = time.monotonic() + 30
            while not moved():
                assert time.monotonic() < until
                time.sleep(0.05)
            containers.docker("kill", "mystack-doomed-1")
            _, stderr = client.communicate(timeout=30)
        assert client.returncode != 0
        assert b"bastion: error: " in stderr
        uid = files.last_uid()
        assert [fact["result"] for fact in operations(files, uid) if fact["operation"] in ("read", "write")][-1] != "ok"
    finally:
        containers.remove("mystack-doomed-1")


def test_an_idle_copy_ends_with_its_container(files: Bastion, containers: Engine) -> None:
    """A client that only waits is told within seconds that the container was stopped."""
    containers.remove("mystack-doomed-2")
    containers.start("mystack-doomed-2", containers.image_debian, service="waiting")
    try:
        with subprocess.Popen(
            files.command("sftp", name="waiting@mystack", options=["-s"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(bytes.fromhex("000000050100000003"))
            client.stdin.flush()
            assert client.stdout.read(9)[4:9] == bytes.fromhex("0200000003")
            containers.docker("kill", "mystack-doomed-2")
            client.wait(timeout=15)
            assert client.stderr is not None
            assert b"bastion: error: " in client.stderr.read()
        assert client.returncode == 255
    finally:
        containers.remove("mystack-doomed-2")


def test_ten_thousand_handles_are_not_opened(files: Bastion) -> None:
    """A client that opens without closing is told of the limit, and goes on with what it has."""

    async def opened() -> int:
        async with (
            asyncssh.connect(
                "127.0.0.1",
                files.port,
                username="web@mystack",
                client_keys=[str(files.folder / "alice.key")],
                known_hosts=str(files.known_hosts),
                agent_path=None,
                config=None,
            ) as connection,
            connection.start_sftp_client() as client,
        ):
            handles: list[asyncssh.SFTPClientFile] = []

            async def open_on() -> None:
                while len(handles) < 10_000:
                    handles.append(await client.open("/etc/passwd", "rb"))

            with pytest.raises(asyncssh.SFTPFailure, match="more than 64 files"):
                await open_on()
            assert await handles[0].read(4)
            return len(handles)

    assert asyncio.run(opened()) == 64


def test_what_the_record_says_is_what_sha256sum_says(files: Bastion) -> None:
    """A file of 40 MiB, fetched without stopping: the digest on record is the container's own."""
    told = files.ssh("head -c 41943040 /dev/urandom >/tmp/random; sha256sum /tmp/random").stdout.split()[0].decode()
    done = sftp(files, "get /tmp/random /dev/null\n")
    assert done.returncode == 0
    (fact,) = (fact for fact in operations(files, files.last_uid()) if fact["operation"] == "read")
    assert fact["sha256"] == told
    assert json.loads(files.cli("transcripts", "files", "last", "--identity", str(files.auditor), "--json").stdout)


def test_a_copy_ends_when_its_paths_change(place: Place, tmp_path: Path) -> None:
    """A session for files whose grant gets other paths is ended with 253 and its reason, and a new one has the new."""
    server = Bastion(tmp_path / "changing", place.sections, grants=GRANTS)
    server.add("bob")
    server.start()
    try:
        with subprocess.Popen(
            server.command("sftp", user="bob", options=["-s"]), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as client:
            until = time.monotonic() + 20
            while not [one for one in server.sessions() if one["state"] == "active"]:
                assert time.monotonic() < until
            server.config.write_text(server.config.read_text().replace("/app/log/**", "/app/other/**"))
            os.kill(server.pid, signal.SIGHUP)
            assert client.stderr is not None
            assert b"the grants for files have changed" in client.stderr.read()
        assert client.returncode == 253
        assert b"/app/other\n" in sftp(server, "pwd\n", name="web@mystack", user="bob").stdout
    finally:
        assert server.stop() == 0
