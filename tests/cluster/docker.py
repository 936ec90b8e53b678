"""Make the containers of pods on the tests' Docker Engine, and watch them end."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any, Final

from tests.cluster.answers import Object
from tests.cluster.runc import Runc

LABEL: Final = "bastion-standin"


class Docker:
    """One Docker Engine, driven by its command line; what is made here carries our label and no other."""

    def __init__(self, host: str, mark: str, folder: Path) -> None:
        self._host = host
        self._mark = mark
        self._volumes = folder / "volumes"
        self.runc = Runc(Path(host.removeprefix("unix://")).parent)
        self._images: dict[str, str | None] = {}

    async def image(self, name: str) -> str | None:
        """Return an image's digest, `sha256:…`; None when the engine has no such image."""
        if self._images.get(name) is None:
            code, out = await self._docker("image", "inspect", "-f", "{{.Id}}", name)
            self._images[name] = out.strip() if code == 0 else None
        return self._images[name]

    async def run(self, pod: Object, container: Object, name: str, net: str | None, pids: str | None) -> str:
        """Start a container of a pod and return its id.

        `net` is a container whose network it shares, `pids` one whose processes it sees.

        Raises:
            OSError: the engine refused; the text is its own.
        """
        words = ["run", "-d", "--name", name, "--label", f"{LABEL}={self._mark}"]
        words += self._namespaces(pod, net, pids) + self._options(pod, container)
        command = [*container.get("command", ()), *container.get("args", ())]
        if container.get("command"):
            words += ["--entrypoint", command.pop(0)]
        starting = asyncio.create_task(self._docker(*words, container["image"], *command))
        try:
            code, out = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # or what it starts is removed by nobody
            raise
        if code != 0:
            await self.remove(name)
            raise OSError(out.strip())
        return out.split()[0]

    async def remove(self, *containers: str) -> None:
        """Kill and remove containers; those that are not there are no error."""
        if containers:
            await self._docker("rm", "-f", "-v", *containers)

    async def remove_all(self) -> None:
        """Remove every container that carries our label."""
        _, out = await self._docker("ps", "-aq", "--filter", f"label={LABEL}={self._mark}")
        await self.remove(*out.split())

    async def ended(self, container: str) -> int:
        """Wait until a container has ended and return its exit status."""
        while True:
            try:
                pidfd = os.pidfd_open(self.runc.pid(container))
            except (FileNotFoundError, ProcessLookupError):
                break
            loop, ready = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(pidfd, ready.set)
            try:
                await ready.wait()
                break
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
        _, out = await self._docker("wait", container)
        return int(out) if out.strip().isdigit() else 137

    def signal(self, container: str, number: int) -> None:
        """Send a signal to a container's first process, if it still runs."""
        try:
            os.kill(self.runc.pid(container), number)
        except (FileNotFoundError, ProcessLookupError):
            return

    def forget(self, pod: Object) -> None:
        """Remove the files of a pod's own volumes."""
        shutil.rmtree(self._volumes / pod["metadata"]["uid"], ignore_errors=True)

    def _namespaces(self, pod: Object, net: str | None, pids: str | None) -> list[str]:
        spec = pod["spec"]
        words = ["--hostname", pod["metadata"]["name"][:63]]
        if spec.get("hostNetwork"):
            words = ["--network", "host"]
        elif net is not None:
            words = ["--network", f"container:{net}"]
        else:
            words += ["--network", "none"]
        if spec.get("hostPID"):
            words += ["--pid", "host"]
        elif pids is not None:
            words += ["--pid", f"container:{pids}"]
        return words

    def _options(self, pod: Object, container: Object) -> list[str]:
        security: dict[str, Any] = {**(pod["spec"].get("securityContext") or {})}
        security |= container.get("securityContext") or {}
        words = []
        if (user := security.get("runAsUser")) is not None:
            words += ["--user", f"{user}:{security.get('runAsGroup', user)}"]
        words += ["--privileged"] if security.get("privileged") else []
        words += ["--read-only"] if security.get("readOnlyRootFilesystem") else []
        capabilities = security.get("capabilities") or {}
        words += [word for name in capabilities.get("add", ()) for word in ("--cap-add", name)]
        words += [word for name in capabilities.get("drop", ()) for word in ("--cap-drop", name)]
        for entry in container.get("env", ()):
            words += ["--env", f"{entry['name']}={entry.get('value', '')}"]
        words += ["--workdir", container["workingDir"]] if container.get("workingDir") else []
        words += ["-i"] if container.get("stdin") else []
        words += ["-t"] if container.get("tty") else []
        return words + self._mounts(pod, container)

    def _mounts(self, pod: Object, container: Object) -> list[str]:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        words = []
        for mount in container.get("volumeMounts", ()):
            volume = volumes.get(mount["name"], {})
            if (on_host := volume.get("hostPath")) is not None:
                source = Path(on_host["path"])
            else:  # emptyDir, and of every other kind an empty folder too
                source = self._volumes / pod["metadata"]["uid"] / mount["name"]
                source.mkdir(parents=True, exist_ok=True)
                source.chmod(0o777)
            read_only = ":ro" if mount.get("readOnly") else ""
            words += ["-v", f"{source}:{mount['mountPath']}{read_only}"]
        return words

    async def _docker(self, *args: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "docker",
            "-H",
            self._host,
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode(errors="replace")
