"""What somebody does who can write in the transcripts' folder and has the auditors' public keys, and no key of ours."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import Ledger, Signer, generate_signing_key, verify
from bastion.transcripts.ledger import FILE
from bastion.transcripts.recorder import Recorder
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


async def crash(opener: Opener, *uids: str, checkpoint: bool = True) -> list[Recorder]:
    """Leave what `kill -9` leaves of these sessions, with or without a checkpoint of each on the ledger."""
    transcripts = opener()
    await transcripts.start()
    contexts, recorders = [], []
    for uid in uids:
        context = transcripts.open(session(uid), request(uid), TARGET, on_failure=fail_loudly)
        recorder = await context.__aenter__()
        contexts.append(context)  # or its end would be a clean one
        await recorder.record(Data(STDOUT, b"what was seen in " + uid.encode()))
        recorders.append(recorder)
    if checkpoint:
        await until(lambda: all(recorder.listed for recorder in recorders))
    await transcripts.close()
    return recorders


async def forge(place: Place, opener: Opener, uid: str, *, closed: bool) -> list[Path]:
    """Make a session's files of our own under that uid, encrypted to the same auditors; return them."""
    elsewhere = place.root / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    generate_signing_key(elsewhere / "signing")

    def make(**options: object) -> object:
        return opener(directory=elsewhere / "transcripts", signing_key=elsewhere / "signing", **options)

    if closed:
        transcripts = opener(directory=elsewhere / "transcripts", signing_key=elsewhere / "signing")
        await transcripts.start()
        await record(transcripts, Data(STDOUT, b"nothing happened"), Exit(0), uid=uid)
        await transcripts.close()
    else:
        await crash(make, uid)  # type: ignore[arg-type] # a Transcripts, elsewhere
    files = (elsewhere / "transcripts").rglob(f"{uid}.*")
    return sorted(file for file in files if file.suffix in {".age", ".wal"})


async def restart(opener: Opener) -> None:
    """Start the server and stop it."""
    transcripts = opener()
    await transcripts.start()
    await transcripts.close()


def verdicts(place: Place) -> dict[str, str]:
    """Return what verify says, by uid; "" is the ledger itself."""
    return {finding.uid: finding.verdict for finding in verify(place.directory, place.public_key)}


def reasons(place: Place) -> str:
    """Return what verify says in words."""
    return "\n".join(finding.words for finding in verify(place.directory, place.public_key))


def events(place: Place, name: str) -> list[dict[str, object]]:
    """Return the ledger's lines of one event."""
    lines = map(json.loads, (place.directory / FILE).read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def keep_lines(place: Place, keep: Callable[[dict[str, object]], bool]) -> None:
    """Keep the ledger's lines up to the first that is not to be kept: its tail is cut."""
    path = place.directory / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    end = next((number for number, line in enumerate(lines) if not keep(json.loads(line))), len(lines))
    path.write_bytes(b"".join(lines[:end]))


def rewrite(place: Place, drop: Sequence[str]) -> None:
    """Write the ledger anew, signed and chained, without these members: as a version wrote it that had none."""
    path = place.directory / FILE
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.unlink()
    ledger = Ledger(path, Signer(place.signing_key), "n1")
    for line in lines:
        own = {"time", "event", "node", "previous", "signature", *drop}
        ledger.write(line["event"], {key: value for key, value in line.items() if key not in own})
    ledger.close()
