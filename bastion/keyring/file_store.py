"""Users' keys and revocations in the key home: users/NAME.pub and revoked."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.keyring import files
from bastion.keyring.names import USER
from bastion.keyring.store import Change, Contents, Line


class FileStore:
    """The lines of the files; one process at a time changes them, each file at once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._users = home / "users"
        self._revoked = home / "revoked"

    def open(self) -> None:
        """See Store.open."""

    def stamp(self) -> object:
        """See Store.stamp; by stat only, never raising."""
        return self.stamp_of_revoked(), folder_stamp(self._users)

    def stamp_of_revoked(self) -> object:
        """Return what changes whenever the list of what is revoked does."""
        return _stat(self._revoked)

    def read(self) -> Contents:
        """See Store.read; a file that cannot be read is a file without keys. Never raises."""
        problems: list[str] = []
        users = tuple(self._read_users(problems))
        revoked = self.read_revoked()
        return Contents(users, revoked.revoked, revoked.missing, revoked.doubt, tuple(problems))

    def read_revoked(self) -> Contents:
        """Return the list of what is revoked alone. Never raises."""
        path = self._revoked
        try:
            return Contents(revoked=_lines(path, ""))
        except FileNotFoundError:
            return Contents(missing=str(path))
        except OSError as error:
            words = (error.strerror or "cannot be read").lower()
            return Contents(doubt=f"{path}: {words}; nobody is let in until it can be read")

    def change(self, decide: Callable[[Contents], Change]) -> None:
        """See Store.change.

        What is revoked is written first, so that a key is never neither there nor here; then lines are removed.
        """
        try:
            with files.locked(self._home):
                change = decide(self.read())
                _append(self._revoked, [line.encode() for line in change.revoked])
                for path in {line.path for line in change.removed}:
                    _remove_lines(path, {line.number for line in change.removed if line.path == path})
                for user, text in change.added:
                    _append(self._users / f"{user}.pub", [text])
        except OSError as error:
            raise unwritable(self._home, error) from error

    def close(self) -> None:
        """See Store.close."""

    def _read_users(self, problems: list[str]) -> Iterator[Line]:
        folder = self._users
        if wrong := files.public_fault(folder):
            problems.append(f"{folder}: {wrong}")
            return
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            problems.append(f"{folder}: {(error.strerror or 'cannot be read').lower()}")
            return
        for path in paths:
            if path.suffix != ".pub" or not USER.fullmatch(path.stem):
                problems.append(f"{folder}: {path.name!a} is not NAME.pub and is left out")
                continue
            yield from read_lines(path, path.stem, problems)


def read_authorities(folder: Path, problems: list[str]) -> Iterator[Line]:
    """Give the lines of FOLDER/*.pub; private keys may lie beside them. What cannot be read is added to `problems`."""
    if not folder.exists():
        return
    if wrong := files.public_fault(folder):
        problems.append(f"{folder}: {wrong}")
        return
    for path in files.visible(folder):
        if path.suffix == ".pub":
            yield from read_lines(path, "", problems)


def read_lines(path: Path, user: str, problems: list[str]) -> tuple[Line, ...]:
    """Return the lines of one file; none and one more problem when it cannot be read."""
    try:
        return _lines(path, user)
    except OSError as error:
        problems.append(f"{path}: {(error.strerror or 'cannot be read').lower()}")
        return ()


def folder_stamp(path: Path) -> tuple[object, ...]:
    """Return what changes whenever a file of the folder does: cheap, by stat only, never raising."""
    try:
        names = sorted(file.name for file in path.iterdir())
    except OSError as error:
        return (error.errno,)
    folder = _stat(path)
    return (folder and folder[:3], *((name, _stat(path / name)) for name in names))


def unwritable(path: Path, error: OSError) -> ConfigurationError:
    """Say that the key home cannot be changed, and what may help."""
    return ConfigurationError(
        f"{path}: {files.words(error)}", "run this as the owner of the key home; bastion keys init makes a new one"
    )


def _lines(path: Path, user: str) -> tuple[Line, ...]:
    texts = files.read(path).split(b"\n")
    return tuple(Line(user, text, path, number) for number, text in enumerate(texts, 1))


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mode, found.st_uid, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _append(path: Path, lines: list[bytes]) -> None:
    if not lines:
        return
    contents = files.read(path) if path.exists() else b""
    ending = b"" if not contents or contents.endswith(b"\n") else b"\n"
    files.write_private(path, contents + ending + b"".join(line + b"\n" for line in lines))


def _remove_lines(path: Path, numbers: set[int]) -> None:
    lines = files.read(path).split(b"\n")
    kept = b"\n".join(line for number, line in enumerate(lines, 1) if number not in numbers)
    if kept.strip():
        files.write_private(path, kept)
    else:
        path.unlink()
