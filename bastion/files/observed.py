"""The record of a session relayed to a container's own sftp-server: what passes is read, and put down as files."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from bastion.errors import RecordingFailed
from bastion.files.journal import Journal
from bastion.files.observer import Observer
from bastion.model import STDIN, STDOUT, Data, Event, Exit, FileOperation, Record, Recorded
from bastion.sessions import LiveSession


class Observed:
    """Takes the places of a session's record and publishing in a relay. Leaving it puts down what was cut off."""

    def __init__(self, session: LiveSession, record: Record) -> None:
        self._session = session
        self._record = record
        self._journal = Journal(record, session)
        self._observer = Observer()
        self._answered = asyncio.Event()
        self._noted: deque[Recorded] = deque()
        self._putting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put what was open still, or not answered, on record as cut off."""
        if not isinstance(error, RecordingFailed):
            await self._put_down(self._observer.finish())

    async def record(self, event: Recorded) -> None:
        """Put on record what an event of either side is about; a client that is far ahead of the answers waits here.

        Raises:
            Malformed: it is no SFTP, and must not be delivered.
            RecordingFailed: it could not be recorded.
        """
        if isinstance(event, Data) and event.stream == STDIN:
            while self._observer.is_behind:
                self._answered.clear()
                await self._answered.wait()
            await self._put_down(self._observer.client(event.payload))
        elif isinstance(event, Data) and event.stream == STDOUT:
            noted = self._observer.server(event.payload)
            self._answered.set()
            await self._put_down(noted)
        else:
            await self._put_down([*(self._observer.finish() if isinstance(event, Exit) else ()), event])

    def publish(self, event: Event) -> None:
        """Show those who watch what can be read; what is done with files they are shown in words."""
        if not isinstance(event, Data) or event.stream not in {STDIN, STDOUT}:
            self._session.publish(event)

    async def _put_down(self, noted: list[Recorded]) -> None:
        """Put down what was noted, in the order of both sides; what a cancellation leaves is put down at the end."""
        self._noted.extend(noted)
        async with self._putting:
            while self._noted:
                each = self._noted.popleft()
                if isinstance(each, FileOperation):
                    await self._journal.note(each)
                else:
                    await self._record(each)
