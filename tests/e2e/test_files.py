"""Files by the stock sftp and scp, in and out of containers with coreutils, with busybox, and with nothing at all."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.file_clients import digest, every_byte, operations, remote, scp, sftp, tree
from tests.e2e.places import DockerPlace, Place
from tests.e2e.server import Bastion
from tests.engine import Engine

GRANTS = (
    "[sessions]\nper_service = 100\nper_user = 100\n"
    '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\nallow = ["shell", "exec", "files:read", "files:write", "toolbox"]\n'
)
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
MIB = 2**20
WAYS = {
    "web": "a shell in the container",
    "small": "a shell in the container",
    "bare": "toolbox",
    "server": SFTP_SERVER,
}


@pytest.fixture(scope="module")
def files(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a running bastion whose alice may do everything with files, and whose stack has a toolbox."""
    if isinstance(place, DockerPlace):
        sections = f'{place.sections}[[stacks]]\nname = "mystack"\ntoolbox = "{place.toolbox}"\n'
    else:
        sections = f'{place.sections}toolbox = "{place.toolbox}"\n'
    server = Bastion(tmp_path_factory.mktemp("files"), sections, grants=GRANTS).start()
    yield server
    assert server.stop() == 0
    assert not server.events("internal error"), "an unknown error was logged"


@pytest.fixture(params=["web", "small", "bare", "server"])
def service(request: pytest.FixtureRequest, place: Place) -> str:
    """Name a service: Debian, busybox, one static program, and Debian with OpenSSH's own sftp-server."""
    if request.param == "bare":
        sftp(request.getfixturevalue("files"), "-mkdir /tmp\n", name="bare@mystack")  # its image has none
    if request.param == "server":
        if not isinstance(place, DockerPlace):
            pytest.skip("OpenSSH's server is put into a container of Docker only")
        request.getfixturevalue("with_server")
    return str(request.param)


@pytest.fixture(scope="session")
def with_server(containers: Engine) -> Iterator[None]:
    """Have a container of the service `server` that has OpenSSH's sftp-server."""
    containers.remove("mystack-server-1")
    containers.start("mystack-server-1", containers.image_debian, service="server")
    containers.docker("exec", "mystack-server-1", "mkdir", "-p", "/usr/lib/openssh")
    containers.docker("cp", SFTP_SERVER, f"mystack-server-1:{SFTP_SERVER}")
    yield
    containers.remove("mystack-server-1")


@pytest.mark.everywhere
def test_sftp_does_what_it_is_told(files: Bastion, service: str, tmp_path: Path) -> None:
    """Put, get, list, rename, chmod, symlink, mkdir and remove, and what is left is what was meant."""
    (tmp_path / "sent").write_bytes(os.urandom(300_000))
    done = sftp(
        files,
        f"""
mkdir /tmp/sftp
cd /tmp/sftp
put {tmp_path}/sent first
chmod 640 first
rename first second
symlink second link
ls -l
get link {tmp_path}/back
rm link
rm second
cd /
rmdir /tmp/sftp
-ls /tmp/sftp
""",
        name=f"{service}@mystack",
    )
    assert done.returncode == 0, done.stderr.decode()
    assert digest(tmp_path / "back") == digest(tmp_path / "sent")
    listed = [line.split() for line in done.stdout.decode().splitlines() if line.startswith(("-rw", "lrwx"))]
    assert sorted((line[0], line[4], line[8]) for line in listed) == [
        ("-rw-r-----", "300000", "second"),
        ("lrwxrwxrwx", "6", "link"),
    ]
    assert b"/tmp/sftp" in done.stderr
    assert b"not found" in done.stderr


@pytest.mark.everywhere
@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 17])
@pytest.mark.parametrize("legacy", [False, True], ids=["scp", "scp -O"])
def test_scp_both_ways(files: Bastion, service: str, size: int, legacy: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """What was sent and fetched again has the same SHA-256."""
    (tmp_path / "sent").write_bytes(os.urandom(size))
    options = ["-O"] if legacy else []
    there = remote(service, f"/tmp/scp-{size}-{legacy}")
    sent = scp(files, str(tmp_path / "sent"), there, options=options)
    assert (sent.returncode, sent.stderr) == (0, b"")
    fetched = scp(files, there, str(tmp_path / "back"), options=options)
    assert (fetched.returncode, fetched.stderr) == (0, b"")
    assert digest(tmp_path / "back") == digest(tmp_path / "sent")


def test_C3_scp_of_a_name_that_is_not_utf_8(files: Bastion, tmp_path: Path) -> None:
    """`scp -O`, whose command holds the path, copies a file with a Latin-1 name there and back."""
    name = os.fsdecode("größer".encode("latin-1"))
    (tmp_path / name).write_bytes(b"inhalt")
    for words in (
        (str(tmp_path / name), remote("web", "/tmp/")),
        (remote("web", f"/tmp/{name}"), str(tmp_path / "back")),
    ):
        done = scp(files, *words, options=["-O"])
        assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "back").read_bytes() == b"inhalt"


@pytest.mark.parametrize("legacy", [False, True], ids=["scp", "scp -O"])
def test_names_of_every_byte(files: Bastion, service: str, legacy: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A tree whose names hold every byte but `/` and NUL comes back as it was; scp -O itself rewrites line ends."""
    sent = every_byte(tmp_path / "names", leave_out=b"\n" if legacy else b"")
    (sent / "empty").mkdir()
    (sent / "deep").mkdir()
    (sent / "deep" / "er").write_bytes(b"x" * 100_000)
    options = ["-r", "-O"] if legacy else ["-r"]
    there = f"/tmp/names-{legacy}"
    assert sftp(files, f"-mkdir {there}\n", name=f"{service}@mystack").returncode == 0
    done = scp(files, str(sent), remote(service, there), options=options)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "back").mkdir()
    done = scp(files, remote(service, f"{there}/names"), str(tmp_path / "back"), options=options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert tree(tmp_path / "back" / "names") == tree(sent)


def test_a_transfer_goes_on_where_it_stopped(files: Bastion, service: str, tmp_path: Path) -> None:
    """Reput and reget move what is missing, and that behind an offset of more than 4 GiB."""
    start, name = 5 * 2**30, f"{service}@mystack"
    sent, back = tmp_path / "sent", tmp_path / "back"
    for path, size in ((sent, start), (back, start)):
        with path.open("wb") as file:
            file.truncate(size)
    with sent.open("ab") as file:
        file.write(os.urandom(2 * MIB))
    made = files.ssh(f'truncate -s {start} "$BASTION_ROOT/tmp/sparse"', name=name)  # moving 5 GiB would take a minute
    assert made.returncode == 0, made.stderr.decode()
    done = sftp(files, f"reput {sent} /tmp/sparse\nreget /tmp/sparse {back}\nrm /tmp/sparse\n", name=name)
    assert done.returncode == 0, done.stderr.decode()
    for path in (sent, back):
        assert path.stat().st_size == start + 2 * MIB
    with sent.open("rb") as one, back.open("rb") as other:
        one.seek(start)
        other.seek(start)
        assert one.read() == other.read()


@pytest.mark.everywhere
def test_the_record_has_every_file(files: Bastion, service: str, tmp_path: Path) -> None:
    """Each file that moved is in the transcript with its path, direction, size and SHA-256; so are its contents."""
    (tmp_path / "sent").write_bytes(os.urandom(70_000))
    done = sftp(
        files,
        f"put {tmp_path}/sent /tmp/kept\nget /tmp/kept {tmp_path}/back\nrename /tmp/kept /tmp/gone\nrm /tmp/gone\n",
        name=f"{service}@mystack",
    )
    assert done.returncode == 0, done.stderr.decode()
    uid = files.last_uid()
    moved = [fact for fact in operations(files, uid) if fact["operation"] in ("read", "write")]
    assert [(fact["operation"], fact["path"], fact["size"], fact["sha256"]) for fact in moved] == [
        ("write", "/tmp/kept", 70_000, digest(tmp_path / "sent")),
        ("read", "/tmp/kept", 70_000, digest(tmp_path / "sent")),
    ]
    others = {fact["operation"]: fact for fact in operations(files, uid)}
    assert others["rename"]["other"] == "/tmp/gone"
    assert others["remove"]["path"] == "/tmp/gone"
    table = files.cli("transcripts", "files", uid, "--identity", str(files.auditor)).stdout
    assert digest(tmp_path / "sent") in table
    events = files.read(uid)[1:]
    way = WAYS[service]
    assert any(event[1] == "m" and event[2].startswith("files by ") and way in event[2] for event in events)
    held: dict[int, bytes] = {}
    for event in events:
        if event[1] == "b":
            number, _, text = event[2].partition(":")
            held[int(number)] = held.get(int(number), b"") + base64.b64decode(text)
    contents = [held[fact["stream"]] for fact in moved]
    assert contents == [(tmp_path / "sent").read_bytes()] * 2
