"""Changes to users/ and revoked: a line is added, a key is revoked; one process at a time, each file at once."""

from pathlib import Path

from bastion.errors import ConfigurationError
from bastion.keyring import files
from bastion.keyring.authorized_keys import AuthorizedKey, parse
from bastion.keyring.options import InvalidLineError
from bastion.keyring.revoked import FINGERPRINT
from bastion.keyring.snapshot import USER, Entry, Judge, Snapshot, take


def user_file(home: Path, user: str) -> Path:
    """Return where a user's keys are.

    Raises:
        ConfigurationError: no user can have that name.
    """
    if not USER.fullmatch(user):
        raise ConfigurationError(
            f"{user[:64]!a} is no name of a user",
            "use up to 64 of a-z, 0-9, dots, dashes and underscores, a letter or digit first",
        )
    return home / "users" / f"{user}.pub"


def add(home: Path, judge: Judge, user: str, public_line: str) -> str:
    """Add a line to a user's file and return the key's fingerprint.

    Raises:
        ConfigurationError: the name or the line is not accepted, the key is there already or revoked.
    """
    path = user_file(home, user)
    line = public_line.strip().encode("utf-8", "replace")
    key = _acceptable(line, judge)
    try:
        with files.locked(home):
            _refuse_known(take(home, judge, Snapshot()), user, key)
            contents = files.read(path) if path.exists() else b""
            ending = b"" if not contents or contents.endswith(b"\n") else b"\n"
            files.write_private(path, contents + ending + line + b"\n")
    except OSError as error:
        raise unwritable(path, error) from error
    return key.fingerprint


def _acceptable(line: bytes, judge: Judge) -> AuthorizedKey:
    hint = "give one line such as ssh-keygen writes into a .pub file"
    try:
        key = parse(line)
        if key is not None:
            judge(key)
    except InvalidLineError as error:
        raise ConfigurationError(f"the line {error}", hint) from error
    if key is None:
        raise ConfigurationError("the line is empty or a comment", hint)
    return key


def _refuse_known(snapshot: Snapshot, user: str, key: AuthorizedKey) -> None:
    """Refuse a key that is on a line already; an authority may speak of several users."""
    if key.fingerprint in snapshot.revoked.keys:
        raise ConfigurationError(f"the key {key.fingerprint} was revoked", "make a new key: bastion keys issue")
    for entry in snapshot.entries:
        is_authority = key.options.is_authority
        if (
            entry.key.blob == key.blob
            and entry.key.options.is_authority == is_authority
            and (entry.user == user or not is_authority)
        ):
            raise ConfigurationError(
                f"the key {key.fingerprint} is already in {entry.path}:{entry.number}",
                "one key is one line of one user; remove that line first",
            )


def revoke(home: Path, judge: Judge, whom: str, stack: str | None) -> list[str]:
    """Revoke the key of a fingerprint, or every key of a user, or those of the user that are bound to a stack.

    The fingerprints go into revoked first, so that a key is never neither there nor here; then its lines are removed.
    A fingerprint that nobody holds is revoked all the same. An authority that is trusted for a user is not revoked with
    the user, since others may trust it too: its line is removed.

    Raises:
        ConfigurationError: there is no such key, or the home cannot be written.
    """
    by_fingerprint = FINGERPRINT.fullmatch(whom) is not None
    if not by_fingerprint:
        user_file(home, whom)
    try:
        with files.locked(home):
            snapshot = take(home, judge, Snapshot())
            doomed = [
                entry for entry in snapshot.entries if _is_meant(entry, whom, stack, by_fingerprint=by_fingerprint)
            ]
            fingerprints = sorted({entry.key.fingerprint for entry in doomed} | ({whom} if by_fingerprint else set()))
            if not fingerprints:
                raise ConfigurationError(f"{whom} has no such key", "bastion keys list shows every key")
            own = {entry.key.fingerprint for entry in doomed if not entry.key.options.is_authority}
            gone = fingerprints if by_fingerprint else sorted(own)
            _append_revoked(home / "revoked", [one for one in gone if one not in snapshot.revoked.keys], whom)
            lost = [entry for entry in snapshot.entries if entry in doomed or entry.key.fingerprint in gone]
            for path in {entry.path for entry in lost}:
                _remove_lines(path, {entry.number for entry in lost if entry.path == path})
    except OSError as error:
        raise unwritable(home, error) from error
    return fingerprints


def revoke_certificates(home: Path, line: str) -> None:
    """Add a line about certificates to the list of what is revoked, unless it is there.

    Raises:
        ConfigurationError: the home cannot be written.
    """
    path = home / "revoked"
    try:
        with files.locked(home):
            contents = files.read(path) if path.exists() else b""
            if line.encode() not in contents.split(b"\n"):
                ending = b"" if not contents or contents.endswith(b"\n") else b"\n"
                files.write_private(path, contents + ending + line.encode() + b"\n")
    except OSError as error:
        raise unwritable(path, error) from error


def _is_meant(entry: Entry, whom: str, stack: str | None, *, by_fingerprint: bool) -> bool:
    if by_fingerprint:
        return entry.key.fingerprint == whom
    return entry.user == whom and stack in {None, entry.key.options.stack}


def _append_revoked(path: Path, fingerprints: list[str], whom: str) -> None:
    contents = files.read(path) if path.exists() else b""
    ending = b"" if not contents or contents.endswith(b"\n") else b"\n"
    comment = "" if whom.startswith("SHA256:") else f" {whom}"
    lines = "".join(f"{fingerprint}{comment}\n" for fingerprint in fingerprints)
    if lines:
        files.write_private(path, contents + ending + lines.encode())


def _remove_lines(path: Path, numbers: set[int]) -> None:
    lines = files.read(path).split(b"\n")
    kept = b"\n".join(line for number, line in enumerate(lines, 1) if number not in numbers)
    if kept.strip():
        files.write_private(path, kept)
    else:
        path.unlink()


def unwritable(path: Path, error: OSError) -> ConfigurationError:
    """Say that the key home cannot be changed, and what may help."""
    return ConfigurationError(
        f"{path}: {files.words(error)}", "run this as the owner of the key home; bastion keys init makes a new one"
    )
