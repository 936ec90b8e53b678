"""Whoever writes in the transcripts' folder gets no signature of ours for it, and is named (threats E2, D4, D5)."""

import json
import os
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import Ledger, Signer, verify
from bastion.transcripts.ledger import FILE
from bastion.transcripts.provenance import wrap_digest
from bastion.transcripts.recipients import parse_recipients
from bastion.transcripts.signing import UNCLEAN, file_digest
from bastion.transcripts.wal import WriteAhead
from tests.unit.transcripts.forging import crash, events, forge, keep_lines, reasons, restart, rewrite, verdicts
from tests.unit.transcripts.recorded_place import (
    TARGET,
    Opener,
    Place,
    fail_loudly,
    record,
    request,
    session,
)


async def close_sessions(opener: Opener, *uids: str) -> None:
    """Record whole sessions."""
    transcripts = opener()
    await transcripts.start()
    for uid in uids:
        await record(transcripts, Data(STDOUT, uid.encode()), Exit(0), uid=uid)
    await transcripts.close()


async def test_E2_a_closed_transcript_that_was_replaced_is_not_signed_again(place: Place, opener: Opener) -> None:
    """One encrypted to the auditors and put in a closed one's place, its signature removed, is named as forged."""
    await close_sessions(opener, "a", "b")
    (forged,) = await forge(place, opener, "a", closed=True)
    shutil.copy(forged, place.path("a"))
    place.path("a").with_name("a.sig").unlink()
    assert verdicts(place) == {"a": "forged", "b": "good"}
    with capture_logs() as logs:
        await restart(opener)
        await restart(opener)
    assert verdicts(place) == {"a": "forged", "b": "good"}
    assert not place.path("a").with_name("a.sig").exists()
    (line,) = events(place, "not sealed")  # the second start adds nothing
    assert line["count"] == 1
    assert [(one["uid"], one["verdict"]) for one in line["transcripts"]] == [("a", "forged")]  # type: ignore[attr-defined]
    assert [(one["uid"], one["log_level"]) for one in logs if one["event"] == "transcript-not-sealed"] == [
        ("a", "error"),
        ("a", "error"),
    ]


@pytest.mark.parametrize("closed", [True, False])
async def test_E2_an_invented_transcript_is_not_signed(place: Place, opener: Opener, *, closed: bool) -> None:
    """One of a session that never was, finished or as a crash would leave it, is named as forged."""
    await close_sessions(opener, "a")
    for file in await forge(place, opener, "0123456789abcdef", closed=closed):
        shutil.copy(file, place.path("a").parent)
    await restart(opener)
    assert verdicts(place) == {"a": "good", "0123456789abcdef": "forged"}
    assert not list(place.directory.rglob("0123456789abcdef.sig"))


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("which", ["both", "age", "wal"])
async def test_E2_an_open_transcript_that_was_replaced_is_not_signed(
    place: Place, opener: Opener, which: str, *, checkpoint: bool
) -> None:
    """After `kill -9` and before the next start: replaced as a whole, or one file of it beside the true other one."""
    await crash(opener, "a", checkpoint=checkpoint)
    for file in await forge(place, opener, "a", closed=False):
        if which == "both" or file.name.endswith(which):
            shutil.copy(file, place.path("a").parent)
    await restart(opener)
    assert verdicts(place) == {"a": "forged"}
    assert not list(place.directory.rglob("a.sig"))


async def test_E2_two_sessions_files_that_were_swapped_are_not_signed(place: Place, opener: Opener) -> None:
    """What a crash left of two sessions, each under the other's name, is named as forged."""
    await crash(opener, "a", "b")
    folder = place.path("a").parent
    for name in (".cast.age", ".0.wal"):
        (folder / f"a{name}").rename(folder / "aside")
        (folder / f"b{name}").rename(folder / f"a{name}")
        (folder / "aside").rename(folder / f"b{name}")
    await restart(opener)
    assert verdicts(place) == {"a": "forged", "b": "forged"}


async def test_E2_another_sessions_signature_does_not_close_a_session(place: Place, opener: Opener) -> None:
    """A finished transcript put with its good signature in the place of one that a crash left is named as forged."""
    await crash(opener, "a")
    await close_sessions(opener, "b")
    await crash(opener, "c")  # a is sealed by now
    for name in (".cast.age", ".sig"):
        shutil.copy(place.path("b").with_name(f"b{name}"), place.path("c").with_name(f"c{name}"))
    await restart(opener)
    assert verdicts(place) == {"a": "unclean", "b": "good", "c": "forged"}
    assert not events(place, "closed")[1:]


async def test_E2_what_a_real_crash_left_is_sealed_and_says_how_far_it_is_proven(place: Place, opener: Opener) -> None:
    """With a checkpoint or without one it is sealed; what came after the checkpoint is named as unproven."""
    await crash(opener, "a")
    await crash(opener, "b", checkpoint=False)
    with place.path("b").with_name("b.0.wal").open("ab") as file:
        file.write(b"torn")
    await restart(opener)
    assert verdicts(place) == {"a": "unclean", "b": "unclean"}
    assert not events(place, "not sealed")
    findings = {finding.uid: finding for finding in verify(place.directory, place.public_key)}
    (size,) = {part.stat().st_size for part in place.path("a").parent.glob("a.0.wal")}
    assert findings["a"].proven["a.0.wal"] == size
    assert f"a.0.wal is proven up to byte {size}, which is all of it" in findings["a"].words
    header = findings["b"].proven["b.0.wal"]
    assert 0 < header < size
    assert f"b.0.wal is proven up to byte {header} and unproven after it" in findings["b"].words


async def test_E2_files_from_before_the_opened_line_are_no_forgery(place: Place, opener: Opener) -> None:
    """What a crash leaves between making the files and the `opened` line holds nothing, and goes at the next start."""
    recorders = await crash(opener, "a", checkpoint=False)
    (header,) = (part.header[0] for part in recorders[0].wal.parts)
    os.truncate(place.path("a").with_name("a.0.wal"), header)
    keep_lines(place, lambda line: line["event"] != "opened")
    assert verdicts(place) == {"a": "unclean"}
    await restart(opener)
    assert verdicts(place) == {}
    assert not list(place.directory.rglob("a.*"))


@pytest.mark.parametrize("place_of_wal", ["closed", "crashed"])
async def test_E2_a_foreign_write_ahead_file_is_named(place: Place, opener: Opener, place_of_wal: str) -> None:
    """A .wal put beside a closed transcript, or behind the last one of a crashed one, is named and not removed."""
    if place_of_wal == "closed":
        await close_sessions(opener, "a")
    else:
        await crash(opener, "a")
    _, part = await forge(place, opener, "a", closed=False)
    foreign = place.path("a").with_name("a.1.wal")
    shutil.copy(part, foreign)
    assert verdicts(place) == {"a": "forged"}
    await restart(opener)
    assert verdicts(place) == {"a": "forged"}
    assert "a.1.wal" in reasons(place)
    assert foreign.exists()


async def test_E2_a_crash_between_signature_and_ledger_is_closed_by_the_next_start(
    place: Place, opener: Opener
) -> None:
    """A transcript that was signed as complete and whose `closed` line a crash took is closed, and good."""
    await leave_signed(place, opener)
    assert verdicts(place) == {"a": "unclean"}
    await restart(opener)
    assert verdicts(place) == {"a": "good"}
    assert not list(place.directory.rglob("*.wal"))


async def leave_signed(place: Place, opener: Opener) -> None:
    """Leave a session whose transcript is signed and whose `closed` line is not written."""
    transcripts = opener()
    await transcripts.start()
    async with transcripts.open(session("a"), request("a"), TARGET, on_failure=fail_loudly) as recorder:
        await recorder.record(Data(STDOUT, b"whole"))
        part = recorder.wal.current.path
        content = part.read_bytes()
    await transcripts.close()
    part.write_bytes(content)
    keep_lines(place, lambda line: line["event"] != "closed")


@pytest.mark.parametrize("signed", [True, False])
async def test_D4_a_ledger_cut_before_closed_makes_no_open_transcript(
    place: Place, opener: Opener, *, signed: bool
) -> None:
    """With its `closed` line cut off a finished transcript is not sealed and not sound, with or without signature."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Data(STDOUT, b"seen"), Exit(0), uid="a")
    await transcripts.close()
    keep_lines(place, lambda line: line["event"] != "closed")
    if not signed:
        place.path("a").with_name("a.sig").unlink()
    await restart(opener)
    assert verdicts(place) == {"a": "broken chain" if signed else "truncated"}
    assert not events(place, "sealed")


async def test_D4_a_ledger_cut_before_opened_leaves_a_signed_stranger(place: Place, opener: Opener) -> None:
    """An old ledger put back does not know the transcripts after it: their own signatures say that they were ours."""
    await close_sessions(opener, "a", "b")
    keep_lines(place, lambda line: line.get("uid") != "b")
    await restart(opener)
    assert verdicts(place) == {"a": "good", "b": "unknown"}


async def test_D4_a_crashed_transcript_shorter_than_its_checkpoint_is_not_sealed(place: Place, opener: Opener) -> None:
    """Cut after the crash, it is named as truncated and gets no signature."""
    await crash(opener, "a")
    part = place.path("a").with_name("a.0.wal")
    os.truncate(part, part.stat().st_size - 1)
    await restart(opener)
    assert verdicts(place) == {"a": "truncated"}
    assert not list(place.directory.rglob("a.sig"))


async def test_D5_a_sealed_transcript_is_not_sealed_again(place: Place, opener: Opener) -> None:
    """What was added to a sealed transcript, its signature removed, gets no new one."""
    await crash(opener, "a")
    await restart(opener)
    with place.path("a").with_name("a.0.wal").open("ab") as file:
        file.write(b"more")
    place.path("a").with_name("a.sig").unlink()
    await restart(opener)
    assert verdicts(place) == {"a": "altered"}
    assert len(events(place, "sealed")) == 1


@pytest.mark.parametrize("before", ["closed", "nothing"])
async def test_D5_sealed_after_closed_or_without_opened_is_forgery(place: Place, opener: Opener, before: str) -> None:
    """What a bastion before this one signed for somebody is named: its own lines of the ledger give it away."""
    await close_sessions(opener, "a")
    path = place.path("a")
    if before == "nothing":
        (path,) = [file.rename(path.with_name(file.name)) for file in await forge(place, opener, "z", closed=True)]
    uid = path.name.removesuffix(".cast.age")
    signer = Signer(place.signing_key)
    size, digest = file_digest(path)
    path.with_name(f"{uid}.sig").write_bytes(signer.sign_file(digest, UNCLEAN))
    fields = {"uid": uid, "path": str(path.relative_to(place.directory)), "reason": "the bastion ended"}
    ledger = Ledger(place.directory / FILE, signer, "n1")
    ledger.write("sealed", fields | {"files": {path.name: [size, digest.hex()]}})
    assert verdicts(place)[uid] == "forged"
    assert "`sealed`" in reasons(place)


async def test_E2_a_line_put_in_from_another_ledger_opens_nothing(place: Place, opener: Opener) -> None:
    """An `opened` line that is signed by our key, but stands in another ledger of ours, proves nothing here."""
    await close_sessions(opener, "a")
    other = place.root / "other"
    context_place = Place(other, place.identity, place.recipient, place.public_key)

    def make(**options: object) -> object:
        return opener(directory=other / "transcripts", **options)

    await crash(make, "z")  # type: ignore[arg-type] # a Transcripts, elsewhere
    for file in (other / "transcripts").rglob("z.*"):
        shutil.copy(file, place.path("a").parent)
    with (place.directory / FILE).open("a") as ledger:
        ledger.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in events(context_place, "opened"))
    await restart(opener)
    assert verdicts(place) == {"": "broken chain", "a": "good", "z": "unclean"}
    assert not list(place.directory.rglob("z.sig"))


async def test_E2_an_opened_line_without_a_pin_seals_by_its_checkpoint(place: Place, opener: Opener) -> None:
    """In a ledger from before the pins a checkpoint proves the files."""
    await crash(opener, "a")
    rewrite(place, ["beginning"])
    assert verdicts(place) == {"a": "unclean"}
    await restart(opener)
    assert verdicts(place) == {"a": "unclean"}
    assert place.path("a").with_name("a.sig").exists()


async def test_a_pinless_ledger_without_a_checkpoint_still_verifies(place: Place, opener: Opener) -> None:
    """What a version before the pins left in its first second verifies as it did, and is not signed."""
    await crash(opener, "b", checkpoint=False)
    rewrite(place, ["beginning"])
    await restart(opener)
    assert verdicts(place) == {"b": "unclean"}
    assert not list(place.directory.rglob("b.sig"))
    (line,) = events(place, "not sealed")
    assert [one["verdict"] for one in line["transcripts"]] == ["unproven"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
async def test_E2_what_is_no_file_is_named_and_nobody_waits_for_it(place: Place, opener: Opener, kind: str) -> None:
    """A symbolic link, a FIFO or a folder in the place of a write-ahead file neither hangs nor stops the next start."""
    await crash(opener, "a")
    part = place.path("a").with_name("a.0.wal")
    part.rename(aside := place.root / "aside")
    if kind == "link":
        part.symlink_to(aside)
    elif kind == "fifo":
        os.mkfifo(part)
    else:
        part.mkdir()
    await restart(opener)
    assert verdicts(place) == {"a": "unproven"}
    assert not list(place.directory.rglob("a.sig"))


def test_E2_a_fresh_wrap_is_announced(place: Place) -> None:
    """The wrap of a file to come is known half a life of the ratchet before the file begins with it."""
    stem = place.root / "s1"
    wal = WriteAhead(stem, parse_recipients(place.recipients()))
    for _ in range(2**15):
        wal.step(0)
    announced = wal.wraps[1]
    for _ in range(2**15 + 1):
        wal.step(0)
    wal.close()
    assert wrap_digest(wal.current.path) == announced != wrap_digest(Path(f"{stem}.0.wal"))
