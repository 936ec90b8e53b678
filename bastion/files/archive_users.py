"""Find the numbers of a container's user by its own files, as its engine would."""

from collections.abc import Awaitable, Callable
from typing import Final

from bastion.errors import FileFailed, RuntimeFailed

_LARGEST: Final = 2**31 - 1


async def owner_of(user: str, read: Callable[[bytes], Awaitable[bytes]]) -> tuple[int, int]:
    """Return the user and group that USER or USER:GROUP stands for; nobody in particular is root.

    `read` reads a file of the container. The first line with that name or number counts; a number need not be there,
    and its group is then 0.

    Raises:
        RuntimeFailed: there is no such user or group.
    """
    name, _, group_name = user.partition(":")
    if name in ("", "0", "root") and not group_name:
        return 0, 0
    number, group = _id(name), _id(group_name)
    if number is None or not group_name:
        fields = await _line(read, b"/etc/passwd", name, 4)
        if fields is not None:
            number, group = _id(fields[2]), _id(fields[3]) if not group_name else group
        elif not group_name:
            group = 0
    if group is None and group_name:
        fields = await _line(read, b"/etc/group", group_name, 3)
        group = _id(fields[2]) if fields is not None else None
    if number is None or group is None:
        raise RuntimeFailed(
            "the user chosen for the container is not in its image",
            "ask the operator of the stack; numbers such as 1000:1000 are taken as they are",
            detail=ascii(user)[1:-1],
        )
    return number, group


async def _line(read: Callable[[bytes], Awaitable[bytes]], path: bytes, name: str, least: int) -> list[str] | None:
    try:
        text = await read(path)
    except FileFailed:
        return None
    for line in text.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= least and name in (fields[0], fields[2]):
            return fields
    return None


def _id(text: str) -> int | None:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST))
    return int(text) if is_number and int(text) <= _LARGEST else None
