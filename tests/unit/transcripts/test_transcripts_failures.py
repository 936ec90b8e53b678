"""What a crash, a full volume, a failing sync or a lost key leave: everything that was accepted, and an honest end."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bastion.errors import BastionError, RecordingFailed, TranscriptError
from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import Transcripts, list_transcripts, verify
from tests.unit.transcripts.recorded_place import (
    TARGET,
    Opener,
    Place,
    descriptor_of,
    fail_loudly,
    make_place,
    record,
    request,
    session,
    stream,
)

CHILD = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.transcripts.recorded_place import TARGET, Place, request, session, fail_loudly
from bastion.transcripts import Transcripts
from bastion.model import Data

async def main():
    root = Path(sys.argv[2])
    transcripts = Transcripts(root / "transcripts", [sys.argv[3]], root / "signing", node="n1")
    await transcripts.start()
    async with transcripts.open(session(), request(), TARGET, on_failure=fail_loudly) as recorder:
        for number in range(10**9):
            payload = b"%09d" % number + os.urandom(int(sys.argv[4])).hex().encode()
            await recorder.record(Data(1, payload))
            os.write(1, payload)
            await asyncio.sleep(0)

asyncio.run(main())
"""


def watch_and_kill(command: list[str], wanted: int) -> bytes:
    """Run the child, kill it without warning when it has delivered enough, and return all that it delivered."""
    seen = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=2**20) as child:
        assert child.stdout is not None
        while len(seen) < wanted:
            seen += os.read(child.stdout.fileno(), 2**20)
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.read()
    return bytes(seen)


@pytest.mark.parametrize(("size", "wanted"), [(20, 30_000), (16_000, 20_000_000), (16_000, 60_000_000)])
async def test_a_killed_server_loses_nothing_that_was_seen(
    place: Place, opener: Opener, size: int, wanted: int
) -> None:
    """What a process had delivered when it was killed under load is exported; the next start seals it as unclean."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[3]), str(place.root), place.recipient, str(size)]
    seen = watch_and_kill(command, wanted)
    assert stream(place.read(), STDOUT).startswith(seen)
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["unclean"]
    transcripts = opener()
    await transcripts.start()
    await transcripts.close()
    again = opener()
    await again.start()
    await again.close()
    assert [(found.verdict, found.words[:7]) for found in verify(place.directory, place.public_key)] == [
        ("unclean", "sealed:")
    ]
    assert [found.state for found in list_transcripts(place.directory)] == ["unclean"]
    assert stream(place.read(), STDOUT).startswith(seen)


async def crash(place: Place, opener: Opener) -> list[str]:
    """Leave what a crash would leave of a small session; return its lines."""
    transcripts = opener()
    await transcripts.start()
    context = transcripts.open(session(), request(), TARGET, on_failure=fail_loudly)
    recorder = await context.__aenter__()
    for number in range(12):
        await recorder.record(Data(STDOUT, b"line %d \xc3" % number))
    await asyncio.sleep(0.8)
    await transcripts.close()
    lines: list[str] = place.read()
    return lines


def without_twins(lines: list[str]) -> list[str]:
    """Leave out each `b` event and its twin: the last ones may be provisional."""
    return [line for before, line in itertools.pairwise(["", *lines]) if '"b"' not in before and '"b"' not in line]


async def test_a_file_cut_anywhere_reads_as_a_prefix(place: Place, opener: Opener) -> None:
    """Whatever the offset a crashed session's files are cut at, what is read is a prefix of what was recorded."""
    whole = without_twins(await crash(place, opener))
    assert len(whole) == 13
    (part,) = place.path().parent.glob("*.wal")
    for file in (part, place.path()):
        content = file.read_bytes()
        for size in range(len(content)):
            file.write_bytes(content[:size])
            read = []
            with contextlib.suppress(TranscriptError):
                read = without_twins(place.read())
            assert read == whole[: len(read)]
            assert file == part or read == whole
        file.write_bytes(content)


async def test_an_unfinished_character_survives_a_crash(place: Place, opener: Opener) -> None:
    """The first byte of a character that was delivered alone is in what is read after a crash."""
    lines = await crash(place, opener)
    assert [json.loads(line)[1:] for line in lines[-2:]] == [["b", "1o:ww=="], ["o", "\ufffd"]]


async def test_a_crashed_session_that_was_cut_is_told_from_a_crash(place: Place, opener: Opener) -> None:
    """Files shorter than the last checkpoint are truncated, changed ones altered; untouched, it is only unclean."""
    await crash(place, opener)
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["unclean"]
    (part,) = place.path().parent.glob("*.wal")
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["truncated"]
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["altered"]
    part.unlink()
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["truncated"]
    with pytest.raises(TranscriptError, match="last chunk"):
        place.read()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """Mount 3 MiB of tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small volume")
    folder = tmp_path / "volume"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_volume_stops_the_session_and_keeps_what_was_accepted(small_volume: Path) -> None:
    """On a full volume recording raises, what it accepted is readable, new sessions are refused, space heals it."""
    place = make_place(small_volume)
    ballast = small_volume / "ballast"
    ballast.write_bytes(bytes(2**20))
    transcripts = Transcripts(place.directory, place.recipients(), place.signing_key, node="n1")
    await transcripts.start()
    accepted = bytearray()
    failures: list[BastionError] = []
    with pytest.raises(RecordingFailed) as caught:  # noqa: PT012 - leaving the context is what raises
        async with transcripts.open(session(), request(), TARGET, on_failure=failures.append) as recorder:
            while True:
                payload = os.urandom(1500).hex().encode()
                await recorder.record(Data(STDOUT, payload))
                accepted += payload
    assert caught.value.exit_status == 254
    assert len(failures) <= 1
    assert stream(place.read(), STDOUT).startswith(bytes(accepted))
    filler = small_volume / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(RecordingFailed):
        await record(transcripts, Exit(0), uid="refused")
    ballast.unlink()
    filler.unlink()
    await record(transcripts, Data(STDOUT, b"again"), Exit(0), uid="s2")
    await transcripts.close()
    again = Transcripts(place.directory, place.recipients(), place.signing_key, node="n1")
    await again.start()
    await again.close()
    verdicts = {found.uid: found.verdict for found in verify(place.directory, place.public_key)}
    assert verdicts == {"s1": "unclean", "s2": "good"}
    assert stream(place.read(), STDOUT).startswith(bytes(accepted))


async def test_the_first_failed_sync_is_final(place: Place, opener: Opener) -> None:
    """When fdatasync fails every session is told within a second, and new ones are refused for good."""
    transcripts = opener()
    await transcripts.start()
    told: asyncio.Queue[BastionError] = asyncio.Queue()
    with pytest.raises(RecordingFailed):  # noqa: PT012 - leaving the context is what raises
        async with (
            transcripts.open(session("a"), request("a"), TARGET, on_failure=told.put_nowait) as first,
            transcripts.open(session("b"), request("b"), TARGET, on_failure=told.put_nowait),
        ):
            descriptor = descriptor_of("a.0.wal")
            reading, writing = os.pipe()
            os.dup2(writing, descriptor)
            await first.record(Data(STDOUT, b"into the pipe"))
            async with asyncio.timeout(1.5):
                assert {(await told.get()).exit_status, (await told.get()).exit_status} == {254}
            os.close(reading)
            os.close(writing)
            await first.record(Data(STDOUT, b"more"))
    assert told.empty()
    with pytest.raises(RecordingFailed, match="not trusted"):
        await record(transcripts, Exit(0), uid="c")
    await transcripts.close()


async def test_a_lost_signing_key_stops_the_sessions(place: Place, opener: Opener) -> None:
    """When the signing key's file goes away sessions are told and new ones refused, until it is back."""
    transcripts = opener()
    await transcripts.start()
    told: asyncio.Queue[BastionError] = asyncio.Queue()
    hidden = place.signing_key.with_name("hidden")
    with contextlib.suppress(RecordingFailed):
        async with transcripts.open(session(), request(), TARGET, on_failure=told.put_nowait):
            place.signing_key.rename(hidden)
            async with asyncio.timeout(1.5):
                assert (await told.get()).exit_status == 254
    with pytest.raises(RecordingFailed, match="no signing key"):
        await record(transcripts, Exit(0), uid="s2")
    hidden.rename(place.signing_key)
    await record(transcripts, Exit(0), uid="s3")
    await transcripts.close()


async def test_write_ahead_files_go_when_they_are_not_needed(place: Place, opener: Opener) -> None:
    """What compresses well does not pile up write-ahead files: they are forgotten while the session runs."""
    transcripts = opener(stream_limit=2**30)
    await transcripts.start()
    async with transcripts.open(session(), request(), TARGET, on_failure=fail_loudly) as recorder:
        for _ in range(4):
            for _ in range(200):
                await recorder.record(Data(STDOUT, b"0" * 32768))
            await asyncio.sleep(1.2)
        held = [int(path.name.split(".")[1]) for path in recorder.path.parent.glob("*.wal")]
        assert 0 not in held
    await transcripts.close()
    assert stream(place.read(), STDOUT) == b"0" * 32768 * 800
    assert place.stock() == place.read()


async def test_a_session_cancelled_while_it_opens_is_sealed(place: Place, opener: Opener) -> None:
    """A client that goes away while its transcript opens leaves no open file and an unclean transcript."""
    transcripts = opener()
    await transcripts.start()
    opening = asyncio.create_task(record(transcripts, Exit(0)))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(5):
        while [found.state for found in list_transcripts(place.directory)] != ["unclean"]:
            await asyncio.sleep(0.05)
    await transcripts.close()
    assert [found.verdict for found in verify(place.directory, place.public_key)] == ["unclean"]
    with pytest.raises(LookupError):
        descriptor_of("s1.cast.age")
