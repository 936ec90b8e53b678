"""Files: scp and sftp through the bastion, `docker cp`, and OpenSSH's sftp-server in the same container behind sshd."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import CONTAINER, OWN_SERVER, Contender
from bench.measure import MIB, SIZE
from tests.engine import Engine

COPY, SHELL, SERVER, SSHD = "docker cp", "bastion", "bastion, image's sftp-server", "sshd + sftp-server"
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
ELSEWHERE = "/opt/sftp-server"  # where the bastion does not look for it
_SERVICE = "bench-server-1"
_MANY = "mkdir -p /tmp/many; cd /tmp/many; seq -f log-%g.txt 10000 | xargs touch"


@dataclass(frozen=True)
class Mover:
    """One way for files: the words of a client that fetches one, sends one, and lists /tmp/many."""

    name: str
    fetch: Callable[[str, Path], list[str]]
    send: Callable[[Path, str], list[str]]
    listing: list[str] | None = None


@contextmanager
def movers(engine: Engine, every: list[Contender], folder: Path) -> Iterator[list[Mover]]:
    """Put files and OpenSSH's sftp-server into the container, and give every way; one of `every` is the sshd."""
    engine.remove(_SERVICE)
    engine.start(_SERVICE, engine.image_debian, stack="bench", service="server")
    try:
        engine.docker("exec", _SERVICE, "mkdir", "-p", str(SFTP_SERVER.parent))
        engine.docker("cp", str(SFTP_SERVER), f"{_SERVICE}:{SFTP_SERVER}")
        engine.docker("cp", str(SFTP_SERVER), f"{CONTAINER}:{ELSEWHERE}")
        for container in (CONTAINER, _SERVICE):
            engine.docker("exec", container, "sh", "-c", f"head -c {SIZE} /dev/urandom > /tmp/random")
            engine.docker(
                "exec", container, "sh", "-c", "mkdir -p /tmp/many; cd /tmp/many; seq -f log-%g.txt 10000 | xargs touch"
            )
        (folder / "sent").write_bytes(os.urandom(SIZE))
        (folder / "list").write_text("ls -l /tmp/many\n")
        at = {one.name: one for one in every}
        yield [
            Mover(
                COPY,
                lambda there, here: ["docker", "-H", engine.host, "cp", f"{CONTAINER}:{there}", str(here)],
                lambda here, there: ["docker", "-H", engine.host, "cp", str(here), f"{CONTAINER}:{there}"],
            ),
            over_ssh(SHELL, at["bastion"], "web@bench", folder),
            over_ssh(SERVER, at["bastion"], "server@bench", folder),
            over_ssh(SSHD, at[OWN_SERVER], "root", folder),
        ]
    finally:
        engine.remove(_SERVICE)


def fetch(mover: Mover, folder: Path) -> float:
    """Return MiB/s of 256 MiB of random bytes out of the container."""
    (folder / "fetched").unlink(missing_ok=True)
    took = _seconds(mover.fetch("/tmp/random", folder / "fetched"))
    assert (folder / "fetched").stat().st_size == SIZE
    return SIZE / MIB / took


def send(mover: Mover, folder: Path) -> float:
    """Return MiB/s of 256 MiB of random bytes into the container."""
    return SIZE / MIB / _seconds(mover.send(folder / "sent", "/tmp/sent"))


def listing(mover: Mover, _folder: Path) -> float:
    """Return the seconds of an `ls -l` of a folder of 10,000 files."""
    assert mover.listing is not None
    return _seconds(mover.listing)


def over_ssh(name: str, contender: Contender, user: str, folder: Path) -> Mover:
    """Return the way by the stock scp and sftp, to a server that is a contender; `folder` has sftp's batch."""
    options = ["-q", "-F", "none", "-P", str(contender.port), "-i", str(contender.key), "-o", "IdentitiesOnly=yes"]
    options += ["-o", f"UserKnownHostsFile={contender.known_hosts}", "-o", "BatchMode=yes", "-o", "IdentityAgent=none"]
    place = f"{user}@127.0.0.1"
    return Mover(
        name,
        lambda there, here: ["scp", *options, f"{place}:{there}", str(here)],
        lambda here, there: ["scp", *options, str(here), f"{place}:{there}"],
        ["sftp", *options, "-b", str(folder / "list"), place],
    )


def _seconds(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
