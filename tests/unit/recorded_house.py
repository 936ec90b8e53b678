"""What the tests of recorded files share: a tree in memory, one person's access to it, and the record that is kept."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bastion.errors import RecordingFailed
from bastion.files import Entry, Files, Mode
from bastion.files.recorded import RecordedFiles
from bastion.model import Data, FileAccess, FileOperation, Recorded
from bastion.sessions import LiveSession
from tests.unit.memory_files import MemoryFiles
from tests.unit.transcripts.recorded_place import session

WHOLE = FileAccess(("/**",), ("/**",))
READ = Mode(read=True)
NEW = Mode(write=True, create=True, truncate=True)


@dataclass
class House:
    """One session with files; `record` keeps everything until `full` is set, from when on it fails."""

    memory: MemoryFiles
    live: LiveSession
    kept: list[Recorded] = field(default_factory=list)
    full: bool = False

    async def record(self, event: Recorded) -> None:
        if self.full:
            raise RecordingFailed("the volume is full")
        self.kept.append(event)

    @property
    def operations(self) -> list[FileOperation]:
        """All operations on record."""
        return [one for one in self.kept if isinstance(one, FileOperation)]

    def said(self) -> list[tuple[str, bytes, str]]:
        """Operation, path and result of all of them."""
        return [(one.operation, one.path, one.result) for one in self.operations]

    def last(self) -> FileOperation:
        """Return the last operation on record."""
        return self.operations[-1]

    def contents(self, stream: int) -> bytes:
        """Put together what was recorded of one stream."""
        return b"".join(one.payload for one in self.kept if isinstance(one, Data) and one.stream == stream)


def house() -> House:
    """Return a session and a tree with some files."""
    memory = MemoryFiles(b"/app")
    memory.put(b"/app/log/web.log", b"one\ntwo\n")
    memory.put(b"/app/log/old/db.log", b"old")
    memory.put(b"/etc/shadow", b"secret")
    memory.put(b"/in/letter", b"private")
    return House(memory, LiveSession(session()))


@asynccontextmanager
async def opened(access: FileAccess, inside: House | None = None) -> AsyncIterator[tuple[House, RecordedFiles]]:
    """Give a session with this access."""
    inside = inside or house()
    async with RecordedFiles(inside.memory, access, inside.live, inside.record) as files:
        yield inside, files


async def get(files: Files, path: bytes) -> bytes:
    """Read a whole file."""
    file = await files.open(path, READ)
    content = b""
    while piece := await file.read(len(content), 3):
        content += piece
    await file.close()
    return content


async def put(files: Files, path: bytes, content: bytes) -> None:
    """Write a whole new file."""
    file = await files.open(path, NEW)
    await file.write(0, content)
    await file.close()


async def listed(files: Files, path: bytes) -> list[Entry]:
    """List a folder."""
    return [entry async for batch in files.list(path) for entry in batch]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
