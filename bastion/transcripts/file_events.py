"""What was done with files, as the text of `f` events and back, and as one line for people."""

import binascii
import json
from typing import Final

from bastion.errors import TranscriptError
from bastion.log import shorten
from bastion.model import FileOperation
from bastion.transcripts.parsing import load_small

_LONGEST_WORDS: Final = 1000  # characters of a result or a note: a container has a part in them
_LINE: Final = 512
_HINT: Final = "it was not written by a bastion"


def encode(operation: FileOperation) -> str:
    """Return a JSON object in ASCII; what is None or empty is left out."""
    fields = {
        "operation": operation.operation,
        **_encode_path("path", operation.path),
        "result": operation.result[:_LONGEST_WORDS],
        **({} if operation.other is None else _encode_path("other", operation.other)),
        "size": operation.size,
        "sha256": operation.sha256,
        "stream": operation.stream,
        "note": operation.note[:_LONGEST_WORDS] or None,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":"))


def decode(text: str) -> FileOperation:
    """Return what `encode` was given.

    Raises:
        TranscriptError: it is of another form.
    """
    try:
        fields = load_small(text)
        return FileOperation(
            _text(fields, "operation"),
            _decode_path(fields, "path"),
            _text(fields, "result"),
            _decode_path(fields, "other") if "other" in fields or "other_base64" in fields else None,
            _number(fields, "size"),
            _text(fields, "sha256") if "sha256" in fields else None,
            _number(fields, "stream"),
            _text(fields, "note") if "note" in fields else "",
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TranscriptError("an f event of the transcript says nothing of a file", _HINT) from error


def one_line(operation: FileOperation) -> str:
    """Say it in one line that prints, whatever the names are."""
    size = f", {operation.size} bytes" if operation.size is not None else ""
    note = f" ({operation.note})" if operation.note else ""
    return shorten(f"{operation.operation} {paths(operation)}{size}: {operation.result}{note}", _LINE)


def paths(operation: FileOperation) -> str:
    """Return the path, and where there is another the way from one to it; it may hold anything."""
    words = [path.decode("utf-8", "backslashreplace") for path in (operation.path, operation.other) if path is not None]
    return " -> ".join(words)


def _encode_path(name: str, path: bytes) -> dict[str, str]:
    try:
        return {name: path.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": binascii.b2a_base64(path, newline=False).decode()}


def _decode_path(fields: dict[str, object], name: str) -> bytes:
    if name in fields:
        return _text(fields, name).encode()
    return binascii.a2b_base64(_text(fields, f"{name}_base64"), strict_mode=True)


def _text(fields: dict[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _number(fields: dict[str, object], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise TypeError(name)
    return value
