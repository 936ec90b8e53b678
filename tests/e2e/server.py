"""A bastion of the tests' own, run as a process of its own and used through the stock OpenSSH client."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pexpect

_READY_SECONDS: Final = 30.0


class Bastion:
    """A server in a folder of its own; `ssh` runs the real client against it as alice, who may do everything.

    `engine` is the TOML that says where its containers are, `grants` replaces the default grants.
    """

    def __init__(
        self,
        folder: Path,
        engine: str,
        *,
        grants: str | None = None,
        audit: Path | None = None,
        program: Sequence[str] = (sys.executable, "-m", "bastion"),
    ) -> None:
        self.folder = folder
        self._program = list(program)
        self.config = folder / "bastion.toml"
        self.keys = folder / "keys"
        self.transcripts = audit or folder / "transcripts"
        self.known_hosts = folder / "known_hosts"
        self.auditor = folder / "auditor.key"
        self.log = folder / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.cli("keys", "init", config=False, env={"BASTION_KEYS__HOME": str(self.keys)})
        recipient = _age_key(self.auditor)
        (self.keys / "auditors" / "auditor.pub").write_text(recipient + "\n")
        self.config.write_text(
            f"""
[ssh]
listen = ["127.0.0.1:0"]
drain_timeout = "0s"
[keys]
home = "{self.keys}"
[audit]
directory = "{self.transcripts}"
[api]
listen = "unix:{folder}/api.sock"
"""
            + engine
            + (grants if grants is not None else '[[grants]]\nusers = ["alice"]\nstacks = ["*"]\n')
        )
        self.add("alice")

    # The server's life.

    def start(self) -> "Bastion":
        """Start the server and wait until it listens."""
        with self.log.open("ab") as log:
            start = log.tell()
            self._process = subprocess.Popen(
                [*self._program, "serve", "--config", str(self.config)], stdout=log, stderr=log, cwd=self.folder
            )
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until:
            for line in self.log.read_bytes()[start:].decode(errors="replace").splitlines():
                if line.startswith("{") and (fact := json.loads(line)).get("event") == "serving":
                    self.port = int(fact["addresses"][0].rpartition(":")[2])
                    public = (self.keys / "host" / "ssh_host_ed25519_key.pub").read_text().split()
                    self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
                    return self
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the bastion did not start: {self.log.read_text(errors='replace')[-2000:]}")

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the server as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def send_signal(self, number: int) -> None:
        """Send the server a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """End the server as an operator does; return its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self.wait(30)

    def wait(self, seconds: float) -> int:
        """Wait for the server's own end and return its exit status; kill it when the time is over."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=seconds)
        finally:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
            self._process = None
        return status

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the server's log lines of one kind."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [fact for line in lines if line.startswith("{") and (fact := json.loads(line)).get("event") == name]

    # Its command line.

    def cli(
        self, *words: str, config: bool = True, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of bastion's against this configuration."""
        command = [sys.executable, "-m", "bastion", *words, *(["--config", str(self.config)] if config else [])]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(env or {})},
            timeout=60,
            cwd=self.folder,
        )
        assert done.returncode == 0 or not check, f"bastion {' '.join(words)}: {done.returncode} {done.stderr}"
        return done

    def issue(self, user: str, stack: str) -> Path:
        """Issue a key to a user for a stack; return the private key's path."""
        key = self.folder / f"{user}.key"
        key.unlink(missing_ok=True)
        self.cli("keys", "issue", user, "--stack", stack, "--output", str(key))
        return key

    def add(self, user: str) -> Path:
        """Make a key with ssh-keygen and add it for a user, for every stack; return the private key's path."""
        key = self.folder / f"{user}.key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user, "-f", str(key)], check=True)
        self.cli("keys", "add", user, f"{key}.pub")
        return key

    # Its users.

    def command(
        self, *words: str, name: str = "web@mystack", user: str = "alice", options: Sequence[str] = ()
    ) -> list[str]:
        """Return the words of the stock client's command."""
        return [
            "ssh",
            "-F", "none",
            "-p", str(self.port),
            "-i", str(self.folder / f"{user}.key"),
            "-o", "IdentitiesOnly=yes",
            "-o", "IdentityAgent=none",
            "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.known_hosts}",
            "-o", "StrictHostKeyChecking=yes",
            *options,
            f"{name}@127.0.0.1",
            *words,
        ]  # fmt: skip

    def ssh(
        self,
        *words: str,
        name: str = "web@mystack",
        user: str = "alice",
        options: Sequence[str] = (),
        input: bytes | None = None,  # noqa: A002  # subprocess.run's own word
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the stock client to its end; without input its standard input is empty."""
        return subprocess.run(
            self.command(*words, name=name, user=user, options=options),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            check=False,
            timeout=timeout,
        )

    def terminal(
        self,
        *words: str,
        name: str = "web@mystack",
        user: str = "alice",
        options: Sequence[str] = (),
        size: tuple[int, int] = (24, 80),
    ) -> "pexpect.spawn[bytes]":
        """Run the stock client on a terminal of (rows, columns), as a person does."""
        command = self.command(*words, name=name, user=user, options=("-tt", *options))
        return pexpect.spawn(
            command[0], command[1:], dimensions=size, timeout=20, env={**os.environ, "TERM": "xterm-256color"}
        )

    # Its auditors.

    def finished(self, uid: str, seconds: float = 20) -> Path:
        """Wait until a session's transcript is finished and signed; return the file."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for signature in self.transcripts.rglob(f"{uid}.sig"):
                if not list(signature.parent.glob(f"{uid}*.wal")):
                    return signature.with_name(f"{uid}.cast.age")
            time.sleep(0.05)
        raise AssertionError(f"no finished transcript of {uid}: {sorted(self.transcripts.rglob('*'))}")

    def readiness(self) -> tuple[int, str]:
        """Return the status and the error of /readyz."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.folder / "api.sock"))) as client:
            answer = client.get("http://bastion/readyz", timeout=30)
            return answer.status_code, str(answer.json().get("error", ""))

    def last_uid(self, seconds: float = 20, user: str | None = None) -> str:
        """Return the uid of the session that ended last, of anybody or of one user, when none is live any more.

        A session that ended earlier may be cleaned up later: a test behind other users' sessions names its own user.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.sessions():  # first: a session that is still cleaned up has no line yet
                lines = [line for line in self.events("session") if user in {None, line["user"]}]
                if lines:
                    return str(lines[-1]["uid"])
            time.sleep(0.05)
        raise AssertionError("sessions are still live")

    def sessions(self) -> list[dict[str, Any]]:
        """Return the live sessions, as the command line lists them."""
        listed = json.loads(self.cli("sessions", "list", "--json").stdout)
        return list(listed["sessions"] if isinstance(listed, dict) else listed)

    def read(self, uid: str) -> list[Any]:
        """Return the lines of a finished transcript, opened by stock age and zcat."""
        file = self.finished(uid)
        opened = subprocess.run(
            ["age", "-d", "-i", str(self.auditor), str(file)], capture_output=True, check=True
        ).stdout
        text = subprocess.run(["zcat"], input=opened, capture_output=True, check=True).stdout
        return [json.loads(line) for line in text.splitlines()]


def uid_of(shell: "pexpect.spawn[bytes]") -> str:
    """Return the session's uid from the line that a terminal shows first."""
    shell.expect(rb"session ([0-9a-f]{16})")
    assert isinstance(shell.match, re.Match)
    return str(shell.match.group(1), "ascii")


def shown(events: Sequence[Any], codes: str = "o") -> str:
    """Return the text of a transcript's events of these codes."""
    return "".join(event[2] for event in events[1:] if event[1] in codes)


def _age_key(path: Path) -> str:
    path.unlink(missing_ok=True)
    subprocess.run(["age-keygen", "-o", str(path)], capture_output=True, check=True)
    return subprocess.run(["age-keygen", "-y", str(path)], capture_output=True, text=True, check=True).stdout.strip()
