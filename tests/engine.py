"""Start and stop a Docker Engine of the tests' own: its own socket, processes and storage."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from tests.images import NAMES, make

_CHANGES: Final = {
    "busybox": ('CMD ["sleep", "100000"]',),
    "debian": ('CMD ["sleep", "100000"]', "ENV LANG=C.UTF-8"),
    "scratch": ('ENTRYPOINT ["/sleep"]', 'CMD ["100000"]'),
}


class EngineUnavailable(Exception):  # says what is missing; the fixture skips or fails by it
    """No engine can be had here; the text says why."""


class Engine:
    """A running Docker Engine with the tests' images.

    Each run takes the first storage slot of the cache that no other run holds (flock), so the images are imported
    once per slot; what an earlier run that was killed left in the slot is ended first.
    """

    image_busybox = "bastion-test/busybox"
    image_debian = "bastion-test/debian"
    image_scratch = "bastion-test/scratch"

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._slot, self._lock = _take_slot(cache / "engine")
        self._end_stale()
        self._run = Path(tempfile.mkdtemp(prefix="bastion-engine-"))  # short: a socket's path has 107 bytes at most
        (self._slot / "run").write_text(str(self._run))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """The engine's address, as in $DOCKER_HOST."""
        return f"unix://{self._run}/docker.sock"

    def start_engine(self, *, bridge: bool = False, live_restore: bool = False) -> None:
        """Start dockerd and wait until it answers; with `bridge` its containers can have a network.

        With `live_restore` they live on while it is restarted.

        Raises:
            EngineUnavailable: it is not installed, not allowed here, or did not come up.
        """
        for program in ("dockerd", "docker"):
            if shutil.which(program) is None:
                raise EngineUnavailable(f"{program} is not installed (tests/prepare.sh)")
        if os.geteuid() != 0:
            raise EngineUnavailable("starting dockerd needs root")
        command = [
            "dockerd",
            "-H",
            self.host,
            "--data-root",
            str(self._slot / "data"),
            "--exec-root",
            f"{self._run}/exec",
        ]
        command += ["-p", f"{self._run}/docker.pid", "--config-file", f"{self._run}/none.json"]
        command += [] if bridge else ["--bridge", "none", "--iptables=false"]
        command += ["--live-restore"] if live_restore else []
        (self._run / "none.json").write_text("{}")
        with (self._run / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while self._docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > until:
                words = (self._run / "dockerd.log").read_text(errors="replace").splitlines()[-3:]
                raise EngineUnavailable("dockerd did not come up: " + " / ".join(words))
            time.sleep(0.1)

    def prepare(self) -> None:
        """Remove what an earlier run left and import the images that the slot does not have yet.

        Raises:
            ImageUnavailable: an image cannot be made here.
        """
        if left := self.docker("ps", "-aq").split():
            self.docker("rm", "-f", *left)
        present = self.docker("images", "--format", "{{.Repository}}").split()
        for name in NAMES:
            if f"bastion-test/{name}" not in present:
                tar = make(self._cache / "images", name)
                changes = [word for change in _CHANGES[name] for word in ("--change", change)]
                self.docker("import", *changes, str(tar), f"bastion-test/{name}")

    def docker(self, *args: str) -> str:
        """Run the docker command line against this engine and return its standard output, stripped.

        Raises:
            AssertionError: it failed; the text has its standard error.
        """
        done = self._docker(*args)
        assert done.returncode == 0, f"docker {' '.join(args)}: {done.stderr.strip()}"
        return done.stdout.strip()

    def start(
        self,
        name: str,
        image: str,
        *,
        stack: str = "mystack",
        service: str = "web",
        labels: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> str:
        """Start a container and return its id.

        `labels` replace those of Compose; `args` go before the image and `command` after it.
        """
        if labels is None:
            labels = {"com.docker.compose.project": stack, "com.docker.compose.service": service}
        words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        return self.docker("run", "-d", "--network", "none", "--name", name, *words, *args, image, *command)

    def remove(self, *names: str) -> None:
        """Remove containers, running or not; those that are not there are no error."""
        self._docker("rm", "-f", *names, check=False)

    def pids(self) -> list[int]:
        """Return the pids of the engine and of everything it runs by itself (containerd, shims)."""
        return _processes_of(self._run)

    def kill(self) -> None:
        """End the engine and its containers at once, as a crash of the machine does; `start_engine` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        _end_processes_of(self._run)
        (self._run / "exec/containerd/containerd.pid").unlink(missing_ok=True)  # a zombie of that pid would count as it

    def kill_daemon(self) -> None:
        """End dockerd alone, as a crash of it or an upgrade does; its containers run on where it was told so."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        (self._run / "exec/containerd/containerd.pid").unlink(missing_ok=True)  # as in kill()

    def stop_engine(self) -> None:
        """Stop dockerd; its containers stop with it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            running = self._docker("ps", "-q", check=False).stdout.split()
            if running:
                self._docker("kill", *running, check=False)
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def close(self) -> None:
        """Stop the engine and give the slot back."""
        self.stop_engine()
        self._end_stale()
        self._lock.close()

    def _docker(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", self.host, *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=120 if check else 20,
        )

    def _end_stale(self) -> None:
        """End what still runs out of the slot's last run folder, and remove the folder."""
        try:
            run = Path((self._slot / "run").read_text())
        except FileNotFoundError:
            return
        _end_processes_of(run)
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if f"{(point := mount.split(' ')[1])}/".startswith((f"{run}/", f"{self._slot}/data/")):
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        shutil.rmtree(run, ignore_errors=True)
        (self._slot / "run").unlink()


def _take_slot(folder: Path) -> tuple[Path, IO[str]]:
    for number in range(32):
        slot = folder / str(number)
        slot.mkdir(parents=True, exist_ok=True)
        lock = (slot / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return slot, lock
    raise EngineUnavailable(f"all 32 slots under {folder} are in use")


def _processes_of(run: Path) -> list[int]:
    """Return the pids of those whose command line names the run folder, our own process apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{run}/".encode() in words:
                found.append(int(entry.name))
    return found


def _end_processes_of(run: Path) -> None:
    until = time.monotonic() + 10
    while (left := _processes_of(run)) and time.monotonic() < until:
        for pid in left:
            _kill(pid)
        time.sleep(0.1)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
