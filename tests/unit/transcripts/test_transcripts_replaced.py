"""Files that are removed, replaced or cut while they are written, and folders that others may write in (threat E8)."""

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bastion.errors import BastionError, ConfigurationError, RecordingFailed
from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import Ledger, Signer, Transcripts, list_transcripts, verify
from bastion.transcripts.ledger import FILE, MAX_LINE_BYTES
from bastion.transcripts.verifying import MAX_BROKEN_LINES
from tests.unit.transcripts.forging import crash, reasons, restart, verdicts
from tests.unit.transcripts.recorded_place import (
    TARGET,
    Opener,
    Place,
    fail_loudly,
    record,
    request,
    session,
    until,
)


def replace(path: Path) -> None:
    """Put a copy in the place of a file."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def cut(path: Path) -> None:
    """Take the last byte off."""
    os.truncate(path, path.stat().st_size - 1)


def move_aside(path: Path) -> None:
    """Leave the file where it is, and take its folder away from where it was."""
    path.parent.rename(path.parent.with_name("aside"))


TAMPERINGS = [Path.unlink, replace, cut]


@pytest.mark.parametrize("name", ["a.cast.age", "a.0.wal"])
@pytest.mark.parametrize("tamper", [*TAMPERINGS, move_aside])
async def test_E8_a_session_whose_file_is_tampered_with_ends(
    place: Place, opener: Opener, name: str, tamper: Callable[[Path], object]
) -> None:
    """It ends with 254, it alone, and what lies there is not signed unless it is all that was written."""
    transcripts = opener()
    await transcripts.start()
    await tampered_session(transcripts, place, name, tamper)
    await record(transcripts, Data(STDOUT, b"goes on"), Exit(0), uid="c")
    await transcripts.close()
    assert not list(place.directory.rglob("a.sig")) or tamper is replace
    assert {"c": "good"}.items() <= verdicts(place).items()


async def tampered_session(transcripts: Transcripts, place: Place, name: str, tamper: Callable[[Path], object]) -> None:
    """Open a session, tamper with its file, and wait until it is told; another one is not."""
    failures: asyncio.Queue[BastionError] = asyncio.Queue()
    with suppress(RecordingFailed):
        async with transcripts.open(session("a"), request("a"), TARGET, on_failure=failures.put_nowait) as recorder:
            await recorder.record(Data(STDOUT, b"seen"))
            await until(lambda: recorder.listed)
            if tamper is not move_aside:  # that takes everybody's files away
                async with transcripts.open(session("b"), request("b"), TARGET, on_failure=fail_loudly):
                    tamper(place.path("a").with_name(name))
                    assert (await failures.get()).exit_status == 254
            else:
                tamper(place.path("a").with_name(name))
                assert (await failures.get()).exit_status == 254


@pytest.mark.parametrize("tamper", TAMPERINGS)
async def test_E8_a_ledger_that_is_tampered_with_ends_every_session(
    place: Place, opener: Opener, tamper: Callable[[Path], object]
) -> None:
    """Sessions end with 254, also idle ones; new ones are refused until a restart, and `check` says why."""
    transcripts = opener()
    await transcripts.start()
    failures: asyncio.Queue[BastionError] = asyncio.Queue()
    with suppress(RecordingFailed):
        async with transcripts.open(session("a"), request("a"), TARGET, on_failure=failures.put_nowait) as recorder:
            await until(lambda: recorder.listed)
            transcripts.check()
            tamper(place.directory / FILE)
            failure = await failures.get()
    assert failure.exit_status == 254
    assert "the ledger was" in failure.public
    with pytest.raises(RecordingFailed, match="the ledger was"):
        await record(transcripts, Exit(0), uid="b")
    with pytest.raises(RecordingFailed, match="the ledger was"):
        transcripts.check()
    await transcripts.close()
    again = opener()
    await again.start()
    await record(again, Exit(0), uid="c")
    await again.close()
    assert verdicts(place)["c"] == "good"


async def test_E8_a_ledger_that_is_edited_in_place_takes_no_more_lines(place: Place) -> None:
    """A last line of the same length that is not what was written is noticed by the next append."""
    ledger = Ledger(place.root / FILE, Signer(place.signing_key), "n1")
    ledger.write("a", {"user": "alice"})
    content = (place.root / FILE).read_bytes()
    (place.root / FILE).write_bytes(content.replace(b"alice", b"carol"))
    for _ in range(2):
        with pytest.raises(RecordingFailed, match="was edited"):
            ledger.write("b", {})
    ledger.close()


def permit(path: Path) -> None:
    """Let the group write."""
    path.chmod(path.stat().st_mode | 0o020)


@pytest.mark.parametrize("level", range(5))
async def test_E2_a_folder_that_others_may_write_in_is_no_start(place: Place, opener: Opener, level: int) -> None:
    """The folder, one of year, month or day in it, or the ledger, writable by the group: named, with what to do."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Exit(0))
    await transcripts.close()
    path = [place.directory / FILE, *place.path().parents][level]
    permit(path)
    with pytest.raises(ConfigurationError) as caught:
        opener()
    assert str(path) in caught.value.public
    assert caught.value.hint == f"chmod -R go-w {place.directory}"
    path.chmod(0o750)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(ConfigurationError, match="belongs to user id 12345"):
            opener()
        os.chown(path, 0, -1)
    await restart(opener)


async def test_the_folders_made_here_are_nobody_elses_to_write_in(place: Place, opener: Opener) -> None:
    """Whatever the umask, the folders of years, months and days are made so that the next start takes them."""
    before = os.umask(0)
    try:
        transcripts = opener()
        await transcripts.start()
        await record(transcripts, Exit(0))
        await transcripts.close()
        await restart(opener)
    finally:
        os.umask(before)
    assert verdicts(place) == {"s1": "good"}


async def test_a_client_that_leaves_while_its_record_opens_is_no_error(place: Place, opener: Opener) -> None:
    """The log has a line about it, and none at the level of an error."""
    transcripts = opener()
    await transcripts.start()
    with capture_logs() as logs:
        opening = asyncio.create_task(record(transcripts, Exit(0)))
        await asyncio.sleep(0)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening
        await until(lambda: [one.state for one in list_transcripts(place.directory)] == ["unclean"])
        await transcripts.close()
    assert [(line["event"], line["log_level"]) for line in logs] == [("client-left-early", "info")]
    assert verdicts(place) == {"s1": "unclean"}


MALFORMED: list[tuple[str, dict[str, object]]] = [
    ("checkpoint", {"sessions": [1]}),
    ("checkpoint", {"sessions": {"s1": 5}}),
    ("checkpoint", {"sessions": {"s1": {"age": [2**70, "0" * 64], "wal": {}}}}),
    ("checkpoint", {"sessions": {"s1": {"age": [1, "0" * 64], "wal": {"../x.0.wal": [1, "0" * 64]}}}}),
    ("checkpoint", {"sessions": {"s1": {"age": [True, "0" * 64], "wal": {}}}}),
    ("opened", {"uid": "x", "path": 5}),
    ("opened", {"uid": "x", "path": "../../etc/x.cast.age"}),
    ("opened", {"uid": "x", "path": "2026/01/01/x.cast.age", "beginning": None}),
    ("closed", {"uid": "x", "path": "2026/01/01/x.cast.age", "size": "9", "sha256": None}),
    ("sealed", {"uid": "x", "path": "2026/01/01/x.cast.age", "files": None}),
    ("sealed", {"uid": "x", "path": "2026/01/01/x.cast.age", "files": {}}),
]


async def test_signed_lines_that_are_malformed_are_findings(place: Place, opener: Opener) -> None:
    """A line with our signature and members of the wrong kind is a broken chain, at its number, and no traceback."""
    await crash(opener, "s1")
    ledger = Ledger(place.directory / FILE, Signer(place.signing_key), "n1")
    for event, fields in MALFORMED:
        ledger.write(event, fields)
    ledger.close()
    findings = verify(place.directory, place.public_key)
    assert [finding.verdict for finding in findings[: len(MALFORMED)]] == ["broken chain"] * len(MALFORMED)
    assert "s1" in {finding.uid for finding in findings}
    await restart(opener)


async def test_hostile_lines_cost_their_length_only(place: Place, opener: Opener) -> None:
    """A line of 256 MiB, deep JSON and a flood of junk are one finding each, up to a bound; the start goes on."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Exit(0))
    await transcripts.close()
    path = place.directory / FILE
    with path.open("ab") as file:
        file.truncate(file.tell() + 256 * 2**20)  # zeros: a line that never ends
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b'{"a":' * 100_000 + b',"signature":"AAAA"}\n' + b"1" * 100_000 + b"\n")
        file.write(b"x\n" * 3 * MAX_BROKEN_LINES)
    assert path.stat().st_size > 16 * MAX_LINE_BYTES
    findings = verify(place.directory, place.public_key)
    assert len(findings) == MAX_BROKEN_LINES + 2
    assert [finding.words.partition(" of the ledger ")[2] for finding in findings[:3]] == [
        "is too long", "was edited, or is signed by another key", "is not a line of a ledger",
    ]  # fmt: skip
    assert "2003 more lines" in reasons(place)
    await restart(opener)
