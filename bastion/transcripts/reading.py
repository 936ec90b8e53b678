"""Find transcripts and read them with an auditor's identity: the age file, and behind it the write-ahead files."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bastion.errors import TranscriptError
from bastion.transcripts import age
from bastion.transcripts.layout import SUFFIX, UID, parts_of, signature_path, transcripts_in, uid_of
from bastion.transcripts.recipients import read_identities
from bastion.transcripts.wal import read_parts
from bastion.transcripts.wrapping import Identity

State = Literal["complete", "unclean", "open"]

_GZIP: Final = 31
_SLICE: Final = 4096  # many small members in one chunk would otherwise be copied over and over
_OUTPUT: Final = 64 * 1024
_LONGEST_LINE: Final = 4 * 2**20
_FOREIGN: Final = "it was not written by a bastion"


@dataclass(frozen=True, slots=True)
class Transcript:
    """One transcript on the disk.

    `size` is in bytes, of all its files. `complete` was finished and signed, `unclean` signed after a failure or a
    crash, `open` is not signed: it is being written, or a crash left it for the next start.
    """

    uid: str
    path: Path
    size: int
    state: State
    signed: bool


def list_transcripts(directory: Path) -> list[Transcript]:
    """List every transcript, by date and then uid."""
    return [_describe(path) for path in transcripts_in(directory)]


def find(directory: Path, uid: str) -> Transcript:
    """Return the transcript with that uid.

    Raises:
        TranscriptError: there is none.
    """
    if UID.fullmatch(uid):
        for path in directory.glob(f"[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/{uid}{SUFFIX}"):
            if path.is_file() and not path.is_symlink():
                return _describe(path)
    raise TranscriptError(f"no transcript {uid[:64]!r} in {directory}", "bastion transcripts list shows all")


def lines(directory: Path, uid: str, identity: Path) -> Iterator[str]:
    """Give a transcript's asciicast lines, without line ends, merged with the write-ahead files when it is unclean.

    Raises:
        TranscriptError: there is none, the identity does not open it, or it was altered or truncated; what is good
            and lies before that has been given.
    """
    found = find(directory, uid)
    return (_decode(line) for line in read_lines(found.path, read_identities(identity)))


def read_lines(path: Path, identities: Sequence[Identity]) -> Iterator[bytes]:
    """Give the lines of the transcript at `path`, as `lines` does.

    Raises:
        TranscriptError: as `lines`.
    """
    parts = parts_of(path)
    count = 0
    try:
        with path.open("rb") as file:
            try:
                for line in _split(_inflate(age.decrypt(file, identities))):
                    yield line
                    count += 1
            except age.Unfinished:
                if not parts:
                    raise
            else:
                return
        yield from _behind(parts, identities, count)
    except OSError as error:
        raise TranscriptError(
            f"cannot read the transcript: {error.strerror}", "look at its modes and its volume"
        ) from error


def _behind(parts: Sequence[Path], identities: Sequence[Identity], count: int) -> Iterator[bytes]:
    provisional = b""
    for record in read_parts(parts, identities):
        if record.line > count:
            raise TranscriptError(
                f"lines {count} to {record.line - 1} are in neither file", "the transcript was truncated"
            )
        number = record.line
        for line in _lines_of(record.lines):
            if number >= count:
                yield line
                count += 1
            number += 1
        provisional = record.provisional
    yield from _lines_of(provisional)


def _lines_of(text: bytes) -> Iterator[bytes]:
    """Give the lines of a frame one by one: all at once, 4 MiB of two characters each would take 60 MiB."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start)
        if end < 0:
            raise TranscriptError("a frame of the write-ahead file ends within a line", _FOREIGN)
        yield _checked(text[start:end])
        start = end + 1


def _inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP)
    begun = False
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _SLICE):
                data = chunk[start : start + _SLICE]
                while data:
                    begun = True
                    text = member.decompress(data, _OUTPUT)
                    yield text
                    data = member.unconsumed_tail
                    while not data and len(text) == _OUTPUT:
                        text = member.decompress(b"", _OUTPUT)
                        yield text
                    if member.eof:
                        data = member.unused_data
                        member, begun = zlib.decompressobj(_GZIP), False
    except zlib.error as error:
        raise TranscriptError("the transcript does not decompress", _FOREIGN) from error
    if begun:
        raise TranscriptError("the transcript ends within a gzip member", _FOREIGN)


def _split(texts: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for text in texts:
        *whole, rest = text.split(b"\n")  # 64 KiB at most
        for line in whole:
            held += line
            yield _checked(bytes(held))
            held.clear()
        held += rest
        if len(held) > _LONGEST_LINE:
            raise TranscriptError("a line of the transcript is too long", _FOREIGN)
    if held:
        raise TranscriptError("the transcript ends within a line", _FOREIGN)


def _checked(line: bytes) -> bytes:
    if not line:  # 256 MiB of newlines would be as many lines, each of which costs more than its byte
        raise TranscriptError("a line of the transcript is empty", _FOREIGN)
    return line


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise TranscriptError("a line of the transcript is not UTF-8", _FOREIGN) from error


def _describe(path: Path) -> Transcript:
    parts = parts_of(path)
    signed = signature_path(path).exists()
    state: State = "open" if not signed else "unclean" if parts else "complete"
    size = 0
    for file in [path, *parts]:
        with suppress(FileNotFoundError):  # it may be finished while we look
            size += file.stat().st_size
    return Transcript(uid_of(path), path, size, state, signed)
