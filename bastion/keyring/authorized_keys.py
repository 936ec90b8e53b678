"""One line of OpenSSH's authorized_keys becomes a key and the bounds on it, or one reason why it is not accepted."""

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass

from bastion.keyring.options import InvalidLineError, Options, read_options

LINE_LIMIT = 8192  # bytes, as in sshd(8)

_KEY_TYPE = re.compile(r"(sk-)?(ssh|ecdsa|webauthn)-[a-z0-9-]+(@[a-z.]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """A line taken apart; `blob` is the public key in SSH wire format (RFC 4253 §6.6), not yet judged for strength."""

    key_type: str
    blob: bytes
    comment: str
    options: Options

    @property
    def fingerprint(self) -> str:
        """The SHA256 fingerprint as `ssh-keygen -l` prints it."""
        return fingerprint(self.blob)

    @property
    def public_text(self) -> str:
        """Key type and base64, without options and comment."""
        return f"{self.key_type} {base64.b64encode(self.blob).decode()}"


def fingerprint(blob: bytes) -> str:
    """Return a public key's SHA256 fingerprint as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse(line: bytes) -> AuthorizedKey | None:
    """Read one line (sshd(8), AUTHORIZED_KEYS FILE FORMAT); None for an empty line or a comment.

    Raises:
        InvalidLineError: it is not such a line, or has an option that is unknown or cannot be enforced here.
    """
    if len(line) > LINE_LIMIT:
        raise InvalidLineError(f"is longer than {LINE_LIMIT} bytes")
    try:
        text = line.decode("utf-8").strip(" \t\r")
    except UnicodeDecodeError:
        raise InvalidLineError("is not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    if any(ord(character) < ord(" ") and character != "\t" for character in text) or "\x7f" in text:
        raise InvalidLineError("has control characters in it")
    options, rest = Options(), text
    if not _KEY_TYPE.fullmatch(re.split(r"[ \t]", text, maxsplit=1)[0]):
        options, rest = read_options(text)
    key_type, _, rest = rest.lstrip(" \t").replace("\t", " ").partition(" ")
    encoded, _, comment = rest.lstrip(" ").partition(" ")
    return AuthorizedKey(key_type, decode_key(key_type, encoded), comment.strip(), options)


def decode_key(key_type: str, encoded: str) -> bytes:
    """Return the key's blob from its base64, which must hold a key of the type beside it.

    Raises:
        InvalidLineError: it does not.
    """
    if not _KEY_TYPE.fullmatch(key_type):
        raise InvalidLineError("has no key type where one must be")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidLineError("has a key that is not base64") from None
    name = key_type.encode()
    if not blob.startswith(struct.pack(">I", len(name)) + name):
        raise InvalidLineError("has a key of another type than it says")
    return blob
