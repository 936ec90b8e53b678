"""A hostile transcript ends in lines or in our own error, within 64 MiB, and its reading grows as its length (H4)."""

import contextlib
import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.errors import TranscriptError
from bastion.transcripts import age, list_operations, play
from bastion.transcripts.parsing import in_ascii, read_whole_header
from bastion.transcripts.recipients import parse_recipients
from bastion.transcripts.wal import WriteAhead
from tests.unit.transcripts.recorded_place import Place

MIB = 2**20
HEADER = '{"version":3,"bastion":{"tty":false,"created_at":"2026-11-28T12:00:00Z"}}'
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["version", "bastion", "tty", "created_at", "path", "size"]), inner),
    ),
    max_leaves=8,
)
HOSTILE = [
    "",
    "[",
    "[" * 5000,
    '[1e999,"o","x"]',
    '[-1,"o","x"]',
    '[NaN,"o","x"]',
    "[" + "9" * 5000 + ',"o","x"]',
    '[0,"o","\\ud800"]',
    '[0,"o","x",' + "[" * 5000,
    '[0,"f","' + "[" * 5000 + '"]',
    '[0,"f","{\\"operation\\":\\"read\\",\\"path\\":\\"\\\\ud800\\",\\"result\\":\\"ok\\"}"]',
    '[0,"f","{\\"operation\\":\\"read\\",\\"path\\":\\"/\\",\\"result\\":\\"ok\\",\\"size\\":' + "9" * 5000 + '}"]',
    '[0,"b","1o:%"]',
    '[0,"b","999999999999:AA=="]',
    '[999999999,"f","{\\"operation\\":\\"read\\",\\"path\\":\\"/\\",\\"result\\":\\"ok\\"}"]',
    '{"version":3,"bastion":5}',
    '{"version":3,"bastion":{"tty":[],"created_at":"9999-12-31T23:59:59Z"}}',
]
ROW = st.one_of(st.sampled_from([*HOSTILE, HEADER]), VALUES.map(json.dumps), st.text(max_size=30))


def read(rows: Sequence[str]) -> None:
    """Read the rows in every way; our own errors are good ends."""
    for way in (
        lambda: play(rows, io.StringIO(), 0),
        lambda: list(list_operations(rows)),
        lambda: read_whole_header(rows[0] if rows else ""),
    ):
        with contextlib.suppress(TranscriptError):
            way()


@settings(deadline=None, max_examples=150)
@given(st.lists(ROW, max_size=6), st.booleans())
def test_H4_hostile_lines_end_in_typed_errors(rows: list[str], headed: bool) -> None:  # noqa: FBT001 - hypothesis's
    """Deep, endless, negative, infinite and foreign JSON in any line is a TranscriptError and nothing else."""
    read([HEADER, *rows] if headed else rows)


@pytest.mark.parametrize("row", HOSTILE, ids=range(len(HOSTILE)))
def test_H4_each_hostile_line_by_itself(row: str) -> None:
    """Each is read as the header and as an event, and again behind a very long time."""
    read([row])
    read([HEADER, row])
    read(['{"version":3,"bastion":{"created_at":"9999-12-31T23:59:59Z"}}', '[999999999,"o",""]', HOSTILE[14], row])


READER = """
import io, sys
from pathlib import Path
from bastion.errors import TranscriptError
from bastion.transcripts import list_operations, lines, play

class Nowhere(io.StringIO):
    def write(self, text):
        return len(text)

def peak():  # in KiB; ru_maxrss would begin with that of the process which started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


folder, identity, *uids = sys.argv[1:]
ways = [
    lambda rows: play(rows, Nowhere(), 0),
    lambda rows: sum(1 for _ in list_operations(rows)),
    lambda rows: sum(1 for _ in rows),
]
before = None
for uid in uids:
    for way in ways:
        try:
            way(lines(Path(folder), uid, Path(identity)))
            end = "read"
        except TranscriptError as error:
            end = error.public
        before = before or peak()
        print(uid, (peak() - before) // 1024, end, sep=":", flush=True)
"""


def gzipped(*texts: bytes) -> bytes:
    """Return a gzip member for each text."""
    return b"".join(zlib.compress(text, 1, 31) for text in texts)


def test_H4_memory_stays_within_64_mib(place: Place) -> None:
    """256 MiB of newlines, a line of 1 GiB, bombs of objects and of tiny members, and a frame of tiny lines."""
    head = HEADER.encode() + b"\n"
    objects = b"{}," * (2 * MIB // 3 - 100)
    payloads = {
        "plain": gzipped(head + b'[0,"o","hello"]\n'),
        "newlines": gzipped(head) + gzipped(b"\n" * 16 * MIB) * 16,
        "line": gzipped(head) + gzipped(b"x" * 64 * MIB) * 16,
        "header": gzipped(b'{"version":3,"bastion":[' + objects + b"0]}\n"),
        "event": gzipped(head + b'[0,"o",[' + objects + b"0]]\n"),
        "operation": gzipped(head + b'[0,"f","[' + objects + b'0]"]\n'),
        "sparse": gzipped(head + b'[0,"o","' + "\U0001f600\\b".encode() * (2 * MIB // 7) + b'"]\n'),
        "members": gzipped(head) + gzipped(b"") * (4 * MIB // 20),
        "operations": gzipped(
            head + b'[0,"f","{\\"operation\\":\\"list\\",\\"path\\":\\"/\\",\\"result\\":\\"ok\\"}"]\n' * 20_000
        ),
        "frame": b"",
    }
    folder = place.directory / "2026/11/28"
    folder.mkdir(parents=True)
    recipients = parse_recipients([place.recipient])
    for uid, payload in payloads.items():
        (folder / f"{uid}.cast.age").write_bytes(age.encrypt(payload, recipients))
    (folder / "frame.cast.age").write_bytes(age.Encryptor(recipients).header)
    ahead = WriteAhead(folder / "frame", recipients)
    ahead.append(head)
    ahead.append(b"ab\n" * (4 * MIB // 3 - 100))
    ahead.close()
    command = [sys.executable, "-c", READER, str(place.directory), str(place.identity), *payloads]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(":", 2) for line in done.stdout.splitlines()]
    assert len(rows) == 3 * len(payloads)
    assert all(int(mebibytes) <= 64 for _, mebibytes, _ in rows), done.stdout
    ends = {uid: end for uid, _, end in reversed(rows)}  # of playing
    assert ends["newlines"] == "a line of the transcript is empty"
    assert ends["line"] == "a line of the transcript is too long"
    assert ends["operations"] == ends["members"] == ends["plain"] == "read"


def steps(rows: list[str]) -> int:
    """Return how many functions are called to play the rows."""
    count = 0

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(called)
    try:
        with contextlib.suppress(TranscriptError):
            play(rows, io.StringIO(), 0)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [HEADER, *['[0,"o","x"]'] * size],
        lambda size: [HEADER, '[0,"o","' + "\\u001b[" * size + '"]'],
        lambda size: [HEADER, '[0,"o","' + "\\u001b]x\\u001b" * size + '"]'],
        lambda size: [HEADER, '[0,"o","' + "\\\\" * size],
        lambda size: ['{"version":3,"bastion":{' + '"a":"\\"",' * size],
        lambda size: [HEADER, "[" + " " * size],
    ],
)
def test_H4_work_grows_as_the_text(make: Callable[[int], list[str]]) -> None:
    """Twice the lines, the escape sequences or the quotes are at most about twice the work."""
    assert steps(make(4000)) <= 2.2 * steps(make(2000)) + 100


def test_D10_an_export_acts_on_no_terminal() -> None:
    """C1 controls and bidirectional marks are escaped, as JSON may, in what `export` shows on a terminal."""
    row = json.dumps([0, "o", "\x9b6n\x7f\u202eä😀\x1b]0;x\x07"], ensure_ascii=False)
    assert json.loads(in_ascii(row)) == json.loads(row)
    assert in_ascii(row).isascii()
    assert in_ascii(row).isprintable()
