"""What a command prints: data on standard output, as a table or JSON, and words on standard error."""

import itertools
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

_WIDTH_LIMIT: Final = 200
_BATCH: Final = 1000  # rows


def show_error(words: str, hint: str = "") -> None:
    """Say on standard error what is wrong, and on the next line what to do."""
    from bastion.log import escape

    sys.stderr.write(f"bastion: error: {escape(words)}\n")
    if hint:
        sys.stderr.write(f"bastion: hint: {escape(hint)}\n")


def show_warning(words: str, hint: str = "") -> None:
    """Print a warning on standard error, and its hint, if any, on the next line."""
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
    _write_cells(cells, widths)


def write_long_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print any number of rows as `write_table` does, 1000 at a time; later batches may have wider columns."""
    iterator = iter(rows)
    widths = [len(head) for head in heads]
    cells = [list(heads)]
    while batch := list(itertools.islice(iterator, _BATCH)):
        cells += [[_cell(value) for value in row] for row in batch]
        widths = [max(width, *(len(row[column]) for row in cells)) for column, width in enumerate(widths)]
        _write_cells(cells, widths)
        cells = []
    _write_cells(cells, widths)


def write_long_json(facts: Mapping[str, object], name: str, items: Iterable[object]) -> None:
    """Print an object with these facts and the list `name`, as `write_json` does, but one item at a time."""
    sys.stdout.write("{")
    for key, value in facts.items():
        sys.stdout.write(f"\n  {json.dumps(key)}: {json.dumps(value, default=str)},")
    sys.stdout.write(f"\n  {json.dumps(name)}: [")
    comma = ""
    for item in items:
        sys.stdout.write(comma + "\n" + textwrap.indent(json.dumps(item, indent=2, default=str), "    "))
        comma = ","
    sys.stdout.write(("\n  ]" if comma else "]") + "\n}\n")


def _write_cells(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    for row in cells:
        sys.stdout.write("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def write_fields(fields: dict[str, Any]) -> None:
    """Print one record's fields, a line each; names and values are escaped as in a table."""
    names = [_cell(name) for name in fields]
    width = max(map(len, names))
    for name, value in zip(names, fields.values(), strict=True):
        sys.stdout.write(f"{name:{width}}  {_cell(value)}\n")


def _cell(value: object) -> str:
    from bastion.log import shorten

    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().isoformat(" ", "seconds")
    return shorten(str(value), _WIDTH_LIMIT)
