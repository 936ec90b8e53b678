"""What the transcripts' tests share: a session, a place with an auditor and a signing key, and its reading."""

import asyncio
import contextlib
import json
import subprocess
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bastion.errors import BastionError
from bastion.model import (
    STDERR,
    STDIN,
    STDOUT,
    Name,
    Recorded,
    Request,
    Session,
    Target,
    Terminal,
    now,
)
from bastion.transcripts import Transcripts, generate_identity, generate_signing_key, lines

TARGET = Target("docker", "mystack", "web", "c0ffee", "mystack-web-1", image="debian:12", image_digest="sha256:00")


def session(uid: str = "s1") -> Session:
    """Return a session that is about to start."""
    return Session(
        uid=uid,
        title="web@mystack",
        service_name="web",
        namespace=None,
        command=None,
        deployment_name=None,
        pod_name=None,
        container_name="mystack-web-1",
        stack="mystack",
        user="alice",
        state="provisioning",
        created_at=now(),
        client_address="192.0.2.1",
        key_fingerprint="SHA256:x",
        node="n1",
    )


def request(uid: str = "s1", *, tty: bool = False) -> Request:
    """Return the request that the session answers."""
    terminal = Terminal("xterm", 80, 24) if tty else None
    return Request(uid, Name("web", stack="mystack"), "shell", terminal=terminal)


@dataclass
class Place:
    """A transcript directory with its keys."""

    root: Path
    identity: Path
    recipient: str
    public_key: Path
    failures: list[BastionError] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """Where the transcripts go."""
        return self.root / "transcripts"

    @property
    def signing_key(self) -> Path:
        """The private signing key."""
        return self.root / "signing"

    def recipients(self) -> list[str]:
        """Return the list that a server would be started with."""
        return [self.recipient]

    def read(self, uid: str = "s1") -> list[str]:
        """Decrypt a transcript with our own reader."""
        return list(lines(self.directory, uid, self.identity))

    def path(self, uid: str = "s1") -> Path:
        """Return the one file of a transcript."""
        (path,) = self.directory.glob(f"*/*/*/{uid}.cast.age")
        return path

    def stock(self, uid: str = "s1", identity: Path | None = None) -> list[str]:
        """Decrypt a transcript with nothing but age and zcat."""
        opened = subprocess.run(
            ["age", "-d", "-i", identity or self.identity, self.path(uid)], check=True, capture_output=True
        )
        text = subprocess.run(["zcat"], input=opened.stdout, check=True, capture_output=True).stdout.decode()
        return text.removesuffix("\n").split("\n")  # splitlines would split at U+2028 too


def run(*command: str | Path, content: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a stock tool on some input and wait for it."""
    return subprocess.run(command, input=content, capture_output=True, check=check)


def descriptor_of(name: str) -> int:
    """Return this process's descriptor of the one open file of that name."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if entry.readlink().name == name:
                return int(entry.name)
    raise LookupError(name)


def make_place(root: Path) -> Place:
    """Make an auditor and a signing key under `root`."""
    secret, recipient = generate_identity()
    identity = root / "auditor"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    return Place(root, identity, recipient, generate_signing_key(root / "signing"))


Opener = Callable[..., Transcripts]


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def fail_loudly(error: Exception) -> None:
    """Stand for a session that must not be told of a failure."""
    raise AssertionError(error)


async def record(transcripts: Transcripts, *events: Recorded, uid: str = "s1", tty: bool = False) -> None:
    """Record one whole session."""
    async with transcripts.open(session(uid), request(uid, tty=tty), TARGET, on_failure=fail_loudly) as recorder:
        for event in events:
            await recorder.record(event)


def stream(lines: list[str], number: int) -> bytes:
    """Put one stream's bytes together from a transcript's lines, as docs/transcripts.md says."""
    shown, twin, result = STDOUT, False, []
    for line in lines[1:]:
        _, code, data = json.loads(line)
        if code == "b":
            of, _, text = data.partition(":")
            twin = of.endswith(("i", "o"))
            result += [b64decode(text)] if int(of.rstrip("io")) == number else []
        elif twin:
            twin = False
        elif code == "m" and data in ("stdout", "stderr"):
            shown = STDOUT if data == "stdout" else STDERR
        elif (code == "o" and shown == number) or (code == "i" and number == STDIN):
            result.append(data.encode())
    return b"".join(result)
