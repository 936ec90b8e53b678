"""Convert public key files of other tools, RFC 4716 (PuTTYgen, `ssh-keygen -e`), to one line of authorized_keys.

A byte order mark at the beginning and CRLF line ends, which Windows programs write, are removed.
"""

import base64
import binascii
import codecs
from typing import Final

from bastion.errors import ConfigurationError

MAX_FILE_BYTES: Final = 64 * 1024
_BEGIN: Final = b"---- BEGIN SSH2 PUBLIC KEY ----"
_END: Final = b"---- END SSH2 PUBLIC KEY ----"
_HINT: Final = "give the .pub file of ssh-keygen, or the public key that PuTTYgen saves (RFC 4716)"
_HEADER_CONTINUES: Final = b"\\"


def read_public_key(content: bytes) -> bytes:
    """Return the first line of a public key file, or the line equivalent to its RFC 4716 block.

    Raises:
        ConfigurationError: the file is empty, too long, a private key, or a block without an end or without base64.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"the public key is longer than {MAX_FILE_BYTES} bytes", _HINT)
    text = content.removeprefix(codecs.BOM_UTF8)
    lines = [line.strip(b" \t\r") for line in text.split(b"\n")]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if not lines:
        raise ConfigurationError("the public key is empty", _HINT)
    if b"PRIVATE KEY" in lines[0] or lines[0].startswith(b"PuTTY-User-Key-File"):
        raise ConfigurationError("that is a private key, which stays with its owner", _HINT)
    return _read_block(lines[1:]) if lines[0] == _BEGIN else lines[0]


def _read_block(lines: list[bytes]) -> bytes:
    """Read headers `Tag: value`, continued after a backslash at the line's end, then base64 (RFC 4716 §3)."""
    if _END not in lines:
        raise ConfigurationError(f"the public key has no line {_END.decode()}", _HINT)
    comment, encoded = b"", b""
    rest = iter(lines[: lines.index(_END)])
    for line in rest:
        if b":" not in line:
            encoded += line
            continue
        header = line
        while header.endswith(_HEADER_CONTINUES):
            header = header.removesuffix(_HEADER_CONTINUES) + next(rest, b"")
        tag, _, value = header.partition(b":")
        if tag.lower() == b"comment":
            comment = value.strip().strip(b'"')
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError("the public key is not base64", _HINT) from None
    key_type = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
    return b" ".join(part for part in (key_type, encoded, comment) if part)
