"""The entries of a folder as SFTP gives them: names, attributes, and the line of `ls -l` that people are shown."""

import stat
import time
from collections import deque
from typing import Final

from bastion.files import Attributes, Entry
from bastion.files.sftp_wire import Kind, answer, attributes, number, string

BATCH_BYTES: Final = 32 * 1024  # some clients take no packet of more than 34000 bytes

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HALF_A_YEAR = 365 * 24 * 60 * 60 // 2
_LAST_TIME = 2**32 - 1  # as in the attributes beside it
_LONGEST_OWNER = 32


def names(request: int, waiting: deque[Entry], now: float) -> bytes:
    """Return the answer to READDIR, with as many of the waiting entries as fit and at least one; they are taken off."""
    parts: list[bytes] = []
    size = count = 0
    while waiting and (size < BATCH_BYTES or not count):
        entry = waiting[0]
        part = string(entry.name) + string(long_name(entry, now)) + attributes(entry.attributes)
        size += len(part)
        if count and size > BATCH_BYTES:
            break
        parts.append(part)
        count += 1
        waiting.popleft()
    return answer(Kind.NAME, request, number(count), *parts)


def one_name(request: int, name: bytes) -> bytes:
    """Return the answer that is one name and nothing about it."""
    return answer(Kind.NAME, request, number(1), string(name), string(name), attributes(None))


def long_name(entry: Entry, now: float) -> bytes:
    """Return an entry's line as `ls -l` writes it, with the time of day where it changed in the last half year."""
    of = entry.attributes
    user, group = (
        (name or str(identifier))[:_LONGEST_OWNER]
        for name, identifier in ((entry.user, of.user), (entry.group, of.group))
    )
    mode = stat.filemode(of.mode & 0xFFFF)
    line = f"{mode} {of.links:4d} {user:<8} {group:<8} {of.size:8d} {_date(of, now)} "
    return line.encode(errors="replace") + entry.name


def _date(of: Attributes, now: float) -> str:
    modified = min(max(of.modified, 0), _LAST_TIME)
    then = time.gmtime(modified)
    when = f"{then.tm_hour:02d}:{then.tm_min:02d}" if now - _HALF_A_YEAR < modified <= now else f"{then.tm_year:>5}"
    return f"{_MONTHS[then.tm_mon - 1]} {then.tm_mday:2d} {when}"
