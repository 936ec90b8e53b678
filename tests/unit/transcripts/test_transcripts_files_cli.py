"""`bastion transcripts files`: the table of what was done with files, of any transcript that can be read."""

import json
import subprocess
import sys
from datetime import datetime

from bastion.transcripts import Transcripts
from bastion.transcripts.file_events import encode
from tests.unit.transcripts.recorded_place import TARGET, Opener, Place, fail_loudly, record, request, session
from tests.unit.transcripts.test_transcripts_files import EVENTS, OPERATIONS


def run(place: Place, *words: str) -> "subprocess.CompletedProcess[str]":
    config = place.root / "bastion.toml"
    config.write_text(f'[audit]\ndirectory = "{place.directory}"\n')
    command = [sys.executable, "-m", "bastion", "transcripts", "files", "s1", "--config", str(config), *words]
    return subprocess.run(
        [*command, "--identity", place.identity], capture_output=True, text=True, check=False, timeout=60
    )


async def crash(transcripts: Transcripts) -> None:
    """Leave what a crash would leave of a session."""
    await transcripts.start()
    context = transcripts.open(session(), request(), TARGET, on_failure=fail_loudly)
    recorder = await context.__aenter__()
    for event in EVENTS[:-1]:
        await recorder.record(event)
    await transcripts.close()


async def test_table_of_files(place: Place, opener: Opener) -> None:
    """Every operation is a row with its time, bytes, hash and result, and nothing in a name reaches the terminal."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, *EVENTS)
    await transcripts.close()
    done = run(place)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["TIME", "OPERATION", "PATH", "BYTES", "SHA256", "RESULT"]
    assert len(rows) == len(OPERATIONS)
    assert all(row.isprintable() for row in rows)
    assert "read       /app/grün" in rows[2]
    assert f" {OPERATIONS[2].size} " in rows[2]
    assert f" {OPERATIONS[2].sha256}  ok" in rows[2]
    assert r"/app/caf\xe9\n\x1b[2J -> /app/new" in rows[5]
    assert rows[7].endswith("permission denied (read, asked for as l)")
    assert abs((datetime.fromisoformat(rows[0][:25]) - datetime.now().astimezone()).total_seconds()) < 600


async def test_files_as_json(place: Place, opener: Opener) -> None:
    """As JSON each operation has the members that the transcript gives it, and its time."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, *EVENTS)
    await transcripts.close()
    said = json.loads(run(place, "--json").stdout)
    assert said["uid"] == "s1"
    times = [datetime.fromisoformat(one.pop("time")) for one in said["files"]]
    assert times == sorted(times)
    assert said["files"] == [json.loads(encode(operation)) for operation in OPERATIONS]


async def test_files_of_a_crashed_session(place: Place, opener: Opener) -> None:
    """A transcript that was never finished has its table too; one that was cut has what is left, and an error."""
    await crash(opener())
    assert len(run(place).stdout.splitlines()) == 1 + len(OPERATIONS)
    (part,) = place.path().parent.glob("*.wal")
    part.write_bytes(part.read_bytes()[:-1])
    assert 1 < len(run(place).stdout.splitlines()) <= len(OPERATIONS)
    part.unlink()
    done = run(place)
    assert done.returncode == 1
    assert done.stderr.startswith("bastion: error: ")
