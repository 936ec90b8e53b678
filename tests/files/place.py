"""The files of one container as a test meets them: by some way over the port, and looked at from outside."""

import asyncio
from dataclasses import dataclass

from bastion.files import Entry, Files, Mode
from tests.runtimes.world import World

READ = Mode(read=True)
WRITE = Mode(write=True, create=True, truncate=True)
PATCH = Mode(write=True)
BOTH = Mode(read=True, write=True, create=True)


@dataclass
class Place:
    """Files, a folder of the test's own in them, and the container from outside."""

    files: Files
    folder: bytes
    world: World

    def path(self, name: bytes | str) -> bytes:
        """Return the path of a name in the folder."""
        return self.folder + b"/" + (name.encode() if isinstance(name, str) else name)

    async def look(self, script: str) -> str:
        """Run a script in the container, in the folder, as somebody who may do everything."""
        return await asyncio.to_thread(self.world.look, f"cd {self.world.root}{self.folder.decode()} || exit; {script}")

    async def put(self, name: bytes | str, content: bytes) -> bytes:
        """Write a file over the port; return its path."""
        file = await self.files.open(self.path(name), WRITE)
        try:
            await file.write(0, content)
        finally:
            await file.close()
        return self.path(name)

    async def get(self, name: bytes | str, step: int = 64 * 1024) -> bytes:
        """Read a file over the port from its beginning to its end."""
        file = await self.files.open(self.path(name), READ)
        content = bytearray()
        try:
            while piece := await file.read(len(content), step):
                content += piece
        finally:
            await file.close()
        return bytes(content)

    async def list(self, path: bytes | None = None) -> dict[bytes, Entry]:
        """List a folder; no name may come twice."""
        found: dict[bytes, Entry] = {}
        async for batch in self.files.list(self.folder if path is None else path):
            for entry in batch:
                assert entry.name not in found
                found[entry.name] = entry
        return found
