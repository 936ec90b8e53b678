"""SFTP and scp as a client might send them: each ends in words, and nothing stays open or running."""

import asyncio
import struct
from typing import Final

from bastion.files import sftp_wire as wire
from bastion.files.sftp_wire import Kind
from tests.fuzz.mutation import Mutator
from tests.unit.memory_files import MemoryFiles
from tests.unit.scp.client import converse as converse_scp
from tests.unit.sftp.talker import HELLO
from tests.unit.sftp.test_sftp_fuzz import EXTENSIONS
from tests.unit.sftp.test_sftp_fuzz import converse as converse_sftp

PATHS: Final = (b"/app/a", b"/app/b", b"/app", b"/", b".", b"", b"link", b"ring", b"/app/../tmp/x", b"z" * 5000)
ONE_PATH: Final = (
    Kind.OPENDIR, Kind.LSTAT, Kind.STAT, Kind.REMOVE, Kind.RMDIR, Kind.REALPATH, Kind.READLINK, Kind.MKDIR,
    Kind.SETSTAT,
)  # fmt: skip
SCP_LINES: Final = (
    b"C0644 3 f\nabc\0", b"D0755 0 d\n", b"E\n", b"T1700000000 0 1700000000 0\n", b"C0644 0 empty\n\0", b"\0",
    b"\1no\n",
    b"C0600 70000 big\n" + bytes(70000) + b"\0",
)  # fmt: skip
SCP_COMMANDS: Final = ("scp -t d", "scp -rpt d", "scp -rdt d", "scp -f d", "scp -rpf d")


def generate_sftp(mutator: Mutator) -> bytes:
    """Return a conversation: two bytes that say how it is cut and whether it says its end, then the stream."""
    random = mutator.random
    packets = [HELLO, *(wire.packet(*_request(mutator, number)) for number in range(random.randint(1, 12)))]
    stream = b"".join(mutator.shuffled(packets) if random.random() < 0.2 else packets)
    return bytes([random.randrange(256), random.randrange(2)]) + mutator.sometimes(stream, 0.6)


def _request(mutator: Mutator, number: int) -> tuple[int, bytes, bytes]:
    random = mutator.random
    path = mutator.sometimes(random.choice(PATHS), 0.2)
    handle = wire.string(random.randint(0, 4).to_bytes(8, "big"))
    offset = struct.pack(">Q", random.choice((0, 1, 65536, 2**31, 2**63, 2**64 - 1)))
    bodies = (
        (Kind.OPEN, wire.string(path) + wire.number(random.randint(0, 63)) + wire.number(0)),
        (Kind.CLOSE, handle),
        (Kind.READ, handle + offset + wire.number(random.choice((0, 1, 32768, 2**32 - 1)))),
        (Kind.WRITE, handle + offset + wire.string(random.randbytes(random.randint(0, 300)))),
        (Kind.READDIR, handle),
        (Kind.FSTAT, handle),
        (Kind.RENAME, wire.string(path) + wire.string(random.choice(PATHS))),
        (Kind.SYMLINK, wire.string(path) + wire.string(random.choice(PATHS))),
        (Kind.EXTENDED, wire.string(random.choice(EXTENSIONS)) + wire.string(path) + wire.string(path)),
        *((kind, wire.string(path) + wire.number(0)) for kind in ONE_PATH),
        (random.randrange(256), random.randbytes(random.randint(0, 60))),
    )
    kind, body = random.choice(bodies)
    return kind, wire.number(number), mutator.sometimes(body, 0.2)


async def check_sftp(data: bytes) -> None:
    """Every conversation is answered or is no SFTP, with no file, listing or task left (`converse` asserts it)."""
    conversation = converse_sftp(data[2:], 1 + data[0] * 17, says_end=bool(data[1]))
    await asyncio.to_thread(asyncio.run, conversation)  # in a loop of its own: it counts the loop's tasks


def generate_scp(mutator: Mutator) -> bytes:
    """Return a conversation: one byte for the command, then what the client says."""
    random = mutator.random
    said = b"".join(random.choice(SCP_LINES) for _ in range(random.randint(0, 8)))
    return bytes([random.randrange(len(SCP_COMMANDS))]) + mutator.sometimes(said, 0.8)


async def check_scp(data: bytes) -> None:
    """It ends with 0 or 1, no file is open, and nothing lies outside the target."""
    files = MemoryFiles(b"/home/app", room=1 << 20)
    files.put(b"/home/outside/kept", b"kept")
    files.put(b"/home/app/d/f", b"content")
    status, _ = await converse_scp(files, SCP_COMMANDS[data[0] % len(SCP_COMMANDS)], data[1:], piece=4096)
    assert status in {0, 1}, status
    assert files.opened == files.listing == 0
    assert set(files.folder(b"/home").children) == {b"app", b"outside"}
    assert set(files.folder(b"/home/app").children) == {b"d"}
    assert files.content(b"/home/outside/kept") == b"kept"
