"""The API's bearer tokens: issued once, kept as hashes in the key home, read again when the file changes."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bastion.errors import ConfigurationError
from bastion.keyring import files

Scope = Literal["sessions:read", "sessions:write", "keys:issue", "audit:read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
FILE: Final = "tokens"
MOST_TOKENS: Final = 1000
UNREAD_GRACE_SECONDS: Final = 60.0
LONGEST: Final = 200  # characters of a token that is looked at
_OF_NOBODY: Final = frozenset({"audit:read", "admin"})
_PREFIX: Final = "bastion_"  # lets scanners of secrets find one that was published
_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Token(BaseModel):
    """What is kept of one token: a SHA-256, since what is hashed is 256 random bits and not a password.

    Times are in seconds since the epoch. With a `user` it does what that user may, within its scopes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    user: Name | None = None
    created: float
    expires: float

    @model_validator(mode="after")
    def _within_its_user(self) -> "Token":
        if self.user is not None and (wide := sorted(_OF_NOBODY & set(self.scopes))):
            raise ValueError(f"{wide[0]} is not for a user's token")
        return self


class Tokens:
    """The tokens of one key home. `now` gives the present in seconds since the epoch (`Keyring.now`).

    - A file that is gone has no tokens.
    - A file that other users can access, or that has a malformed line, lets nobody in.
    - While the file cannot be read (EMFILE, EIO, EACCES), the tokens read last count for `grace` seconds.
    """

    def __init__(self, home: Path, now: Callable[[], float], *, grace: float = UNREAD_GRACE_SECONDS) -> None:
        self.path = home / FILE
        self._now = now
        self._grace = grace
        self._unread_since: float | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why no token is accepted, when something is wrong with the file."""
        return self._problem

    def issue(self, name: str, scopes: Iterable[str], *, seconds: float, user: str | None = None) -> str:
        """Make a token and return it; it is kept nowhere, only its hash is.

        Raises:
            ConfigurationError: the name is taken or cannot be, a scope is none, or the file cannot be written.
        """
        wanted = tuple(dict.fromkeys(scopes))
        text = _PREFIX + secrets.token_urlsafe(_BYTES)
        present = self._now()
        _refuse_impossible(name, wanted, user, seconds)
        facts = {"name": name, "sha256": _hash(text), "scopes": wanted, "user": user}
        token = Token.model_validate(facts | {"created": present, "expires": present + seconds})
        try:
            with files.locked(self.path.parent):
                kept = self._read()
                if any(other.name == name for other in kept):
                    raise ConfigurationError(
                        f"there is a token {name}", f"bastion tokens revoke {name}, or another name"
                    )
                if len(kept) >= MOST_TOKENS:
                    raise ConfigurationError(f"there are {MOST_TOKENS} tokens", "revoke those nobody uses")
                self._write([*kept, token])
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return text

    def list(self) -> Sequence[Token]:
        """List every token as the file has it now, oldest first.

        Raises:
            ConfigurationError: the file cannot be read, or others may read it.
        """
        return self._read()

    def revoke(self, name: str) -> Token:
        """Remove a token and return what was known of it.

        Raises:
            ConfigurationError: there is none of that name, or the file cannot be written.
        """
        try:
            with files.locked(self.path.parent):
                kept = self._read()
                gone = next((token for token in kept if token.name == name), None)
                if gone is None:
                    raise ConfigurationError(f"there is no token {name[:64]!a}", "bastion tokens list shows them")
                self._write([token for token in kept if token.name != name])
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return gone

    def find(self, text: str) -> Token | None:
        """Return the token that this is, unless it is expired, revoked or none; compares in constant time."""
        self._refresh()
        if len(text) > LONGEST:
            return None
        sought, found = _hash(text), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, sought):
                found = token
        return found if found is not None and self.is_good(found) else None

    def is_good(self, token: Token) -> bool:
        """Tell whether a token that was found earlier is still good."""
        self._refresh()
        return token in self._tokens and self._now() < token.expires

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
            stamp = status.st_ino, status.st_mtime_ns, status.st_size
            if stamp == self._stamp:
                return
            self._tokens, self._problem = tuple(self._read()), ""
        except FileNotFoundError:
            self._stamp, self._tokens, self._problem = None, (), ""
        except OSError as error:
            self._keep_for_a_time(error)
            return
        except ConfigurationError as error:
            if isinstance(error.__cause__, OSError) and files.is_unread(error.__cause__):
                self._keep_for_a_time(error.__cause__)
                return
            self._stamp, self._tokens, self._problem = stamp, (), error.public
        else:
            self._stamp = stamp
        self._unread_since = None

    def _keep_for_a_time(self, error: OSError) -> None:
        """Use the tokens read last until the grace is over; the file is read again at the next poll."""
        present = time.monotonic()
        self._unread_since = present if self._unread_since is None else self._unread_since
        self._stamp, self._problem = None, f"{self.path}: {files.words(error)}"
        if present - self._unread_since > self._grace:
            self._tokens = ()

    def _read(self) -> Sequence[Token]:
        try:
            if not files.exists(self.path):
                return []
            if fault := files.private_fault(self.path):
                raise fault
            lines = files.read(self.path).splitlines()
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: {files.words(error)}", "mend it, or remove it and issue anew"
            ) from error
        tokens = []
        for number, line in enumerate(lines, 1):
            try:
                tokens.append(Token.model_validate_json(line))
            except ValidationError:
                raise ConfigurationError(
                    f"{self.path}:{number}: is no line of a token", "remove that line: it lets nobody in"
                ) from None
        return tokens

    def _write(self, tokens: Sequence[Token]) -> None:
        lines = (json.dumps(token.model_dump(), separators=(",", ":")) + "\n" for token in tokens)
        files.write_private(self.path, "".join(lines).encode())


def _refuse_impossible(name: str, scopes: Collection[str], user: str | None, seconds: float) -> None:
    for one in (name, *([user] if user is not None else [])):
        if not _NAME.fullmatch(one):
            raise ConfigurationError(
                f"{one[:64]!a} is no name", "use up to 64 of a-z, 0-9, dots, dashes and underscores"
            )
    if strangers := [scope for scope in scopes if scope not in SCOPES]:
        raise ConfigurationError(f"there is no scope {strangers[0][:64]!a}", f"the scopes are {', '.join(SCOPES)}")
    if not scopes:
        raise ConfigurationError("a token without a scope opens nothing", f"the scopes are {', '.join(SCOPES)}")
    if user is not None and (wide := sorted(_OF_NOBODY & set(scopes))):
        raise ConfigurationError(f"{wide[0]} is not for a user's token", "leave out --user, or that scope")
    if seconds <= 0:
        raise ConfigurationError("a token cannot expire before it is issued", "give a time such as 90d")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: {files.words(error)}", "run this as the owner of the key home")
