"""What is done with files comes back from a transcript as it was, and its contents byte for byte."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import TranscriptError
from bastion.model import STDOUT, Data, Exit, FileOperation, Recorded
from bastion.transcripts import play
from bastion.transcripts.asciicast import Lines
from bastion.transcripts.file_events import decode, encode, one_line
from bastion.transcripts.reading import read_lines
from bastion.transcripts.recipients import parse_identity
from tests.unit.transcripts.recorded_place import Opener, Place, record, stream
from tests.unit.transcripts.test_transcripts_vectors import VECTORS, load

TEXT = "grün ✓\n".encode()
ODD = b"/app/caf\xe9\n\x1b[2J"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


OPERATIONS = [
    FileOperation("list", b"/app"),
    FileOperation("open", "/app/grün".encode(), note="read", stream=3),
    FileOperation("read", "/app/grün".encode(), size=len(TEXT), sha256=digest(TEXT), stream=3),
    FileOperation("open", ODD, note="write, create, truncate", stream=5),
    FileOperation("write", ODD, "no space left on device", size=1200, sha256=digest(b"\0" * 1200), stream=6),
    FileOperation("rename", ODD, other=b"/app/new"),
    FileOperation("symlink", b"/app/l", other=b"\xff"),
    FileOperation("open", b"/etc/shadow", "permission denied", note="read, asked for as l"),
    FileOperation("change", b"/app/new", note="permissions 0600"),
]
EVENTS: list[Recorded] = [
    *OPERATIONS[:2],
    Data(3, TEXT[:3]),
    Data(3, TEXT[3:]),
    *OPERATIONS[2:4],
    Data(6, b"\0" * 600),
    Data(6, b"\0" * 600),
    *OPERATIONS[4:],
    Exit(0),
]
LIMIT = 1000


def operations(lines: list[str]) -> list[FileOperation]:
    return [decode(text) for _, code, text in map(json.loads, lines[1:]) if code == "f"]


def check(lines: list[str]) -> None:
    """Look whether the lines are those of the events above."""
    assert operations(lines) == OPERATIONS
    assert stream(lines, 3) == TEXT
    assert stream(lines, 6) == b"\0" * LIMIT
    others = [event[1:] for event in map(json.loads, lines[1:]) if event[1] not in "fb"]
    assert others == [["m", "stream 6 is over 1000 bytes: from here on only counted"], ["x", "0"]]


async def test_files_come_back(place: Place, opener: Opener) -> None:
    """Operations, odd names and all, and contents up to the limit are what was recorded, and no totals are added."""
    transcripts = opener(stream_limit=LIMIT)
    await transcripts.start()
    await record(transcripts, *EVENTS)
    await transcripts.close()
    check(place.read())
    assert place.stock() == place.read()


def test_files_of_the_vector_decode(tmp_path: Path) -> None:
    """The vector of a session with files gives the same operations and contents, whatever the code of today writes."""
    (vector,) = (path for path in VECTORS if path.name == "files")
    keys, body = load(vector)
    path = tmp_path / "v.cast.age"
    path.write_bytes(body)
    check([line.decode() for line in read_lines(path, [parse_identity(text) for text in keys["identity"]])])


@pytest.mark.parametrize(
    ("size", "marked"), [(0, False), (LIMIT - 1, False), (LIMIT, False), (LIMIT + 1, True), (5 * LIMIT, True)]
)
@pytest.mark.parametrize("piece", [1, 7, LIMIT, 10_000])
def test_limit_is_for_each_file(size: int, piece: int, *, marked: bool) -> None:
    """Each file is kept up to the limit, and one marker says where it goes on beyond."""
    lines = Lines("all", LIMIT, tty=False)
    written = b""
    for number in (3, 5):
        for start in range(0, size, piece):
            written += lines.event(Data(number, b"x" * min(piece, size - start)))
    rows = ["", *written.decode().splitlines()]
    for number in (3, 5):
        assert stream(rows, number) == b"x" * min(size, LIMIT)
        assert f"stream {number} is over" in written.decode() or not marked
    assert written.count(b'"m"') == (2 if marked else 0)


def test_nothing_of_a_file_may_be_kept() -> None:
    """With a limit of nothing a marker is all that is left of contents."""
    lines = Lines("all", 0, tty=False)
    assert b'"b"' not in b"".join(lines.event(Data(3, b"x")) for _ in range(3))


@pytest.mark.parametrize(
    ("keep", "tty", "uploads"),
    [("all", True, True), ("no-tty", True, True), ("no-tty", False, True), ("none", False, False)],
)
def test_contents_of_uploads_are_input(keep: str, *, tty: bool, uploads: bool) -> None:
    """What is read of files is output and always kept; what is written is kept unless no input is."""
    lines = Lines(keep, LIMIT, tty=tty)  # type: ignore[arg-type] # one of the three
    assert lines.event(Data(3, b"out"))
    assert bool(lines.event(Data(4, b"in")) + lines.event(Data(6, b"in"))) is uploads


def test_many_files_take_no_memory() -> None:
    """What is known of a file is let go when it is closed, however many there are in one session."""
    lines = Lines("all", LIMIT, tty=False)

    def one(number: int) -> None:
        lines.event(FileOperation("open", b"/x", stream=number))
        lines.event(Data(number, b"out"))
        lines.event(Data(number + 1, b"in"))
        for operation, of in (("read", number), ("write", number + 1)):
            lines.event(FileOperation(operation, b"/x", size=3, sha256="0", stream=of))

    for number in range(3, 2_003, 2):
        one(number)
    assert not lines._files  # noqa: SLF001 - nothing else shows it
    assert b"stream" not in lines.totals()


PATHS = st.binary(max_size=30)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ANY = st.builds(
    FileOperation,
    WORDS,
    PATHS,
    WORDS,
    st.none() | PATHS,
    st.none() | st.integers(0, 2**63),
    st.none() | WORDS,
    st.none() | st.integers(3, 2**31),
    WORDS,
)


@given(ANY)
def test_operation_comes_back(operation: FileOperation) -> None:
    """Whatever the names and words are, an operation's text gives it back, and its line prints."""
    assert decode(encode(operation)) == operation
    assert one_line(operation).isprintable()


@given(st.one_of(st.text(max_size=40), st.dictionaries(st.sampled_from(
    ["operation", "path", "path_base64", "result", "other", "other_base64", "size", "sha256", "stream", "note"]
), st.one_of(st.none(), st.text(max_size=5), st.integers(), st.booleans())).map(json.dumps)))  # fmt: skip
def test_what_is_no_operation_is_an_error(text: str) -> None:
    """Text of another form ends in our own error."""
    with contextlib.suppress(TranscriptError):
        assert decode(encode(decode(text))) == decode(text)


async def test_playing_shows_what_was_done(place: Place, opener: Opener) -> None:
    """Our own player shows operations as lines among the output, and nothing of what files hold."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Data(STDOUT, b"hello\n"), OPERATIONS[5], Data(3, b"contents"), Exit(0))
    await transcripts.close()
    out = io.StringIO()
    play(place.read(), out, 0)
    assert out.getvalue() == "hello\nrename /app/caf\\xe9\\n\\x1b[2J -> /app/new: ok\n"
