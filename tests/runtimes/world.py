"""One runtime with one target to run things in, and the few verbs that the conformance tests use."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bastion.errors import BastionError, DatabaseFailed
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Event, Exit, Name, Request, Target, Terminal
from bastion.runtimes import Exec, Runtime
from bastion.runtimes.duties import Duty


@dataclass
class Done:
    """What a finished program gave."""

    out: bytes
    err: bytes
    exit: Exit
    uid: str


def request(
    command: str | None = None,
    *,
    terminal: Terminal | None = None,
    environment: dict[str, str] | None = None,
) -> Request:
    """Make a request for a command, or for a shell when there is none, with a new uid."""
    return Request(
        uid=uuid.uuid4().hex,
        name=Name("web"),
        kind="shell" if command is None else "exec",
        command=command,
        terminal=terminal,
        environment=environment or {},
    )


class RememberedDuties:
    """A record in memory of what an adapter said of its duties; with `refuses` it takes none."""

    def __init__(self) -> None:
        self.added: list[Duty] = []
        self.finished: list[str] = []
        self.failures: dict[str, BastionError] = {}
        self.refuses = False

    async def add(self, duty: Duty) -> None:
        if self.refuses:
            raise DatabaseFailed("the sessions' database does not answer")
        self.added.append(duty)

    def done(self, duty: Duty) -> None:
        self.finished.append(duty.uid)

    def failed(self, duty: Duty, error: BastionError) -> None:
        self.failures[duty.uid] = error

    def retry_now(self) -> None:
        """Nothing is tried again."""


@dataclass
class World:
    """A runtime, its target, and a way to look into it from outside."""

    runtime: Runtime
    target: Target
    look: Callable[[str], str]
    half_close: bool = True  # whether the end of standard input is passed on
    root: str = ""  # where `look` finds the target's files
    notes: int = 0  # lines about where one is that come before any output
    duties: RememberedDuties = field(default_factory=RememberedDuties)

    async def run(self, asked: Request, events: Sequence[Event] = (Eof(),), target: Target | None = None) -> Done:
        """Run a request, send the events while its output is read, and return what came."""
        async with self.runtime.exec(target or self.target, asked) as program:
            sending = asyncio.create_task(send_all(program, events))
            out, err = bytearray(), bytearray()
            async for event in self.output(program):
                assert event.stream in (STDOUT, STDERR)
                (out if event.stream == STDOUT else err).extend(event.payload)
            status = await program.wait()
            await sending
        return Done(bytes(out), bytes(err), status, asked.uid)

    async def output(self, program: Exec) -> AsyncIterator[Data]:
        """Give the program's output, and leave out the notes before it."""
        left = self.notes
        async for event in program:
            assert isinstance(event, Data)
            if left:
                assert event.payload.startswith(b"bastion: note: ")
                left -= 1
            else:
                yield event

    async def command(self, text: str, stdin: bytes = b"") -> Done:
        """Run a command with some input, half-closed behind it."""
        return await self.run(request(text), [*pieces(stdin), Eof()])

    async def left(self, word: str) -> list[str]:
        """Return the processes, zombies apart, whose command line holds the word."""
        script = (
            "for d in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$d/cmdline 2>/dev/null); "
            f"case $c in *'for d in'*) ;; *{word}*) echo \"$d $c\" ;; esac; done"
        )
        return (await asyncio.to_thread(self.look, script)).splitlines()


def pieces(payload: bytes, size: int = 64 * 1024) -> list[Data]:
    """Cut input as a channel would."""
    return [Data(STDIN, payload[at : at + size]) for at in range(0, len(payload), size)]


async def send_all(program: Exec, events: Sequence[Event]) -> None:
    """Send events in order."""
    for event in events:
        await program.send(event)


async def read_until(program: Exec, word: bytes) -> bytes:
    """Read output until the word has come; return all that was read."""
    seen = bytearray()
    async for event in program:
        assert isinstance(event, Data)
        seen += event.payload
        if word in seen:
            return bytes(seen)
    raise AssertionError(f"{word!r} never came: {bytes(seen)!r}")


def look_here(script: str) -> str:
    """Run a script on this machine."""
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=20).stdout


def resident() -> int:
    """Return this process's resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
