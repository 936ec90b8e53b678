"""Every manipulation of transcripts, signatures and ledger is named by somebody who holds no auditor's key."""

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bastion.errors import TranscriptError
from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import Ledger, Signer, generate_signing_key, verify, verifying
from bastion.transcripts.signing import COMPLETE, Verifier, file_digest
from tests.unit.transcripts.recorded_place import TARGET, Opener, Place, fail_loudly, record, request, session, until


async def two_sessions(opener: Opener) -> None:
    """Record the sessions a and b."""
    transcripts = opener()
    await transcripts.start()
    await transcripts.ledger.append("key-issued", user="alice")
    for uid in "ab":
        await record(transcripts, Data(STDOUT, uid.encode()), Exit(0), uid=uid)
    await transcripts.close()


def verdicts(place: Place) -> dict[str, str]:
    """Return what verify says, by uid."""
    return {found.uid: found.verdict for found in verify(place.directory, place.public_key)}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


MANIPULATIONS: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "missing"),
    (cut, "truncated"),
    (flip, "altered"),
    (grow, "altered"),
    (lambda path: path.with_name("a.sig").unlink(), "unsigned"),
    (lambda path: flip(path.with_name("a.sig")), "re-signed"),
    (lambda path: shutil.copy(path.with_name("b.sig"), path.with_name("a.sig")), "re-signed"),
]


@pytest.mark.parametrize(("manipulate", "verdict"), MANIPULATIONS)
async def test_each_manipulation_is_named(
    place: Place, opener: Opener, manipulate: Callable[[Path], object], verdict: str
) -> None:
    """A transcript that is missing, cut, changed or without its signature is named; its neighbour stays good."""
    await two_sessions(opener)
    assert verdicts(place) == {"a": "good", "b": "good"}
    manipulate(place.path("a"))
    assert verdicts(place) == {"a": verdict, "b": "good"}


async def test_a_file_signed_by_another_key_is_refused(place: Place, opener: Opener) -> None:
    """A transcript forged and signed by somebody else's key is refused, also when only the signature was replaced."""
    await two_sessions(opener)
    (place.root / "elsewhere").mkdir()
    generate_signing_key(place.root / "elsewhere" / "key")
    other = Signer(place.root / "elsewhere" / "key")
    path = place.path("a")
    path.with_name("a.sig").write_bytes(other.sign_file(file_digest(path)[1], COMPLETE))
    assert verdicts(place) == {"a": "re-signed", "b": "good"}


async def test_a_file_that_the_ledger_does_not_know_is_named(place: Place, opener: Opener) -> None:
    """A transcript that was put in is forged; a copy of a signed one, with its signature, is unknown."""
    await two_sessions(opener)
    shutil.copy(place.path("a"), place.path("a").with_name("z.cast.age"))
    shutil.copytree(place.path("a").parent, place.directory / "1999" / "01" / "01")
    verdicts = [(finding.uid, finding.verdict) for finding in verify(place.directory, place.public_key)]
    assert sorted(verdicts[2:]) == [("a", "unknown"), ("b", "unknown"), ("z", "forged"), ("z", "forged")]


LEDGER: list[tuple[Callable[[list[bytes]], list[bytes]], str]] = [
    (lambda lines: lines[:1] + lines[2:], "does not follow"),
    (lambda lines: lines[1:], "does not follow"),
    (lambda lines: [lines[1], lines[0], *lines[2:]], "does not follow"),
    (lambda lines: [lines[0], *lines], "does not follow"),
    (lambda lines: [lines[0].replace(b"alice", b"mallory"), *lines[1:]], "was edited"),
    (lambda lines: [lines[0], b"{}\n", *lines[1:]], "is not a line"),
    (lambda lines: [lines[0], b"\xff[[[\n", *lines[1:]], "is not a line"),
    (lambda lines: [*lines[:-1], lines[-1][:-9]], "is cut short"),
]


@pytest.mark.parametrize(("manipulate", "words"), LEDGER)
async def test_each_manipulation_of_the_ledger_is_named(
    place: Place, opener: Opener, manipulate: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    """A line that was dropped, swapped, repeated, edited, put in or cut breaks the chain, and is named."""
    await two_sessions(opener)
    ledger = place.directory / "ledger.jsonl"
    ledger.write_bytes(b"".join(manipulate(ledger.read_bytes().splitlines(keepends=True))))
    broken = [found.words for found in verify(place.directory, place.public_key) if found.verdict == "broken chain"]
    assert any(words in found and "line " in found for found in broken)


async def test_no_byte_can_be_changed_unseen(place: Place, opener: Opener) -> None:
    """Whichever bit of whichever byte of transcript, signature or ledger is flipped, verify refuses it."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Exit(0))
    await transcripts.close()
    accepted = 0
    for path in (place.path(), place.path().with_name("s1.sig"), place.directory / "ledger.jsonl"):
        content = path.read_bytes()
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            accepted += all(found.is_sound for found in verify(place.directory, place.public_key))
        path.write_bytes(content)
    assert accepted == 0
    assert verdicts(place) == {"s1": "good"}


async def test_another_process_may_append(place: Place, opener: Opener) -> None:
    """Lines that the command line and the server append in turn, from many tasks, are one chain."""
    transcripts = opener()
    await transcripts.start()
    other = Ledger(place.directory / "ledger.jsonl", Signer(place.signing_key), "cli")
    for number in range(20):
        await asyncio.gather(transcripts.ledger.append("a", number=number), other.append("b", number=number))
    await transcripts.close()
    assert verify(place.directory, place.public_key) == []
    assert len((place.directory / "ledger.jsonl").read_bytes().splitlines()) == 40


async def test_a_torn_line_is_cut_off_and_said(place: Place, opener: Opener) -> None:
    """What a crash left of a ledger line is cut off by the next append, which says how long it was."""
    await two_sessions(opener)
    ledger = place.directory / "ledger.jsonl"
    with ledger.open("ab") as file:
        file.write(b'{"time":"20')
    Ledger(ledger, Signer(place.signing_key), "cli").write("refused", {"user": "x" * 9000})
    assert verdicts(place) == {"a": "good", "b": "good"}
    last = json.loads(ledger.read_bytes().splitlines()[-1])
    assert last["torn"] == 11
    assert len(last["user"]) == 4096


def test_the_ledgers_own_fields_are_not_overwritten(place: Place) -> None:
    """An event cannot bring a `previous` or a `time` of its own."""
    with pytest.raises(ValueError, match="previous"):
        Ledger(place.root / "ledger.jsonl", Signer(place.signing_key), "cli").write("x", {"previous": "0"})


def test_no_ledger_is_an_error(place: Place) -> None:
    """A directory without a ledger cannot be verified, and that is said."""
    with pytest.raises(TranscriptError):
        verify(place.root, place.public_key)


@pytest.mark.parametrize("event", ["stops", "starts"])
async def test_a_server_that_stops_or_starts_meanwhile_is_accused_of_nothing(
    place: Place, opener: Opener, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """What was closed, or opened, after the ledger was walked is looked at again by the ledger as it is then."""
    walked, resumed = threading.Event(), threading.Event()
    walk = verifying._walk  # noqa: SLF001 - the moment between the ledger and the files has no other name

    def walk_and_wait(path: Path, verifier: Verifier) -> object:
        result = walk(path, verifier)
        walked.set()
        assert resumed.wait(30)
        return result

    monkeypatch.setattr(verifying, "_walk", walk_and_wait)
    await two_sessions(opener)
    transcripts = opener()
    async with contextlib.AsyncExitStack() as running:
        if event == "stops":
            await transcripts.start()
            recorder = await running.enter_async_context(
                transcripts.open(session("c"), request("c"), TARGET, on_failure=fail_loudly)
            )
            await recorder.record(Data(STDOUT, b"c"))
            ledger = place.directory / "ledger.jsonl"
            await until(lambda: b'"checkpoint"' in ledger.read_bytes().splitlines()[-1])
        task = asyncio.create_task(asyncio.to_thread(verify, place.directory, place.public_key))
        await until(walked.is_set)
        if event == "starts":
            await transcripts.start()
            recorder = await running.enter_async_context(
                transcripts.open(session("c"), request("c"), TARGET, on_failure=fail_loudly)
            )
            await recorder.record(Data(STDOUT, b"c"))
        else:
            await running.aclose()
            await transcripts.close()
        resumed.set()
        assert [finding for finding in await task if not finding.is_sound] == []
    await transcripts.close()
