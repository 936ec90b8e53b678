"""Change a file by a helper shell: its size, owner, permissions and times, one after another."""

from typing import Final

from bastion.errors import FileFailed
from bastion.files import Changes
from bastion.files.helper import Helper

_FURTHEST: Final = 2**63 - 1
_NOBODY: Final = 2**32 - 1  # which no file is given to


async def change(helper: Helper, path: bytes, changes: Changes, *, follow: bool) -> None:
    """Change what a path, or a descriptor's number, stands for.

    Times come last, for the others change them, and permissions behind the owner, for he takes some of them along.
    """
    through = int(follow)
    if changes.size is not None:
        if not 0 <= changes.size <= _FURTHEST:
            raise FileFailed("more than the container's file system takes in one file")
        await helper.do("truncate", changes.size, paths=[path])
    if changes.owner is not None:
        user, group = changes.owner
        if not (0 <= user < _NOBODY and 0 <= group < _NOBODY):
            raise FileFailed("no user and group that there can be")
        await helper.do("chown", f"{user}:{group}", through, paths=[path])
    if changes.permissions is not None:
        await helper.do("chmod", f"{changes.permissions & 0o7777:04o}", through, paths=[path])
    if changes.times is not None:
        accessed, modified = changes.times
        await helper.do("touch", accessed, modified, through, paths=[path])
