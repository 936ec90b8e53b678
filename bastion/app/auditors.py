"""Read the auditors' keys again when they change: new transcripts are encrypted to those of now."""

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
    """Keeps the recipients of `transcripts` like [audit] recipients and the key home's auditors/.

    A folder that still changes is being written: it is read when two looks find the same, or at once after `ask`. What
    cannot be read, or holds no usable key, changes nothing: the last recipients count, and the reason is logged once.
    """

    def __init__(self, configured: Sequence[str], keyring: Keyring, transcripts: Transcripts) -> None:
        self._configured = configured
        self._keyring = keyring
        self._transcripts = transcripts
        self._asked = asyncio.Event()
        self._problem = ""

    def configure(self, recipients: Sequence[str]) -> None:
        """Take [audit] recipients over."""
        self._configured = recipients
        self.ask()

    def ask(self) -> None:
        """Read every key again now, whether its file has changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """For ever: look at the folder, read it when it has changed, and replace the recipients."""
        stamp_read: object = None  # the first look reads: a key may have been added during the start
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
                stamp_read = stamp if await self._read() else None  # a failure is tried again at the next look

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
