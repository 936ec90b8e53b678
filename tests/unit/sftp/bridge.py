"""The SSH face with files in memory behind it: what clients meet in a test of SFTP is the bastion's own channel."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from bastion.config import GrantSettings, SessionsSettings, SshSettings
from bastion.errors import BastionError
from bastion.files import Files
from bastion.files.sftp import serve_sftp
from bastion.gateway import Door, Gateway, Rules, explain
from bastion.keyring import Keyring
from bastion.metrics import Metrics
from bastion.model import Exit, Identity, Request
from bastion.policy import Policy
from bastion.sessions import Sessions
from bastion.ssh import SshServer
from bastion.targets import Targets
from bastion.transcripts import Transcripts, generate_identity
from tests.unit.memory_files import MemoryFiles
from tests.unit.memory_runtime import MemoryRuntime

TIMEOUT = 60


class FilesGateway(Gateway):
    """Serves SFTP on whatever is asked for, and keeps a note of how each conversation ended."""

    files: Files
    links_as_drafted = False

    async def serve(self, identity: Identity, request: Request, local_address: str, channel: Door) -> None:
        task = asyncio.create_task(serve_sftp(channel, self.files, links_as_drafted=self.links_as_drafted))

        def end(_: BastionError) -> None:
            task.cancel()

        channel.when_ended(end)
        await asyncio.wait((task,))
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is None:
            channel.exit(Exit(0))
        elif isinstance(error, BastionError):
            explain(channel, error, request.uid)
        else:
            channel.exit(Exit(99))
            raise error


@dataclass(frozen=True)
class Said:
    """What a program printed, and how it ended."""

    status: int
    output: str
    errors: str


@dataclass
class Bridge:
    """A bastion on loopback, for alice, over files in memory; `folder` is where the client's own files are."""

    files: MemoryFiles
    gateway: FilesGateway
    folder: Path
    key: asyncssh.SSHKey
    port: int = 0
    options: list[str] = field(default_factory=list)

    async def connect(self) -> asyncssh.SSHClientConnection:
        """Log in with asyncssh."""
        return await asyncssh.connect(
            "127.0.0.1", self.port, username="web@mystack", known_hosts=None, config=None, client_keys=[self.key],
            agent_path=None,
        )  # fmt: skip

    async def sftp(self, *commands: str, arguments: Sequence[str] = ()) -> Said:
        """Run OpenSSH's sftp with these commands; it stops at the first that fails and has no `-` before it."""
        batch = "".join(f"{command}\n" for command in commands)
        return await self._run(["sftp", *self.options, *arguments, "-b", "-", self.name()], batch)

    async def scp(self, *arguments: str) -> Said:
        """Run OpenSSH's scp."""
        return await self._run(["scp", *self.options, *arguments])

    def name(self, path: str = "") -> str:
        """Return the name of a path in the container, as a URL."""
        scheme = "sftp" if not path else "scp"
        return f"{scheme}://web%40mystack@127.0.0.1:{self.port}/{path}"

    async def _run(self, command: Sequence[str], typed: str = "") -> Said:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder, env={"PATH": "/usr/bin:/bin", "TZ": "UTC"}
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                output, errors = await process.communicate(typed.encode("utf-8", "surrogateescape"))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Said(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


@asynccontextmanager
async def bridged(folder: Path, files: MemoryFiles) -> AsyncIterator[Bridge]:
    """Run a bastion that serves these files; after it nothing of them is open and no unseen exception was left."""
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    keyring = Keyring(folder / "keys")
    keyring.init()
    key = asyncssh.generate_private_key("ssh-ed25519")
    keyring.add("alice", key.export_public_key().decode().strip())
    keyring.load()
    transcripts = Transcripts(folder / "transcripts", [generate_identity()[1]], keyring.signing_key, node="node")
    runtime, metrics, limits = MemoryRuntime([]), Metrics(), SessionsSettings()
    policy = Policy([GrantSettings(users=("alice",), stacks=("*",))])
    targets = Targets({"memory": runtime}, [], lambda _: "memory")
    gateway = FilesGateway(
        Rules(policy=policy, targets=targets, limits=limits, notice=False),
        sessions=Sessions(limits, "node"),
        transcripts=transcripts,
        runtimes={"memory": runtime},
        metrics=metrics,
    )
    gateway.files = files
    server = SshServer(SshSettings(listen=("127.0.0.1:0",)), keyring, gateway, metrics)
    await transcripts.start()
    mine = folder / "mine"
    mine.mkdir()
    (folder / "key").touch(0o600)
    key.write_private_key(folder / "key")
    bridge = Bridge(files, gateway, mine, key)
    try:
        bridge.port = (await server.listen())[0][1]
        bridge.options = _options(folder)
        yield bridge
    finally:
        await server.close()
        await transcripts.close()
    assert not unseen
    assert (files.opened, files.listing) == (0, 0)


def _options(folder: Path) -> list[str]:
    options = {
        "IdentityFile": folder / "key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "no",
        "LogLevel": "ERROR",
        "BatchMode": "yes",
    }
    return ["-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
