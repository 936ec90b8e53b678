"""The server of SFTP version 3: requests come in, are carried out one after another in the container, and answered."""

import asyncio
from dataclasses import dataclass
from typing import Final

from bastion.errors import BastionError, FileFailed, FileRefused, Malformed
from bastion.files import Files
from bastion.files import sftp_wire as wire
from bastion.files.sftp_answers import Answers, Asked, check_offset
from bastion.files.sftp_extensions import Extensions
from bastion.files.sftp_handles import Handles
from bastion.files.sftp_incoming import Incoming
from bastion.files.sftp_telling import Telling
from bastion.files.sftp_wire import Fields, Kind, Status
from bastion.model import STDOUT, Channel, Data
from bastion.tasks import background

MOST_WRITTEN: Final = 1024 * 1024
"""How many bytes one write has that was put together of those that had arrived."""

_TURNS = 32  # requests in a row without letting others work


async def serve_sftp(channel: Channel, files: Files, *, links_as_drafted: bool = False) -> None:
    """Serve one client until it has sent its end or has gone; whatever it left open is closed then, in any case.

    `links_as_drafted` takes the two paths of SYMLINK in the order of the draft and not in OpenSSH's: for a client that
    changes it by the server's name, as WinSCP and asyncssh do, and finds no OpenSSH here.

    A failure of one request is its answer. What ends the conversation is raised:

    Raises:
        Malformed: the client sent what is not SFTP.
        ClientGone: the client went away while it was answered.
        RuntimeFailed: the way to the container broke.
    """
    handles = Handles(files)
    telling = Telling(channel)
    try:
        async with Incoming(channel) as incoming:
            await _Conversation(channel, incoming, files, handles, telling, links_as_drafted=links_as_drafted).run()
    except BaseException:
        await handles.close_all()
        raise
    for path, error in await handles.close_all():
        if not isinstance(error, FileFailed):
            raise error
        telling.tell(path, error)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What WRITEs that follow one another write, as one; `numbers` are theirs."""

    handle: bytes
    offset: int
    content: bytes
    numbers: list[int]


class _Conversation:
    """Takes the requests in their order and sends the answers in the same."""

    def __init__(
        self,
        channel: Channel,
        incoming: Incoming,
        files: Files,
        handles: Handles,
        telling: Telling,
        *,
        links_as_drafted: bool,
    ) -> None:
        self._channel = channel
        self._incoming = incoming
        self._files = files
        self._handles = handles
        self._telling = telling
        self._writing: asyncio.Task[bytes] | None = None
        self._extensions = Extensions(files, handles)
        self._by_kind = {
            **Answers(files, handles, links_as_drafted=links_as_drafted).by_kind,
            Kind.EXTENDED: self._extensions.answer,
        }

    async def run(self) -> None:
        """Answer until there are no more requests."""
        first = await self._incoming.take()
        if first is None:
            return
        if first.kind != Kind.INIT:
            raise Malformed("the client does not begin with SFTP's INIT")
        first.number()  # the version it knows: there is but one that we know
        await self._send(self._extensions.version())
        try:
            await self._serve()
        finally:
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.gather(self._writing, return_exceptions=True)

    async def _serve(self) -> None:
        turns = 0
        while (request := await self._next()) is not None:
            number = request.number()
            if request.kind == Kind.INIT:
                raise Malformed("the client sent SFTP's INIT a second time")
            if request.kind == Kind.WRITE:
                await self._write(self._batch(number, request))
            else:
                await self._settle()
                await self._send(await self._answer(Asked(number, request)))
            turns += 1
            if turns % _TURNS == 0:
                await asyncio.sleep(0)
        await self._settle()

    async def _next(self) -> Fields | None:
        """Return the next request; a client that waits for the answer to what it wrote gets it first."""
        if self._incoming.peek() is None:
            await self._settle()
        return await self._incoming.take()

    async def _write(self, batch: _Batch) -> None:
        """Begin to write; the write before it may be on its way still, and is answered first."""
        before, self._writing = (
            self._writing,
            background(self._written(batch), name="sftp write", expected=(BastionError,)),
        )
        if before is not None:
            await self._send(await before)

    async def _settle(self) -> None:
        """Answer what is being written."""
        if (writing := self._writing) is not None:
            answer = await writing
            self._writing = None
            await self._send(answer)

    async def _answer(self, asked: Asked) -> bytes:
        try:
            answer = self._by_kind.get(asked.fields.kind)
            if answer is None:
                return wire.status(asked.number, Status.OP_UNSUPPORTED, "this request is not served")
            return await answer(asked)
        except FileFailed as error:
            # a program that is denied a look says that nothing is there: only we know that it is the grant's doing
            if isinstance(error, FileRefused) or (error.kind == "failure" and not asked.is_probe):
                self._telling.tell(asked.about, error)
            return wire.failure(asked.number, error)

    def _batch(self, number: int, request: Fields) -> _Batch:
        """Put a WRITE together with those that go on where it ends and have arrived."""
        handle, offset, view = request.string(), request.long(), request.view()
        numbers, views, end = [number], [view], offset + len(view)
        while (following := self._following(handle, end, end - offset)) is not None:
            number, view = following
            numbers.append(number)
            views.append(view)
            end += len(view)
        return _Batch(handle, offset, b"".join(views), numbers)

    async def _written(self, batch: _Batch) -> bytes:
        """Write it all at once; return the answer to each."""
        try:
            opened = self._handles.writable(batch.handle)
            check_offset(batch.offset + len(batch.content))
            await opened.file.write(batch.offset, batch.content)
        except FileFailed as error:
            if error.kind == "failure":
                self._telling.tell(self._handles.name(batch.handle), error)
            return b"".join(wire.failure(each, error) for each in batch.numbers)
        return b"".join(wire.status(each, Status.OK) for each in batch.numbers)

    def _following(self, handle: bytes, end: int, size: int) -> tuple[int, memoryview] | None:
        """Take the next request if it has arrived and writes on at `end`; return its number and what it writes."""
        request = self._incoming.peek()
        if request is None or request.kind != Kind.WRITE:
            return None
        try:
            number, next_handle, offset, view = request.number(), request.string(), request.long(), request.view()
        except Malformed:  # for its own turn
            request.rewind()
            return None
        if next_handle != handle or offset != end or size + len(view) > MOST_WRITTEN:
            request.rewind()
            return None
        self._incoming.drop()
        return number, view

    async def _send(self, answer: bytes) -> None:
        await self._channel.send(Data(STDOUT, answer))
