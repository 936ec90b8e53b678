"""All that was done with files in one session, with its times, from a transcript's lines."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from bastion.errors import TranscriptError
from bastion.model import FileOperation
from bastion.transcripts.file_events import decode
from bastion.transcripts.parsing import read_event, read_header

_FOREIGN: Final = "it was not written by a bastion"


def list_operations(lines: Iterable[str]) -> Iterator[tuple[datetime, FileOperation]]:
    """Give every operation on files and when it was put on record.

    Raises:
        TranscriptError: a line is not as we write them; what lies before it has been given.
    """
    rows = iter(lines)
    try:
        begun = datetime.fromisoformat(read_header(next(rows, ""))["created_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise TranscriptError("the transcript does not say when it began", _FOREIGN) from error
    elapsed = 0.0
    for number, row in enumerate(rows, 2):
        interval, code, text = read_event(number, row)
        elapsed += interval
        if code == "f":
            try:
                moment = begun + timedelta(seconds=elapsed)
            except OverflowError as error:
                raise TranscriptError(f"line {number} is after the year 9999", _FOREIGN) from error
            yield moment, decode(text)
