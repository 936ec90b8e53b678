"""The format's vectors, and hostile files: every reader ends with the lines or with our own error."""

import base64
import contextlib
import hashlib
import io
import re
import tempfile
import zlib
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.errors import TranscriptError
from bastion.model import STDERR, STDOUT
from bastion.transcripts import age, bech32, generate_identity, play
from bastion.transcripts.reading import read_lines
from bastion.transcripts.recipients import parse_identity, parse_recipients
from bastion.transcripts.wrapping import hybrid_key
from tests.unit.transcripts.recorded_place import stream

VECTORS = sorted((Path(__file__).parents[3] / "docs" / "transcripts-vectors").iterdir())
FAILURES = {
    "no match": "cannot open",
    "header failure": "age header|no age v1|in its header|before its payload",
    "payload failure": "chunk .* does not authenticate|empty chunk",
    "truncated": "before its last chunk|in neither file",
    "compression failure": "decompress|gzip member",
    "write-ahead failure": "write-ahead|does not follow",
    "line failure": "a line|within a line",
}


def load(path: Path) -> tuple[dict[str, list[str]], bytes]:
    """Take a vector apart: its header's keys, and the body."""
    header, _, body = path.read_bytes().partition(b"\n\n")
    keys: dict[str, list[str]] = {}
    for line in header.decode().splitlines():
        key, _, value = line.partition(": ")
        keys.setdefault(key, []).append(value)
    return keys, body


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.name)
def test_vector(vector: Path, tmp_path: Path) -> None:
    """The vector ends as its header says, with the lines that it says."""
    keys, body = load(vector)
    path = tmp_path / "v.cast.age"
    path.write_bytes(body)
    for number, part in enumerate(keys.get("wal", [])):
        (tmp_path / f"v.{number}.wal").write_bytes(base64.b64decode(part))
    identities = [parse_identity(text) for text in keys["identity"]]
    (expected,) = keys["expect"]
    read: list[bytes] = []
    if expected == "success":
        read.extend(read_lines(path, identities))
    else:
        with pytest.raises(TranscriptError, match=FAILURES[expected]):
            read.extend(read_lines(path, identities))
    assert [hashlib.sha256(b"".join(line + b"\n" for line in read)).hexdigest()] == keys["lines"]
    rows = [line.decode() for line in read]
    for number, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        if name in keys:
            assert hashlib.sha256(stream(rows, number)).hexdigest() == keys[name][0]
    if "played" in keys:
        play(rows, out := io.StringIO(), 0)
        assert hashlib.sha256(out.getvalue().encode()).hexdigest() == keys["played"][0]
    if expected == "success" and "wal" not in keys and not keys["identity"][0].startswith("AGE-SECRET-KEY-PQ"):
        opened = pyrage.decrypt(body, [pyrage.x25519.Identity.from_str(keys["identity"][0])])
        assert zlib.decompress(opened, 31).splitlines() == read[: len(zlib.decompress(opened, 31).splitlines())]


@settings(deadline=None)
@given(st.data())
def test_a_mutated_file_gives_a_prefix_or_our_own_error(data: st.DataObject) -> None:
    """Any change to any vector ends in lines or a TranscriptError, never in anything else."""
    keys, body = load(data.draw(st.sampled_from(VECTORS)))
    files = [bytearray(body), *(bytearray(base64.b64decode(part)) for part in keys.get("wal", []))]
    changed = data.draw(st.sampled_from(files))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(changed)))
        changed[position : position + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.cast.age"
        path.write_bytes(files[0])
        for number, part in enumerate(files[1:]):
            (Path(folder) / f"v.{number}.wal").write_bytes(part)
        with contextlib.suppress(TranscriptError):
            for line in read_lines(path, [parse_identity(text) for text in keys["identity"]]):
                assert b"\n" not in line


@pytest.mark.parametrize("size", [0, 1, age.CHUNK - 1, age.CHUNK, age.CHUNK + 1, 3 * age.CHUNK])
def test_pyrage_and_we_read_each_other(size: int) -> None:
    """What we encrypt pyrage opens, and the other way round, at every edge of the chunks."""
    secret, recipient = generate_identity()
    plaintext = bytes(size)
    ours = age.encrypt(plaintext, parse_recipients([recipient]))
    assert pyrage.decrypt(ours, [pyrage.x25519.Identity.from_str(secret)]) == plaintext
    theirs = pyrage.encrypt(plaintext, [pyrage.x25519.Recipient.from_str(recipient)])
    assert b"".join(age.decrypt(io.BytesIO(theirs), [parse_identity(secret)])) == plaintext


def test_the_specifications_post_quantum_key_is_ours() -> None:
    """The identity in the age specification gives the recipient printed beside it, by its first and last characters."""
    _, seed = bech32.decode("AGE-SECRET-KEY-PQ-1XX76JRALNLXDMEW0CRK45QMCCH4X06SE84UN3VPM33W6HWDX0H3SK3ZQFR")
    recipient = bech32.encode("age1pq", hybrid_key(seed)[1])
    assert recipient.startswith(
        "age1pq1x34nzsvr0rxjsgdn8zgyhfe8j7ceq5r9rdelkjuh3y235jzxshfg87pzf5zrqtzdxz95paef6caq5aapdmwjjqpjfdyxnz"
    )
    assert recipient.endswith("k3tlhl53k2ykx3qheyty7saeq0d3fzv49zc0k")


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["age", "age1pq", "age-secret-key-"]))
def test_bech32_comes_back(payload: bytes, prefix: str) -> None:
    """What is encoded decodes, in either case, and not when one character is changed."""
    text = bech32.encode(prefix, payload)
    assert bech32.decode(text) == bech32.decode(text.upper()) == (prefix, payload)
    changed = text[:-1] + ("q" if text[-1] != "q" else "p")
    with pytest.raises(ValueError, match="checksum"):
        bech32.decode(changed)


def test_memory_is_bounded_by_what_a_file_claims() -> None:
    """A line that never ends is refused at 4 MiB, however well it compresses."""
    secret, recipient = generate_identity()
    bomb = zlib.compress(b"x" * 64 * 2**20, 9, 31)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.cast.age"
        path.write_bytes(age.encrypt(bomb, parse_recipients([recipient])))
        with pytest.raises(TranscriptError, match=re.escape("too long")):
            list(read_lines(path, [parse_identity(secret)]))
