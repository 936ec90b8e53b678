"""Helper shells on this machine: every kind of shell there is here, and tools that a container might lie with."""

import os
import pwd
import shlex
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bastion.files.helper import Run, Start, started
from bastion.files.shell_files import ShellFiles
from bastion.model import Name, Request, Target
from bastion.runtimes import Exec, Runtime
from bastion.runtimes.process import ProcessRuntime
from tests.conftest import unavailable

SHELLS = ("bash", "dash", "ash")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass
class Shells:
    """A runtime of this machine, a folder, and how helpers are started in it."""

    runtime: Runtime
    target: Target
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    limit: float = 30.0
    strict: bool = False

    def start(self) -> Start:
        """Return how a session's helpers are started."""
        return Start(
            with_environment(self.runtime, self.variables),
            self.target,
            uuid.uuid4().hex,
            Name("web"),
            strict=self.strict,
            limit=self.limit,
        )

    @asynccontextmanager
    async def files(self) -> AsyncIterator[ShellFiles]:
        """Give the files by a helper."""
        start = self.start()
        async with started(start) as helper, ShellFiles(start, helper) as files:
            yield files

    def tool(self, name: str, script: str) -> None:
        """Put a program first in the helpers' PATH."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / name).write_text(f"#!/bin/sh\nPATH={PATH}\n{script}\n")
        (tools / name).chmod(0o755)
        self.variables["PATH"] = f"{tools}:{PATH}"


def with_environment(runtime: Runtime, variables: Mapping[str, str]) -> Run:
    """Return a runtime's `exec` with more in the environment of every command, what the runtime sets itself too."""

    def run(target: Target, request: Request) -> AbstractAsyncContextManager[Exec]:
        sets = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        return runtime.exec(target, replace(request, command=sets + (request.command or "")))

    return run


@asynccontextmanager
async def here(folder: Path, shell: str) -> AsyncIterator[Shells]:
    """Give helpers of one kind of shell on this machine, as who runs the tests."""
    if shell == "ash":
        (folder / "ash").symlink_to(
            shutil.which("busybox") or unavailable("busybox is not installed (tests/prepare.sh)")
        )
        shell = str(folder / "ash")
    runtime = ProcessRuntime("mystack", "web", user=pwd.getpwuid(os.geteuid()).pw_name)
    (target,) = await runtime.find("mystack", "web")
    yield Shells(runtime, replace(target, shell=shell), folder)
    await runtime.close()
