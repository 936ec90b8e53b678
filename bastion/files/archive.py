"""Begin with the files of a container by its engine's archive API: whose what is made will be, and what is not seen."""

from typing import Final

from bastion.errors import FileFailed
from bastion.files import Mode
from bastion.files.archive_files import ArchiveFiles
from bastion.files.archive_users import owner_of
from bastion.files.archive_words import InWords
from bastion.runtimes import Archive

_PIECE: Final = 256 * 1024
_TABLE: Final = 1024 * 1024  # bytes of the users of a container that are read


async def by_archive(archive: Archive, user: str | None) -> ArchiveFiles:
    """Return the files of a container by its engine's archive API, for a session whose programs would run as `user`.

    Raises:
        RuntimeFailed: the container is gone, or has no such user.
    """
    archive = InWords(archive)
    bounds = await archive.bounds()
    as_root = ArchiveFiles(archive, bounds.folder, (0, 0), ())

    async def read(path: bytes) -> bytes:
        file = await as_root.open(path, Mode(read=True))
        content = bytearray()
        try:
            while len(content) < _TABLE and (piece := await file.read(len(content), _PIECE)):
                content += piece
        finally:
            await file.close()
        return bytes(content)

    owner = await owner_of(user or bounds.user, read)
    unseen = []
    for folder in bounds.unseen:
        try:
            unseen.append(await as_root.real_path(folder))
        except FileFailed:
            unseen.append(folder)
    return ArchiveFiles(archive, bounds.folder, owner, tuple(unseen))
