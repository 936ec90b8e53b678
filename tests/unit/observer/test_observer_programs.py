"""What is put on record when the stock sftp works with OpenSSH's own server: every file by its digest, every change."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as some

from bastion.model import Data, Exit, FileOperation
from tests.unit.observer.conversation import House, house, observed, operations, streams

CONTENT = os.urandom(1_300_007)


@pytest.fixture
async def there() -> AsyncIterator[House]:
    async with house() as made:
        yield made


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_contents_are_on_record_with_their_digest(there: House, tmp_path: Path) -> None:
    """A file put and got again is on record byte for byte on a stream of its own, and with its SHA-256."""
    (tmp_path / "mine").write_bytes(CONTENT)
    (tmp_path / "empty").touch()
    assert await there.sftp("put mine theirs", "get theirs back", "put empty none", cwd=tmp_path) == (0, "")
    assert (tmp_path / "back").read_bytes() == CONTENT
    theirs, none = os.fsencode(tmp_path / "theirs"), os.fsencode(tmp_path / "none")
    assert [each for each in operations(there.recorded) if each.operation in {"open", "read", "write"}] == [
        FileOperation("open", theirs, stream=3, note="write, create, truncate"),
        FileOperation("write", theirs, size=len(CONTENT), sha256=_digest(CONTENT), stream=4),
        FileOperation("open", theirs, stream=5, note="read"),
        FileOperation("read", theirs, size=len(CONTENT), sha256=_digest(CONTENT), stream=5),
        FileOperation("open", none, stream=7, note="write, create, truncate"),
        FileOperation("write", none, size=0, sha256=_digest(b""), stream=8),
    ]
    assert streams(there.recorded) == {4: CONTENT, 5: CONTENT}
    assert there.recorded[-1] == Exit(0)


async def test_every_change_is_on_record(there: House, tmp_path: Path) -> None:
    """Mkdir, rename, chmod, symlink, ln, rm, rmdir and ls are on record with their paths, and how they ended."""
    (tmp_path / "a").write_bytes(b"x")
    said = await there.sftp(
        "mkdir d", "rename a d/a", "chmod 640 d/a", "symlink d/a link", "ln d/a twin", "ls d", "-rm missing",
        "-rmdir d", "rm d/a", "rmdir d",
        cwd=tmp_path,
    )  # fmt: skip
    assert said[0] == 0
    here = os.fsencode(tmp_path) + b"/"
    noted = [each for each in operations(there.recorded) if each.operation not in {"read", "write"}]
    assert noted == [
        FileOperation("make-directory", here + b"d"),
        FileOperation("rename", here + b"a", other=here + b"d/a"),
        FileOperation("change", here + b"d/a", note="permissions 0640"),
        FileOperation("symlink", here + b"link", other=b"d/a"),
        FileOperation("link", here + b"d/a", other=here + b"twin"),
        FileOperation("list", here + b"d/"),
        FileOperation("remove", here + b"missing", "no such file"),
        FileOperation("remove-directory", here + b"d", "failure"),
        FileOperation("remove", here + b"d/a"),
        FileOperation("remove-directory", here + b"d"),
    ]
    assert not [each for each in there.recorded if isinstance(each, Data)]


async def test_what_begins_in_the_middle_says_so(there: House, tmp_path: Path) -> None:
    """What reget fetches is noted as from its first byte on, with the digest of what passed."""
    (tmp_path / "whole").write_bytes(CONTENT)
    (tmp_path / "part").write_bytes(CONTENT[:500_000])
    assert await there.sftp("reget whole part", cwd=tmp_path) == (0, "")
    read = operations(there.recorded)[-1]
    assert (read.operation, read.size, read.note) == ("read", len(CONTENT) - 500_000, "from byte 500000 on")
    assert read.sha256 == _digest(CONTENT[500_000:])


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bool, bytes]]:
    async def converse() -> list[tuple[bool, bytes]]:
        folder = tmp_path_factory.mktemp("cut")
        (folder / "mine").write_bytes(CONTENT[:6_000])
        async with house() as there:
            await there.sftp("put -p mine theirs", "get -p theirs back", "ls -l", "-rm none", "rm theirs", cwd=folder)
            assert operations(there.recorded) == operations(observed(there.passed))
            return there.passed

    return asyncio.run(converse())


@given(some.data())
def test_any_cut_of_a_conversation_gives_the_same_record(
    conversation: list[tuple[bool, bytes]], data: some.DataObject
) -> None:
    """However the bytes of a conversation are cut up, the same operations and the same streams come out of it."""
    expected = observed(conversation)
    assert streams(expected) == {4: CONTENT[:6_000], 5: CONTENT[:6_000]}
    most = data.draw(some.sampled_from([1, 2, 3, 7, 13, 100, 1000, 5_000]))
    first = data.draw(some.integers(1, most))
    cut = [
        (is_clients, payload[max(0, start) : start + most])
        for is_clients, payload in conversation
        for start in range(first - most, len(payload), most)
    ]
    assert streams(observed(cut)) == streams(expected)
    assert operations(observed(cut)) == operations(expected)


async def test_a_client_that_asks_for_all_at_once_is_served(there: House, tmp_path: Path) -> None:
    """Paramiko, which asks for a whole file before it reads any of it, gets it, and it is on record in its order."""
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 48 * 2**20)

    def fetch() -> None:
        with closing(paramiko.Transport(("127.0.0.1", there.port))) as transport:
            transport.start_client(timeout=10)
            transport.auth_none("x")
            channel = transport.open_session()
            channel.exec_command("/sftp-server")
            paramiko.SFTPClient(channel).get(str(tmp_path / "sparse"), str(tmp_path / "back"))

    await asyncio.to_thread(fetch)
    assert (tmp_path / "back").stat().st_size == 48 * 2**20
    read = operations(there.recorded)[-1]
    zeros = hashlib.sha256(bytes(48 * 2**20)).hexdigest()
    assert (read.operation, read.result, read.sha256, read.note) == ("read", "ok", zeros, "")
