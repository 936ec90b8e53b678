"""What a request of SFTP version 3 will have done when it is answered, for whoever reads the conversation along."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bastion.errors import Malformed
from bastion.files import Mode
from bastion.files import sftp_wire as wire
from bastion.files.passed import Account, ways, words_of
from bastion.files.sftp_wire import Fields, Kind
from bastion.model import FileOperation

_ANSWERS: Final[dict[int, frozenset[int]]] = {
    **dict.fromkeys((Kind.OPEN, Kind.OPENDIR), frozenset[int]((Kind.HANDLE,))),
    **dict.fromkeys((Kind.LSTAT, Kind.FSTAT, Kind.STAT), frozenset[int]((Kind.ATTRS,))),
    **dict.fromkeys((Kind.READDIR, Kind.REALPATH, Kind.READLINK), frozenset[int]((Kind.NAME,))),
    Kind.READ: frozenset((Kind.DATA,)),
    Kind.EXTENDED: frozenset((Kind.EXTENDED_REPLY, Kind.NAME, Kind.ATTRS)),
}


@dataclass(slots=True, eq=False)
class Opened:
    """What a handle stands for. `account` is a file's, `unanswered` counts what was asked of it, `closed` is how."""

    path: bytes
    account: Account | None = None
    unanswered: int = 0
    closed: str | None = None


@dataclass(slots=True)
class Pending:
    """A request without its answer: what it will have done, of what handle, and where in the file."""

    kind: int
    operation: FileOperation | None = None
    opened: Opened | None = None
    mode: Mode | None = None
    offset: int = 0

    @property
    def weight(self) -> int:
        """How many bytes it keeps, about."""
        operation = self.operation
        return 0 if operation is None else len(operation.path) + len(operation.other or b"") + len(operation.note)

    def may_have(self, answer: int) -> bool:
        """Tell whether it can be answered by a packet of this kind."""
        return answer == Kind.STATUS or answer in _ANSWERS.get(self.kind, ())


class Requests:
    """Reads requests; `handles` are those that are open, and a CLOSE takes one out of them."""

    def __init__(self, handles: dict[bytes, Opened]) -> None:
        self._handles = handles
        self._by_kind: Mapping[int, Callable[[Fields], Pending]] = {
            Kind.OPEN: _open,
            Kind.CLOSE: self._close,
            Kind.READ: self._read,
            Kind.WRITE: self._write,
            Kind.FSETSTAT: self._change_opened,
            Kind.SETSTAT: lambda fields: Pending(Kind.SETSTAT, _change(fields)),
            Kind.OPENDIR: lambda fields: Pending(Kind.OPENDIR, FileOperation("list", fields.string())),
            Kind.REMOVE: lambda fields: Pending(Kind.REMOVE, FileOperation("remove", fields.string())),
            Kind.MKDIR: lambda fields: Pending(Kind.MKDIR, FileOperation("make-directory", fields.string())),
            Kind.RMDIR: lambda fields: Pending(Kind.RMDIR, FileOperation("remove-directory", fields.string())),
            Kind.RENAME: lambda fields: Pending(Kind.RENAME, _of_two("rename", fields)),
            Kind.SYMLINK: lambda fields: Pending(Kind.SYMLINK, _symlink(fields)),
            Kind.EXTENDED: self._extended,
            # What only looks is not put on record: clients do it before and after everything.
            **dict.fromkeys(
                (Kind.LSTAT, Kind.FSTAT, Kind.READDIR, Kind.REALPATH, Kind.STAT, Kind.READLINK),
                lambda fields: Pending(fields.kind),
            ),
        }

    def read(self, fields: Fields) -> Pending:
        """Read what stands behind a request's number.

        Raises:
            Malformed: it is none.
        """
        known = self._by_kind.get(fields.kind)
        if known is None:
            raise Malformed(f"no SFTP request is of kind {fields.kind}")
        return known(fields)

    def _close(self, fields: Fields) -> Pending:
        return Pending(Kind.CLOSE, opened=self._handles.pop(fields.string(), None))

    def _read(self, fields: Fields) -> Pending:
        pending = Pending(Kind.READ, opened=self._file(fields), offset=fields.long())
        if pending.opened is not None and pending.opened.account is not None:
            pending.opened.unanswered += 1
            pending.opened.account.reading()
        return pending

    def _write(self, fields: Fields) -> Pending:
        pending = Pending(Kind.WRITE, opened=self._file(fields), offset=fields.long())
        if pending.opened is None:
            raise Malformed("an SFTP client writes to what is not open")  # there is no stream to record it under
        pending.opened.unanswered += 1
        return pending

    def _file(self, fields: Fields) -> Opened | None:
        """Return what a handle stands for, when it is a file; the server will refuse one that is not."""
        opened = self._handles.get(fields.string())
        return opened if opened is not None and opened.account is not None else None

    def _change_opened(self, fields: Fields) -> Pending:
        opened = self._handles.get(fields.string())
        changes = fields.changes()
        if opened is None:
            return Pending(Kind.FSETSTAT)
        return Pending(Kind.FSETSTAT, FileOperation("change", opened.path, note=words_of(changes)))

    def _extended(self, fields: Fields) -> Pending:
        name = fields.string()
        operation = FileOperation("extension", name)
        match name:
            case b"posix-rename@openssh.com":
                operation = _of_two("rename", fields)
            case b"hardlink@openssh.com":
                operation = _of_two("link", fields)
            case b"lsetstat@openssh.com":
                operation = _change(fields)
            case b"copy-data":
                return Pending(Kind.EXTENDED, self._copy(fields))
            case _ if name in _LOOKING:
                return Pending(Kind.EXTENDED)
        return Pending(Kind.EXTENDED, operation)

    def _copy(self, fields: Fields) -> FileOperation | None:
        source = self._handles.get(fields.string())
        fields.long()
        fields.long()
        target = self._handles.get(fields.string())
        if source is None or target is None:
            return None
        return FileOperation("write", target.path, other=source.path, note="copied inside the container")


_LOOKING: Final = frozenset(
    (
        b"statvfs@openssh.com",
        b"fstatvfs@openssh.com",
        b"fsync@openssh.com",
        b"limits@openssh.com",
        b"expand-path@openssh.com",
        b"users-groups-by-id@openssh.com",
        b"home-directory",
    )
)


def _open(fields: Fields) -> Pending:
    path, mode = fields.string(), wire.mode(fields.number(), None)
    return Pending(Kind.OPEN, FileOperation("open", path, note=ways(mode)), mode=mode)


def _change(fields: Fields) -> FileOperation:
    path = fields.string()
    return FileOperation("change", path, note=words_of(fields.changes()))


def _of_two(operation: str, fields: Fields) -> FileOperation:
    path, other = fields.string(), fields.string()
    return FileOperation(operation, path, other=other)


def _symlink(fields: Fields) -> FileOperation:
    target, path = fields.string(), fields.string()  # as OpenSSH has them, whose server it is
    return FileOperation("symlink", path, other=target)
