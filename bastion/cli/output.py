"""What a command prints: data on standard output, as a table or JSON, and words on standard error."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

_WIDTH_LIMIT: Final = 200


def show_error(words: str, hint: str = "") -> None:
    """Say on standard error what is wrong, and on the next line what to do."""
    from bastion.log import escape

    sys.stderr.write(f"bastion: error: {escape(words)}\n")
    if hint:
        sys.stderr.write(f"bastion: hint: {escape(hint)}\n")


def show_warning(words: str, hint: str = "") -> None:
    """Say on standard error what may go wrong, and on the next line what to do."""
    say(f"warning: {words}")
    if hint:
        say(f"hint: {hint}")


def say(words: str) -> None:
    """Say one line on standard error."""
    from bastion.log import escape

    sys.stderr.write(f"bastion: {escape(words)}\n")


def write_json(value: object) -> None:
    """Print a value as indented JSON, all of it ASCII; times in ISO 8601."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def write_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their heads in aligned columns; control characters in them are escaped, None is `-`."""
    cells = [list(heads), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        sys.stdout.write("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def write_fields(fields: dict[str, Any]) -> None:
    """Print one thing's fields, a line each, escaped as in a table."""
    width = max(map(len, fields))
    for name, value in fields.items():
        sys.stdout.write(f"{name:{width}}  {_cell(value)}\n")


def _cell(value: object) -> str:
    from bastion.log import shorten

    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().isoformat(" ", "seconds")
    return shorten(str(value), _WIDTH_LIMIT)
