"""Read the configuration again at SIGHUP or when its file has changed; one that is wrong changes nothing."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from bastion.config import Settings, load
from bastion.errors import ConfigurationError

CHECK_SECONDS: Final = 1.0
_AT_ONCE: Final = frozenset({"sessions", "stacks", "groups", "grants"})  # but [sessions] database; also _FIELDS_AT_ONCE
_FIELDS_AT_ONCE: Final = {"ssh": "notice", "audit": "recipients"}

_UNREAD: Final = object()  # the stamp of no file

log = structlog.get_logger(__name__)


class Reload:
    """Watches one configuration file, from before its first reading on; `ask` requests a reading at once.

    The file is read once its stamp has been the same for a second: until then somebody may be writing the file. A file
    that is gone or cannot be read changes nothing, and the read is tried again each second.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = asyncio.Event()
        self._seen: object = self._stamp()
        self._fault = ""

    def ask(self) -> None:
        """Read the file again now, whether it has changed or not."""
        self._asked.set()

    async def watch(self, settings: Settings, apply: Callable[[Settings], None]) -> None:
        """For ever: give the settings to `apply` when they have changed, and say what waits for the next start."""
        before = self._seen
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._asked.wait()
            stamp = self._stamp()
            settled, before = stamp == before, stamp
            asked = self._asked.is_set()
            if not asked and (stamp == self._seen or not settled):
                continue
            self._asked.clear()
            self._seen = stamp
            try:
                fresh = await asyncio.to_thread(self._read)
                if not asked and self._stamp() != stamp:
                    continue  # what was read may be half of it; a later look sees the rest
                if fresh != settings:
                    apply(fresh)
            except ConfigurationError as error:
                if asked or error.public != self._fault:
                    log.error("configuration not taken over", reason=error.public, hint=error.hint)  # noqa: TRY400 - ours
                self._fault = error.public
                if isinstance(error.__cause__, OSError):
                    self._seen = _UNREAD
                continue
            self._fault = ""
            waiting = _waiting(settings, fresh)
            log.info("configuration read again", changed=fresh != settings, at_the_next_start=waiting)
            settings = fresh

    def _read(self) -> Settings:
        settings = load(self._path)
        try:
            is_blank = not self._path.read_bytes().strip()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error}", "bastion check") from error
        if is_blank:  # a full disk leaves a blank file, and loading it would remove every grant
            raise ConfigurationError(f"{self._path}: nothing is in it", "restart the bastion if that is meant")
        return settings

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _waiting(before: Settings, after: Settings) -> list[str]:
    """Name the sections whose changes count from the next start on."""
    names = [
        name for name in Settings.model_fields if name not in _AT_ONCE and getattr(before, name) != getattr(after, name)
    ]
    for name, field in _FIELDS_AT_ONCE.items():
        section, fresh = getattr(before, name), getattr(after, name)
        if name in names and section.model_copy(update={field: getattr(fresh, field)}) == fresh:
            names.remove(name)
    if before.sessions.database != after.sessions.database:
        names.append("sessions")
    return names
