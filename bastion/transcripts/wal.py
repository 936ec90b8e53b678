"""The write-ahead files: what the age file does not hold yet, readable from the moment it is written.

A file is `magic | u32 length of wrap | wrap | u32 steps | u64 first sequence | u64 first line`, then frames
`u32 length | u64 sequence | ciphertext`. `wrap` is an age file that holds 32 bytes of root key; `steps` says how often
the ratchet was turned since. A length of 0xffffffff, alone, turns it once more; a length of 0 or a frame cut short is
the end.
"""

import errno
import hashlib
import hmac
import io
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bastion.errors import TranscriptError
from bastion.transcripts import age
from bastion.transcripts.wrapping import Identity, Recipient

_MAGIC: Final = b"bastion-wal/1\n"
_POSITION: Final = struct.Struct(">IQQ")
_LENGTH: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">IQ")
_STEP: Final = b"\xff\xff\xff\xff"
_ROOT: Final = 32
_ENOUGH: Final = 64 * 1024
_LARGE: Final = 8 * 2**20
_PAUSE: Final = 1.0
_MOST_STEPS: Final = 2**16  # bounds what a reader does for a hostile file
_LARGEST_FRAME: Final = 4 * 2**20
_LARGEST_WRAP: Final = 256 * 1024
_DIGITS: Final = 9


@dataclass(slots=True, eq=False)
class Part:
    """One write-ahead file; `last` is its last generation once nothing more is written to it.

    `identity` is its device and inode, `header` the size and SHA-256 (hexadecimal) of what lies before its first frame.
    """

    number: int
    path: Path
    descriptor: int
    identity: tuple[int, int]
    header: tuple[int, str]
    size: int = 0
    synced: int = 0
    hashed: int = 0
    last: int | None = None
    digest: Any = field(default_factory=hashlib.sha256)  # hashlib does not name its type


class WriteAhead:
    """Appends a session's records; one `write` each, no sync.

    Keys go one way: the root is dropped when its first step is taken, each generation's key when the next begins.
    """

    __slots__ = (
        "_aead",
        "_began",
        "_binding",
        "_following",
        "_recipients",
        "_state",
        "_stem",
        "_steps",
        "_wrap",
        "generation",
        "parts",
        "sequence",
        "wraps",
    )

    def __init__(self, stem: Path, recipients: Sequence[Recipient]) -> None:
        self._stem = stem
        self._recipients = recipients
        self.generation = 0
        self.sequence = 0
        self.parts: list[Part] = []
        self.wraps: list[str] = []  # SHA-256 of each wrap that is or will be in use: checkpoints pin them
        self._following = self._make_root()
        self._draw()
        try:
            self._begin(0)
        except OSError:
            self.close()
            raise

    @property
    def current(self) -> Part:
        """The file being written."""
        return self.parts[-1]

    def append(self, lines: bytes, provisional: bytes = b"") -> None:
        """Write whole lines, and those that hold only while nothing follows.

        Raises:
            OSError: the volume did not take all of it.
        """
        plaintext = lines + b"\0" + provisional if provisional else lines
        nonce = self.sequence.to_bytes(12, "big")
        ciphertext = self._aead.encrypt(nonce, plaintext, self._binding)
        self._write(_FRAME.pack(len(ciphertext), self.sequence) + ciphertext)
        self.sequence += 1

    def step(self, line: int) -> None:
        """End the generation: take the next key, and begin a file when the current one is large; `line` comes next.

        Raises:
            OSError: the volume did not take it.
        """
        size = self.current.size
        rotate = (
            size > _LARGE or (size > _ENOUGH and time.monotonic() - self._began >= _PAUSE) or self._steps >= _MOST_STEPS
        )
        if not rotate:
            self._write(_STEP)
        self.current.last = self.generation if rotate else None
        self.generation += 1
        if self._steps >= _MOST_STEPS:
            self._draw()
        else:
            self._turn(self._state)
            self._steps += 1
            if self._steps == _MOST_STEPS // 2:
                # Early, so that a checkpoint has its wrap before a file begins with it: otherwise a crash between the
                # two would leave a file that nothing on the ledger proves. Test: test_E2_a_fresh_wrap_is_announced.
                self._following = self._make_root()
        if rotate:
            self._begin(line)

    def close(self) -> None:
        """Close every file."""
        for part in self.parts:
            if part.descriptor >= 0:
                os.close(part.descriptor)
                part.descriptor = -1

    def _draw(self) -> None:
        root, self._wrap = self._following
        self._following = b"", b""
        self._steps = 0
        self._turn(root)

    def _make_root(self) -> tuple[bytes, bytes]:
        root = os.urandom(_ROOT)
        wrap = age.encrypt(root, self._recipients)
        self.wraps = [*self.wraps[-1:], hashlib.sha256(wrap).hexdigest()]
        return root, wrap

    def _turn(self, state: bytes) -> None:
        key, self._state = ratchet(state)
        self._aead = ChaCha20Poly1305(key)

    def _begin(self, line: int) -> None:
        number = self.parts[-1].number + 1 if self.parts else 0
        header = _MAGIC + _LENGTH.pack(len(self._wrap)) + self._wrap + _POSITION.pack(self._steps, self.sequence, line)
        self._binding = hashlib.sha256(header).digest()
        path = self._stem.with_name(f"{self._stem.name}.{number}.wal")
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        status = os.fstat(descriptor)
        self.parts.append(
            Part(number, path, descriptor, (status.st_dev, status.st_ino), (len(header), self._binding.hex()))
        )
        self._began = time.monotonic()
        self._write(header)

    def _write(self, data: bytes) -> None:
        part = self.parts[-1]
        written = os.write(part.descriptor, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.path))
        part.size += written


def ratchet(state: bytes) -> tuple[bytes, bytes]:
    """Return this generation's key and the next state: HKDF-Expand (RFC 5869 §2.3) under two names."""
    return (
        hmac.digest(state, b"bastion-wal/1 key\x01", hashlib.sha256),
        hmac.digest(state, b"bastion-wal/1 step\x01", hashlib.sha256),
    )


def part_number(path: Path) -> int | None:
    """Return n of UID.n.wal, or None when the name is not one of ours."""
    number = path.name.removesuffix(".wal").rpartition(".")[2]
    return (
        int(number)
        if path.suffix == ".wal" and number.isascii() and number.isdecimal() and len(number) <= _DIGITS
        else None
    )


@dataclass(frozen=True, slots=True)
class Record:
    """One frame, decrypted: the number of its first line, its lines, and those that hold only when it is the last."""

    line: int
    lines: bytes
    provisional: bytes


def read_wrap(file: BinaryIO) -> bytes | None:
    """Return the wrap in a write-ahead file's header, None if that is cut short; leave the file before its first frame.

    Raises:
        TranscriptError: the header is malformed.
    """
    return _read_header(file)[0]


def read_parts(paths: Sequence[Path], identities: Sequence[Identity]) -> Iterator[Record]:
    """Give the records of the write-ahead files, in order, up to where the last write was cut.

    Raises:
        TranscriptError: a file is malformed, altered, or of another key; or one is missing in between.
    """
    expected: int | None = None
    for path in paths:
        with path.open("rb") as file:
            wrap, steps, sequence, line, binding = _read_header(file)
            if wrap is None:
                return
            if expected is not None and sequence != expected:
                raise TranscriptError(
                    f"{path.name} does not follow the file before it", "a write-ahead file is missing or altered"
                )
            expected = sequence
            for record in _read_frames(file, _state(wrap, steps, identities), sequence, line, binding):
                expected += 1
                yield record


def _read_header(file: BinaryIO) -> tuple[bytes | None, int, int, int, bytes]:
    start = file.read(len(_MAGIC) + _LENGTH.size)
    if not start.startswith(_MAGIC[: len(start)]):
        raise TranscriptError("this is no write-ahead file", "it was altered")
    if len(start) < len(_MAGIC) + _LENGTH.size:
        return None, 0, 0, 0, b""
    size = _LENGTH.unpack(start[len(_MAGIC) :])[0]
    if size > _LARGEST_WRAP:
        raise TranscriptError("the write-ahead file's header is malformed", "it was altered")
    rest = file.read(size + _POSITION.size)
    if len(rest) < size + _POSITION.size:
        return None, 0, 0, 0, b""
    steps, sequence, line = _POSITION.unpack(rest[size:])
    if steps > _MOST_STEPS:
        raise TranscriptError("the write-ahead file's header is malformed", "it was altered")
    return rest[:size], steps, sequence, line, hashlib.sha256(start + rest).digest()


def _state(wrap: bytes, steps: int, identities: Sequence[Identity]) -> bytes:
    root = b"".join(age.decrypt(io.BytesIO(wrap), identities))
    if len(root) != _ROOT:
        raise TranscriptError("the write-ahead file's key is malformed", "it was altered")
    for _ in range(steps):
        root = ratchet(root)[1]
    return root


def _read_frames(file: BinaryIO, state: bytes, sequence: int, line: int, binding: bytes) -> Iterator[Record]:
    key, state = ratchet(state)
    aead = ChaCha20Poly1305(key)
    while len(start := file.read(_LENGTH.size)) == _LENGTH.size:
        length = _LENGTH.unpack(start)[0]
        if start == _STEP:
            key, state = ratchet(state)
            aead = ChaCha20Poly1305(key)
            continue
        if length == 0:
            return
        if length > _LARGEST_FRAME:
            raise TranscriptError("a frame of the write-ahead file is too large", "it was altered")
        rest = file.read(8 + length)
        if len(rest) < 8 + length:
            return
        try:
            plaintext = aead.decrypt(sequence.to_bytes(12, "big"), rest[8:], binding)
        except InvalidTag as error:
            raise TranscriptError(
                f"frame {sequence} of the write-ahead file does not authenticate", "it was altered"
            ) from error
        if int.from_bytes(rest[:8], "big") != sequence:
            raise TranscriptError(f"frame {sequence} of the write-ahead file is out of order", "it was altered")
        lines, _, provisional = plaintext.partition(b"\0")
        yield Record(line, lines, provisional)
        line += lines.count(b"\n")
        sequence += 1
