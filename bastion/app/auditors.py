"""Read the auditors' keys again when they change: new transcripts are encrypted to the current keys."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from bastion.errors import BastionError
from bastion.keyring import Keyring
from bastion.transcripts import Transcripts

CHECK_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Auditors:
    """Keeps the recipients of `transcripts` equal to [audit] recipients and the key home's auditors/.

    The folder is read once two polls in a row see the same stamps (until then somebody may be writing its files), or
    at once after `ask`. If the folder or a file cannot be read, or there is no usable key, the last recipients stay in
    use and the reason is logged once.
    """

    def __init__(self, configured: Sequence[str], keyring: Keyring, transcripts: Transcripts) -> None:
        self._configured = configured
        self._keyring = keyring
        self._transcripts = transcripts
        self._asked = asyncio.Event()
        self._problem = ""

    def configure(self, recipients: Sequence[str]) -> None:
        """Set the recipients that [audit] recipients lists."""
        self._configured = recipients
        self.ask()

    def ask(self) -> None:
        """Request that every key is read now, even when no file has changed."""
        self._asked.set()

    async def watch(self) -> None:
        """Poll the folder for ever; when a file has changed, read the keys and replace the recipients."""
        stamp_read: object = None  # the first poll reads the keys: one may have been added during the start
        stamp_before: object = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._asked.wait()
            was_asked = self._asked.is_set()
            self._asked.clear()
            stamp = await asyncio.to_thread(self._keyring.auditors_stamp)
            has_settled, stamp_before = stamp == stamp_before, stamp
            if was_asked or (has_settled and stamp != stamp_read):
                stamp_read = stamp if await self._read() else None  # retry a failure at the next poll

    async def _read(self) -> bool:
        try:
            recipients = await asyncio.to_thread(self._keyring.auditor_recipients)
            await self._transcripts.replace_recipients([*self._configured, *recipients])
        except BastionError as error:
            if error.public != self._problem:
                self._problem = error.public
                log.error("auditors' keys not taken over", reason=error.public, hint=error.hint)  # noqa: TRY400 - ours
            return False
        self._problem = ""
        return True
