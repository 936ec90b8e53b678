"""Users' keys, authorities and revocations in the key home: users/NAME.pub, ca/*.pub and revoked.

A file that cannot be read is not an empty file. Each attempt to read a file has one of these results:

- read: the lines are the file's current lines;
- gone (ENOENT, ENOTDIR): the file was removed, and its lines with it. If the revocation list is gone, it is in doubt;
- unfit (`UnfitError`: owner, mode, kind or length): the file was inspected; its lines are ignored at once;
- unread (any other OSError: EACCES, EIO, EMFILE, ENFILE, ESTALE …): the file's lines are unknown. The lines read last
  stand in for them (none before the first reading), and `Contents.unread` names the file, so that the caller soon
  reads the file again and does not admit anybody new by the old lines for long.

If a folder cannot be listed, each of its files is unread.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.keyring import files
from bastion.keyring.names import USER
from bastion.keyring.store import Change, Contents, Line

_Lines = Mapping[Path, tuple[Line, ...]]


class FileStore:
    """The lines of the files; one process at a time changes them, each file at once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._users = home / "users"
        self._revoked = home / "revoked"
        self._last_users: _Lines = {}
        self._last_revoked: _Lines = {}

    def open(self) -> None:
        """See Store.open."""

    def stamp(self) -> object:
        """See Store.stamp; by stat only, never raising."""
        return self.stamp_of_revoked(), folder_stamp(self._users)

    def stamp_of_revoked(self) -> object:
        """Return what changes whenever the list of what is revoked does."""
        return _stat(self._revoked)

    def read(self) -> Contents:
        """Read every line of every file. Never raises."""
        look = _Look(self._last_users)
        users = tuple(self._read_users(look))
        self._last_users = look.lines
        revoked = self.read_revoked()
        return Contents(
            users,
            revoked.revoked,
            revoked.missing,
            revoked.doubt,
            (*look.problems, *revoked.problems),
            frozenset(look.unread) | revoked.unread,
        )

    def read_revoked(self) -> Contents:
        """Return the list of what is revoked alone. Never raises."""
        path, last = self._revoked, self._last_revoked
        look = _Look(last)
        try:
            lines = look.file(path, "")
        except FileNotFoundError:
            return Contents(missing=str(path))
        except OSError as error:
            return Contents(doubt=f"{path}: {files.words(error)}; nobody is let in until it can be read")
        if look.unread and path not in last:
            doubt = f"{look.problems[0]}; nobody is let in until it can be read"
            return Contents(doubt=doubt, unread=frozenset(look.unread))
        self._last_revoked = look.lines
        return Contents(revoked=lines, problems=tuple(look.problems), unread=frozenset(look.unread))

    def change(self, decide: Callable[[Contents], Change]) -> None:
        """See Store.change.

        What is revoked is written first, so that a key is never neither there nor here; then lines are removed.
        """
        try:
            with files.locked(self._home):
                contents = self.read()
                change = _decided(contents, decide)
                _append(self._revoked, [line.encode() for line in change.revoked])
                for path in {line.path for line in change.removed}:
                    _remove_lines(path, {line.number for line in change.removed if line.path == path})
                for user, text in change.added:
                    _append(self._users / f"{user}.pub", [text])
        except OSError as error:
            raise unwritable(self._home, error) from error

    def close(self) -> None:
        """See Store.close."""

    def _read_users(self, look: "_Look") -> Iterator[Line]:
        for path in look.folder(self._users):
            if path.suffix != ".pub" or not USER.fullmatch(path.stem):
                look.problems.append(f"{self._users}: {path.name!a} is not NAME.pub and is left out")
                continue
            yield from look.file_of_folder(path, path.stem)


class AuthorityFolder:
    """The lines of FOLDER/*.pub, the trusted authorities' keys; private keys may lie beside these files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: _Lines = {}

    def stamp(self) -> object:
        """Return a stamp that differs whenever a file has changed; by stat(2) only. Never raises."""
        return folder_stamp(self._folder)

    def read(self) -> Contents:
        """Return the lines as `users` with an empty name; a folder that is gone has no lines. Never raises."""
        look = _Look(self._last)
        paths = [path for path in look.folder(self._folder, may_be_gone=True) if path.suffix == ".pub"]
        lines = [line for path in paths for line in look.file_of_folder(path, "")]
        self._last = look.lines
        return Contents(lines, problems=tuple(look.problems), unread=frozenset(look.unread))


class _Look:
    """One reading of some files; `last` holds the result of the reading before."""

    def __init__(self, last: _Lines) -> None:
        self.last = last
        self.lines: dict[Path, tuple[Line, ...]] = {}
        self.unread: set[Path] = set()
        self.problems: list[str] = []

    def folder(self, folder: Path, *, may_be_gone: bool = False) -> list[Path]:
        """List a folder's files by name, those that begin with a dot left out."""
        try:
            if fault := files.fault(folder.stat(), files.OTHERS_WRITE):
                self.problems.append(f"{folder}: {fault}")
                return []
            return files.visible(folder)
        except OSError as error:
            if not (may_be_gone and files.is_gone(error)):
                self.problems.append(f"{folder}: {files.words(error)}")
            if files.is_gone(error):
                return []
        self.unread.add(folder)
        return sorted(path for path in self.last if path.parent == folder)

    def file_of_folder(self, path: Path, user: str) -> tuple[Line, ...]:
        """Return the lines of a listed file; no lines if the file is unfit or gone since the listing."""
        if path.parent in self.unread:
            self.unread.add(path)
            self.lines[path] = self.last[path]
            return self.last[path]
        try:
            return self.file(path, user)
        except OSError as error:
            self.problems.append(f"{path}: {files.words(error)}")
            return ()

    def file(self, path: Path, user: str) -> tuple[Line, ...]:
        """Return the lines of one file; the lines read last when the file is unread.

        Raises:
            OSError: the file is gone or unfit.
        """
        try:
            self.lines[path] = _lines(path, user)
        except OSError as error:
            if not files.is_unread(error):
                raise
            self.problems.append(f"{path}: {files.words(error)}")
            self.unread.add(path)
            if path in self.last:
                self.lines[path] = self.last[path]
        return self.lines.get(path, ())


def folder_stamp(path: Path) -> tuple[object, ...]:
    """Return what changes whenever a file of the folder does: cheap, by stat only, never raising."""
    try:
        names = sorted(file.name for file in path.iterdir())
    except OSError as error:
        return (error.errno,)
    folder = _stat(path)
    return (folder[:3], *((name, _stat(path / name)) for name in names))


def unwritable(path: Path, error: OSError) -> ConfigurationError:
    """Say that the key home cannot be changed, and what may help."""
    return ConfigurationError(
        f"{path}: {files.words(error)}", "run this as the owner of the key home; bastion keys init makes a new one"
    )


def _decided(contents: Contents, decide: Callable[[Contents], Change]) -> Change:
    """Return the decision on a change; unread lines block an addition, but not a revocation."""
    unread = "; ".join(problem for problem in contents.problems if contents.unread)
    hint = "mend that first: a line of it may be about the same key"
    try:
        change = decide(contents)
    except ConfigurationError as error:
        if unread:
            raise ConfigurationError(unread, f"mend that first: {error.public}") from error
        raise
    if change.added and unread:
        raise ConfigurationError(unread, hint)
    return change


def _lines(path: Path, user: str) -> tuple[Line, ...]:
    texts = files.read(path).split(b"\n")
    return tuple(Line(user, text, path, number) for number, text in enumerate(texts, 1))


def _stat(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return (status.st_mode, status.st_uid, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _append(path: Path, lines: list[bytes]) -> None:
    if not lines:
        return
    try:
        contents = files.read(path)
    except FileNotFoundError:
        contents = b""
    ending = b"" if not contents or contents.endswith(b"\n") else b"\n"
    files.write_private(path, contents + ending + b"".join(line + b"\n" for line in lines))


def _remove_lines(path: Path, numbers: set[int]) -> None:
    lines = files.read(path).split(b"\n")
    kept = b"\n".join(line for number, line in enumerate(lines, 1) if number not in numbers)
    if kept.strip():
        files.write_private(path, kept)
    else:
        path.unlink()
