"""Reads along with a client and a container's own sftp-server, and says what has to be on record before it goes on."""

from dataclasses import replace
from typing import Final

from bastion.errors import Malformed
from bastion.files import sftp_wire as wire
from bastion.files.journal import CUT_OFF, OK
from bastion.files.passed import Account, Passed
from bastion.files.sftp_pieces import LONGEST_HANDLE, Contents, Cutter, answer_head, request_head
from bastion.files.sftp_requests import Opened, Pending, Requests
from bastion.files.sftp_wire import Fields, Kind, Status
from bastion.model import FIRST_FILE, Data, Recorded

MOST_HANDLES: Final = 1024
MOST_PENDING: Final = 1024  # requests; a client that goes on beyond is to be held back
MOST_WEIGHT: Final = 1024 * 1024  # bytes of paths in them

_TOO_MUCH: Final = 16  # times as much is more than what a client sends before it can be held back
_LONGEST_PATH: Final = 4096
_STREAMS: Final = 2  # a file has one for each way

_WORDS: Final[dict[int, str]] = {
    Status.OK: OK,
    Status.EOF: "end of file",
    Status.NO_SUCH_FILE: "no such file",
    Status.PERMISSION_DENIED: "permission denied",
    Status.FAILURE: "failure",
    Status.BAD_MESSAGE: "bad message",
    Status.OP_UNSUPPORTED: "not supported",
}


class Observer:
    """Both directions of one conversation. Contents come as `Data` on a stream of each file's, the rest as operations.

    What one call returns has to be on record before the bytes that it was given are delivered. `Malformed` says that
    they are not to be: what follows could not be read. Both sides are taken to be hostile, and no more is held than
    what may be open and unanswered.
    """

    def __init__(self) -> None:
        self._handles: dict[bytes, Opened] = {}
        self._pending: dict[int, Pending] = {}
        self._weight = 0
        self._reader = Requests(self._handles)
        self._requests = Cutter(request_head)
        self._answers = Cutter(answer_head)
        self._greeted = False
        self._answered = False
        self._next = FIRST_FILE
        self._writing: _Passing | None = None
        self._reading: _Passing | None = None
        self._closing: set[Opened] = set()
        self._noted: list[Recorded] = []

    @property
    def is_behind(self) -> bool:
        """Whether so much is unanswered that the client should be held back."""
        return len(self._pending) > MOST_PENDING or self._weight > MOST_WEIGHT

    def client(self, data: bytes) -> list[Recorded]:
        """Take what the client sends.

        Raises:
            Malformed: it is no SFTP.
        """
        for part in self._requests.cut(data):
            if isinstance(part, Contents):
                self._take_written(part)
            else:
                self._take_request(part)
        return self._taken()

    def server(self, data: bytes) -> list[Recorded]:
        """Take what the server sends.

        Raises:
            Malformed: it is no SFTP, or answers what was not asked.
        """
        for part in self._answers.cut(data):
            if isinstance(part, Contents):
                self._take_read(part)
            else:
                self._take_answer(part)
        return self._taken()

    def finish(self) -> list[Recorded]:
        """Say what was not finished when the conversation ended, and what was noted before it broke; once."""
        for pending in self._pending.values():
            if pending.operation is not None:
                self._noted.append(replace(pending.operation, result=CUT_OFF))
        for opened in (*self._handles.values(), *self._closing):
            if opened.account is not None:
                self._noted.extend(opened.account.sum_up(CUT_OFF))
        self._pending.clear()
        self._handles.clear()
        self._closing.clear()
        return self._taken()

    def _taken(self) -> list[Recorded]:
        taken, self._noted = self._noted, []
        return taken

    # What the client says.

    def _take_request(self, fields: Fields) -> None:
        if not self._greeted:
            if fields.kind != Kind.INIT:
                raise Malformed("an SFTP client begins with something else than its version")
            self._greeted = True
            return
        number = fields.number()
        pending = self._reader.read(fields)
        if number in self._pending:
            raise Malformed("an SFTP client numbers two requests alike")
        self._pending[number] = pending
        self._weight += pending.weight
        if len(self._pending) > MOST_PENDING * _TOO_MUCH or self._weight > MOST_WEIGHT * _TOO_MUCH:
            raise Malformed("an SFTP client asks more than is answered")
        if pending.opened is None or pending.opened.account is None:
            return
        if pending.kind == Kind.CLOSE:
            self._closing.add(pending.opened)
        elif pending.kind == Kind.WRITE:
            _check_count(fields, self._requests)
            account = pending.opened.account
            offset = None if account.mode.append else pending.offset
            self._writing = _Passing(account.writing(), account.stream + 1, offset, pending.opened)

    def _take_written(self, part: Contents) -> None:
        if self._writing is not None and part.payload:
            self._noted.append(self._writing.take(part.payload))

    # What the server says.

    def _take_answer(self, fields: Fields) -> None:
        if not self._answered:
            if not self._greeted or fields.kind != Kind.VERSION or fields.number() != wire.VERSION:
                raise Malformed("the container's sftp-server begins with something else than version 3")
            self._answered = True
            return
        pending = self._pending.pop(fields.number(), None)
        if pending is None or not pending.may_have(fields.kind):
            raise Malformed("the container's sftp-server answers what was not asked")
        self._weight -= pending.weight
        if fields.kind == Kind.HANDLE:
            self._open(fields.string(), pending)
        elif fields.kind == Kind.DATA:
            self._begin_reading(fields, pending)
        else:
            status = fields.number() if fields.kind == Kind.STATUS else Status.OK
            self._end(pending, status)

    def _open(self, handle: bytes, pending: Pending) -> None:
        operation = pending.operation
        if operation is None or handle in self._handles:
            raise Malformed("the container's sftp-server gives a handle twice")
        if len(handle) > LONGEST_HANDLE or len(operation.path) > _LONGEST_PATH:
            raise Malformed("the container's sftp-server opens what has no name that a file can have")
        if len(self._handles) + len(self._closing) >= MOST_HANDLES:
            raise Malformed(f"more than {MOST_HANDLES} files are open at once")
        opened = self._handles[handle] = Opened(operation.path)
        if pending.mode is not None:
            opened.account = Account(operation.path, pending.mode, self._next)
            operation = replace(operation, stream=self._next)
            self._next += _STREAMS
        self._noted.append(operation)

    def _begin_reading(self, fields: Fields, pending: Pending) -> None:
        _check_count(fields, self._answers)
        opened = pending.opened
        if opened is None or opened.account is None:
            raise Malformed("the container's sftp-server reads from what is not open")
        self._reading = _Passing(opened.account.reading(), opened.account.stream, pending.offset, opened)

    def _take_read(self, part: Contents) -> None:
        if self._reading is None:
            return
        if part.payload:
            self._noted.append(self._reading.take(part.payload))
        if not part.left:
            self._answer_for(self._reading.opened)
            self._reading = None

    def _end(self, pending: Pending, status: int) -> None:
        """Note how a request ended that was answered by a status, or by what is nobody's concern."""
        words = _WORDS.get(status, f"status {status}")
        opened = pending.opened
        if pending.operation is not None:
            if status == Status.OK and pending.kind in {Kind.OPEN, Kind.OPENDIR}:
                raise Malformed("the container's sftp-server opens without a handle")
            self._noted.append(replace(pending.operation, result=words))
        if opened is None or opened.account is None:
            return
        if pending.kind == Kind.CLOSE:
            opened.closed = words
            self._sum_up_closed(opened)
            return
        if status != Status.OK and not (pending.kind == Kind.READ and status == Status.EOF):
            passed = opened.account.reading() if pending.kind == Kind.READ else opened.account.writing()
            passed.failure = passed.failure or words
        self._answer_for(opened)

    def _answer_for(self, opened: Opened) -> None:
        opened.unanswered -= 1
        self._sum_up_closed(opened)

    def _sum_up_closed(self, opened: Opened) -> None:
        """Sum a file up when it is closed, and all that was asked of it before is answered."""
        if opened.closed is not None and not opened.unanswered and opened.account is not None:
            self._closing.discard(opened)
            self._noted.extend(opened.account.sum_up(opened.closed))


class _Passing:
    """The contents of one packet as they pass: their account and stream, and where the next of them is in the file."""

    __slots__ = ("_offset", "_passed", "_stream", "opened")

    def __init__(self, passed: Passed, stream: int, offset: int | None, opened: Opened) -> None:
        self._passed = passed
        self._stream = stream
        self._offset = offset
        self.opened = opened

    def take(self, payload: bytes) -> Data:
        """Take a piece into account, and return it as it is to be recorded."""
        self._passed.add(self._offset, payload)
        if self._offset is not None:
            self._offset += len(payload)
        return Data(self._stream, payload)


def _check_count(fields: Fields, cutter: Cutter) -> None:
    if fields.number() != cutter.left:
        raise Malformed("an SFTP packet has not the contents that it says")
