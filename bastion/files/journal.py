"""What goes on with files is put on record, counted as the session's traffic, and shown to those who watch."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from bastion.errors import BastionError, FileFailed, FileRefused
from bastion.model import STDIN, STDOUT, Data, FileOperation, Record
from bastion.sessions import LiveSession
from bastion.transcripts.file_events import one_line

OK = "ok"
CUT_OFF = "cut off"

T = TypeVar("T")


class Journal:
    """One session's."""

    def __init__(self, record: Record, session: LiveSession) -> None:
        self._record = record
        self._session = session

    async def note(self, operation: FileOperation) -> None:
        """Put an operation on record; watchers read it as one line.

        Raises:
            RecordingFailed: it could not be recorded, and nobody may be told that it was done.
        """
        await self._record(operation)
        self.is_alive()
        self._session.publish(Data(STDOUT, f"{one_line(operation)}\r\n".encode()))

    async def attempt(self, operation: FileOperation, work: Awaitable[T]) -> T:
        """Do a part of the work; when it fails or is cut off, that is put on record as the operation's result."""
        result = CUT_OFF
        try:
            done = await work
            result = OK
        except BastionError as error:
            result = error.public
            raise
        finally:
            if result != OK:
                await self.note(replace(operation, result=result))
        return done

    async def do(self, operation: FileOperation, work: Awaitable[T]) -> T:
        """Do the work and put it on record with its result; only then is anybody told."""
        done = await self.attempt(operation, work)
        await self.note(operation)
        return done

    async def refusal(self, operation: FileOperation) -> FileFailed:
        """Put on record that it was not allowed; return what is to be raised."""
        refused = FileRefused()
        await self.note(replace(operation, result=refused.public))
        return refused

    async def read(self, stream: int, payload: bytes) -> None:
        """Put on record what was read, before it is handed out."""
        await self._record(Data(stream, payload))
        self._session.count(Data(STDOUT, payload))

    async def written(self, stream: int, payload: bytes) -> None:
        """Put on record what is to be written, before the container has it."""
        await self._record(Data(stream, payload))
        self._session.count(Data(STDIN, payload))

    def is_alive(self) -> None:
        """Let the session not count as idle."""
        self._session.count(Data(STDIN, b""))
