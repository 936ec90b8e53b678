"""Servers to be loaded: bastions of local processes or of a Docker Engine, without the limits that a load meets."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.server import Bastion

LOCAL: Final = (sys.executable, "-m", "tests.local_bastion")
DOCKER: Final = (sys.executable, "-m", "bastion")
NAME: Final = "web@mystack"
UNLIMITED: Final = {
    "max_startups": "4000",
    "max_startups_per_source": "4000",
    "max_handshakes": "0",
    "max_handshakes_per_source": "0",
    "max_connections_per_user": "5000",
    "max_connections_per_source": "5000",
    "max_channels": "1000",
}
DEFAULTS: Final = {"max_connections_per_user": "5000", "max_connections_per_source": "5000"}
"""The limits before a login as they are, and room for the load behind it."""
SESSIONS: Final = '[sessions]\nper_service = 5000\nper_user = 5000\nper_user_per_service = 5000\nidle_timeout = "0s"\n'
GRANTS: Final = '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\nallow = ["shell", "exec", "files:read"]\n'


def make(
    folder: Path,
    ssh: dict[str, str] | None = None,
    *,
    sections: str = SESSIONS,
    program: Sequence[str] = LOCAL,
) -> Bastion:
    """Return a bastion that is configured and not started; `ssh` are options of that section."""
    server = Bastion(folder, sections, grants=GRANTS, program=program)
    configure(server, UNLIMITED if ssh is None else ssh)
    return server


def configure(server: Bastion, ssh: dict[str, str]) -> None:
    """Set options of `[ssh]`."""
    lines = server.config.read_text().splitlines()
    lines = [line for line in lines if line.partition(" = ")[0] not in ssh]
    place = lines.index("[ssh]") + 1
    lines[place:place] = [f"{name} = {value}" for name, value in ssh.items()]
    server.config.write_text("\n".join(lines) + "\n")


@contextmanager
def running(server: Bastion) -> Iterator[Bastion]:
    """Run a bastion for as long as the context lasts, and leave no process of it."""
    server.start()
    try:
        yield server
    finally:
        if server.is_running:
            server.stop()


def resident_mib(pid: int) -> float:
    """Return the memory that a process has in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process itself has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
