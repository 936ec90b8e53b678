"""What is compared: the bastion with and without its record, `docker exec`, and OpenSSH's sshd with a ForceCommand."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.server import Bastion
from tests.engine import Engine

CONTAINER = "bench-web-1"
OWN_SERVER = "sshd + ForceCommand"
_LIMITS = """
[sessions]
per_service = 1000
per_user = 1000
"""
_GRANTS = '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\nallow = ["shell", "exec", "files:read", "files:write"]\n'


@dataclass(frozen=True)
class Contender:
    """One way into the container.

    `command` gives the words of a client for a remote command and ssh options; `pids` the server's processes, the
    engine's left out; `port` and `key` are where a login goes, or None where there is none.
    """

    name: str
    command: Callable[..., list[str]]
    pids: Callable[[], list[int]]
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    user: str = "web@bench"


@contextmanager
def contenders(engine: Engine, folder: Path) -> Iterator[list[Contender]]:
    """Start a container, the servers before it, and give every way in."""
    engine.remove(CONTAINER)
    engine.start(CONTAINER, engine.image_debian, stack="bench", service="web")
    with ExitStack() as stack:
        stack.callback(engine.remove, CONTAINER)
        sections = f'[docker]\nhost = "{engine.host}"\n'
        recorded = bastion(stack, "bastion", folder / "recorded", sections)
        unrecorded = bastion(stack, "bastion, no record", folder / "unrecorded", sections, "bench.unrecorded")
        direct = Contender(
            "docker exec",
            lambda command, *, tty=False: [
                *("docker", "-H", engine.host, "exec", "-it" if tty else "-i", CONTAINER),
                *("sh", "-c", command),
            ],
            list,
        )
        yield [direct, recorded, unrecorded, _sshd(stack, folder / "sshd", engine)]


def bastion(stack: ExitStack, name: str, folder: Path, sections: str, module: str = "bastion") -> Contender:
    """Start a bastion before the engine that the TOML of `sections` names, where `web@bench` is the container."""
    server = Bastion(folder, sections + _LIMITS, grants=_GRANTS, program=[sys.executable, "-m", module])
    server.config.write_text(
        server.config.read_text().replace("[ssh]", "[ssh]\nmax_channels = 1000\nmax_startups_per_source = 100")
    )
    server.start()
    stack.callback(server.stop)
    return Contender(
        name,
        lambda command, *, tty=False: server.command(command, name="web@bench", options=["-tt"] if tty else []),
        lambda: [server.pid],
        server.port,
        folder / "alice.key",
        server.known_hosts,
    )


def _sshd(stack: ExitStack, folder: Path, engine: Engine) -> Contender:
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wrapper = folder / "enter"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'if [ -t 0 ]; then exec docker -H {engine.host} exec -it {CONTAINER} sh -c "$SSH_ORIGINAL_COMMAND"; fi\n'
        f'exec docker -H {engine.host} exec -i {CONTAINER} sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    wrapper.chmod(0o755)
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\nMaxSessions 1000\n"
        f"MaxStartups 1000\nForceCommand {wrapper}\nSubsystem sftp /opt/sftp-server\nCiphers aes256-gcm@openssh.com\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", str(config)])
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")

    def command(remote: str, *, tty: bool = False) -> list[str]:
        return [
            *("ssh", "-F", "none", "-p", str(port), "-i", str(folder / "user"), "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes", "-o", "IdentityAgent=none"),
            *(["-tt"] if tty else []),
            *("root@127.0.0.1", remote),
        ]

    return Contender(
        OWN_SERVER,
        command,
        lambda: _descendants(process.pid),
        port,
        folder / "user",
        known_hosts,
        "root",
    )


def _descendants(pid: int) -> list[int]:
    """Return the process and all its children: a server of sshd's kind is many processes."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        waiting += parents.get(one, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of processes and of their children that have ended, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def proportional_kib(pids: list[int]) -> int:
    """Return the memory of processes in KiB, what they share counted in proportion (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total
