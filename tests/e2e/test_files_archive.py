"""Files of a container that has neither shell nor toolbox: by the engine's archive API, with the stock sftp and scp."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.file_clients import digest, operations, remote, scp, sftp
from tests.e2e.places import DockerPlace, Place
from tests.e2e.server import Bastion
from tests.engine import Engine

GRANTS = (
    '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\nallow = ["files:read", "files:write"]\n'
    '[[grants]]\nusers = ["bob"]\nstacks = ["*"]\nallow = ["files:read"]\npaths = ["/app/**"]\n'
)


@pytest.fixture(scope="module")
def archived(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a running bastion whose stack lets the archive API be used."""
    if not isinstance(place, DockerPlace):
        pytest.skip("a cluster has no archive API")
    sections = f'{place.sections}[[stacks]]\nname = "mystack"\narchive = true\n'
    server = Bastion(tmp_path_factory.mktemp("archived"), sections, grants=GRANTS)
    server.add("bob")
    server.start()
    yield server
    assert server.stop() == 0
    assert not server.events("internal error"), "an unknown error was logged"


@pytest.fixture
def lone(containers: Engine) -> Iterator[str]:
    """Give a service without a shell, of the test's own."""
    containers.start("mystack-lone-1", containers.image_scratch, service="lone", args=("--user", "1000:1000"))
    yield "lone"
    containers.remove("mystack-lone-1")


@pytest.mark.docker
@pytest.mark.parametrize("old", [(), ("-O",)], ids=["sftp", "scp -O"])
def test_scp_both_ways(archived: Bastion, lone: str, tmp_path: Path, old: tuple[str, ...]) -> None:
    """Trees go in and out with times and modes, each file on record with its SHA-256, and the way too."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for name, size in {"empty": 0, "one": 1, "sub/some": 3_000_000}.items():
        (tree / name).write_bytes(os.urandom(size))
    (tree / "one").chmod(0o640)
    os.utime(tree / "one", (1_600_000_000, 1_700_000_000))
    done = scp(archived, *old, "-p", "-r", str(tree), remote(lone, "/tree"))
    assert done.returncode == 0, done.stderr
    done = scp(archived, *old, "-p", "-r", remote(lone, "/tree"), str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    for name in ("empty", "one", "sub/some"):
        assert digest(tmp_path / "back" / name) == digest(tree / name)
    back = (tmp_path / "back/one").stat()
    assert (back.st_mode & 0o777, int(back.st_mtime)) == (0o640, 1_700_000_000)
    uid = archived.last_uid()
    read = {fact["path"]: fact for fact in operations(archived, uid) if fact["operation"] == "read"}
    assert read["/tree/sub/some"]["sha256"] == digest(tree / "sub/some")
    assert any("archive API" in json.dumps(line) for line in archived.read(uid))


@pytest.mark.docker
def test_sftp_says_what_cannot_be(archived: Bastion, lone: str, tmp_path: Path) -> None:
    """Links, listings, folders and resumed copies work; what cannot be done fails in words, and nothing else breaks."""
    (tmp_path / "sent").write_bytes(os.urandom(100_000))
    (tmp_path / "part").write_bytes((tmp_path / "sent").read_bytes()[:30_000])
    done = sftp(
        archived,
        f"""
mkdir /box
put {tmp_path}/part /box/file
reput {tmp_path}/sent /box/file
symlink file /box/link
chmod 600 /box/file
ls -la /box
-rm /box/file
-rename /box/file /box/other
-get /proc/1/environ
get /box/link {tmp_path}/back
""",
        name=f"{lone}@mystack",
    )
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "back") == digest(tmp_path / "sent")
    assert b"-rw-------" in done.stdout
    assert b"1000" in done.stdout
    assert done.stderr.count(b"archive API") >= 1 or b"Operation unsupported" in done.stderr


@pytest.mark.docker
def test_paths_are_judged(archived: Bastion, lone: str, tmp_path: Path) -> None:
    """Who may read one folder reads nothing else, neither by `..` nor by a link, and writes nothing."""
    (tmp_path / "file").write_bytes(b"inside")
    made = f"mkdir /app\nput {tmp_path}/file /app/file\nsymlink /etc/passwd /app/out\n"
    assert sftp(archived, made, name=f"{lone}@mystack").returncode == 0
    done = sftp(
        archived,
        f"get /app/file {tmp_path}/back\n-get /etc/passwd {tmp_path}/no\n-get /app/../etc/passwd {tmp_path}/no\n"
        f"-get /app/out {tmp_path}/no\n-put {tmp_path}/file /app/new\n-ls /\n",
        name=f"{lone}@mystack",
        user="bob",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == b"inside"
    assert not (tmp_path / "no").exists()
    assert done.stderr.count(b"no grant lets you do that there") >= 5, done.stderr
    assert b"/app/new" not in sftp(archived, "ls /app\n", name=f"{lone}@mystack").stdout
