"""An SSH server without a bastion behind it: what is asked for goes to a function of the test's, as a channel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from bastion.model import STDERR, STDIN, Channel, Data, Eof, Event

Serve = Callable[[Channel, str | None, str | None], Awaitable[int]]
"""Serves a channel on which a command, or a subsystem, was asked for; returns the exit status."""


class BridgedChannel:
    """One channel of a client's, as the port has it."""

    def __init__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._process = process

    async def __aiter__(self) -> AsyncIterator[Event]:
        while payload := await self._process.stdin.read(65536):
            yield Data(STDIN, payload)
        yield Eof()
        await self._process.channel.wait_closed()

    async def send(self, event: Event) -> None:
        assert isinstance(event, Data)
        stream = self._process.stderr if event.stream == STDERR else self._process.stdout
        stream.write(event.payload)
        await stream.drain()

    def say(self, line: str) -> None:
        self._process.stderr.write(line.encode() + b"\n")


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


class Bridge:
    """Where it listens; `options` are those that a stock client needs."""

    def __init__(self, port: int) -> None:
        self.port = port
        settings = {
            "HostName": "127.0.0.1",
            "Port": port,
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        self.options = ("-F", "none", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}")))

    async def run(self, program: str, *arguments: str | bytes | Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a stock client to its end; return its exit status, and what it wrote on standard output and error."""
        process = await asyncio.create_subprocess_exec(
            program, *self.options, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out, err


@asynccontextmanager
async def bridged(serve: Serve) -> AsyncIterator[Bridge]:
    """Serve every channel by the function; an exception that comes out of it fails the test."""
    failures: list[BaseException] = []

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            process.exit(await serve(BridgedChannel(process), process.command, process.subsystem))
        except (asyncssh.BreakReceived, BrokenPipeError, ConnectionError):
            process.exit(255)  # the client has gone
        except BaseException as error:
            failures.append(error)
            process.exit(255)
            raise

    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=_Server, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        process_factory=handle, encoding=None, line_editor=False,
    )  # fmt: skip
    try:
        yield Bridge(listener.get_port())
    finally:
        listener.close()
        await listener.wait_closed()
    assert not failures
