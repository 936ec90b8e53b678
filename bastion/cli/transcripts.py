"""`bastion transcripts …`: list and verify what was recorded; show, play and export it to an auditor."""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bastion.cli.files import new_private_file
from bastion.cli.options import ConfigOption, JsonOption, OutputOption, read_settings
from bastion.cli.output import show_error, write_fields, write_json, write_long_json, write_long_table, write_table
from bastion.cli.provenance import judge, judged
from bastion.errors import TranscriptError

if TYPE_CHECKING:
    from datetime import datetime

    from bastion.model import FileOperation
    from bastion.transcripts import Transcript

app = typer.Typer(help="List, show, play, export and verify what was recorded.")

Uid = Annotated[str, typer.Argument(metavar="UID", help="The session's uid, or `last`.")]
IdentityOption = Annotated[
    Path, typer.Option("--identity", metavar="KEY", help="An auditor's age identity, or ssh-ed25519 private key.")
]
_OF_THE_LEDGER = ("user", "stack", "service")


@app.command("list")
def list_all(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List every transcript, oldest first, with what the ledger says of its session."""
    from bastion.transcripts import list_transcripts

    folder = read_settings(config).audit.directory
    opened = {str(entry.get("uid")): entry for entry in _ledger(folder) if entry.get("event") == "opened"}
    found = sorted(list_transcripts(folder), key=lambda one: str(opened.get(one.uid, {}).get("time", "")))
    if as_json:
        write_json({"transcripts": [asdict(one) | {"opened": opened.get(one.uid)} for one in found]})
        return
    rows = []
    for one in found:
        facts = opened.get(one.uid, {})
        rows.append(
            (one.uid, str(facts.get("time", ""))[:19], *(facts.get(key) for key in _OF_THE_LEDGER), one.state, one.size)
        )
    write_table(("UID", "OPENED", "USER", "STACK", "SERVICE", "STATE", "BYTES"), rows)


@app.command("show")
def show(
    uid: Uid,
    *,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="KEY", help="An auditor's identity: shows the session too.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one transcript: its files, what is proven of it, its lines in the ledger, and for an auditor its session."""
    from bastion.transcripts import lines
    from bastion.transcripts.parsing import read_whole_header

    settings = read_settings(config)
    folder = settings.audit.directory
    found = _find(folder, uid)
    events = [entry for entry in _ledger(folder) if entry.get("uid") == found.uid]
    facts: dict[str, Any] = asdict(found)
    if (finding := judge(settings, found)) is not None:
        facts |= {"verdict": finding.verdict, "reason": finding.words, "proven": finding.proven}
    if identity is not None:
        facts["header"] = read_whole_header(next(lines(folder, found.uid, identity), ""))
    if as_json:
        write_json(facts | {"ledger": events})
        return
    session = facts.pop("header", {}).get("bastion", {})
    times = {event["event"]: event.get("time") for event in events if "event" in event}
    write_fields(session | facts | times)


@app.command("play")
def play(
    uid: Uid,
    *,
    identity: IdentityOption,
    speed: Annotated[float, typer.Option("--speed", metavar="N", min=0, help="Times as fast; 0 does not wait.")] = 1.0,
    config: ConfigOption = None,
) -> None:
    """Play a session on this terminal, without the escape sequences that answer back, reach outside or hurt."""
    from bastion import transcripts

    settings = read_settings(config)
    transcript = _find(settings.audit.directory, uid)
    rows = transcripts.lines(settings.audit.directory, transcript.uid, identity)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a replaced stdout has no such method
    with judged(settings, transcript):
        try:
            transcripts.play(rows, sys.stdout, speed)
        finally:
            sys.stdout.write("\n" if sys.stdout.isatty() else "")


@app.command("files")
def files(uid: Uid, *, identity: IdentityOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what was done with files in a session: opened, read, written, renamed, removed, denied and so on."""
    from bastion import transcripts
    from bastion.transcripts.file_events import encode, paths

    settings = read_settings(config)
    folder = settings.audit.directory
    found = _find(folder, uid)
    readable = _Readable(transcripts.list_operations(transcripts.lines(folder, found.uid, identity)))
    if as_json:
        facts = ({"time": time} | json.loads(encode(operation)) for time, operation in readable)
        write_long_json({"uid": found.uid}, "files", facts)
    else:
        rows = ((time, one.operation, paths(one), one.size, one.sha256, _result(one)) for time, one in readable)
        write_long_table(("TIME", "OPERATION", "PATH", "BYTES", "SHA256", "RESULT"), rows)
    with judged(settings, found):
        if readable.error is not None:
            raise readable.error


@app.command("export")
def export(uid: Uid, *, identity: IdentityOption, output: OutputOption = None, config: ConfigOption = None) -> None:
    """Give a session's asciicast lines, decrypted and merged with the write-ahead files when it did not end cleanly."""
    from bastion.transcripts import lines
    from bastion.transcripts.parsing import in_ascii

    settings = read_settings(config)
    transcript = _find(settings.audit.directory, uid)
    rows = lines(settings.audit.directory, transcript.uid, identity)
    rows = itertools.chain(list(itertools.islice(rows, 1)), rows)  # a wrong identity must leave no empty file
    with judged(settings, transcript):
        if output is None:
            is_terminal = sys.stdout.isatty()
            for row in rows:
                sys.stdout.buffer.write((in_ascii(row) if is_terminal else row).encode() + b"\n")
            sys.stdout.buffer.flush()
            return
        with new_private_file(output) as file:
            for row in rows:
                file.write(row.encode() + b"\n")


@app.command("verify")
def verify(
    uid: Annotated[
        str | None, typer.Argument(metavar="[UID]", help="One session's uid, or `last`; all without it.")
    ] = None,
    *,
    signing_key: Annotated[
        Path | None,
        typer.Option("--signing-key", metavar="FILE", help="Public half.  [default: signing/signing_ed25519.pub]"),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold transcripts, ledger and signatures against each other; exit 1 when anything is not as it was written."""
    from bastion import transcripts
    from bastion.keyring import Keyring

    settings = read_settings(config)
    private = Keyring(settings.keys.home).signing_key
    wanted = None if uid is None else _find(settings.audit.directory, uid).uid if uid == "last" else uid
    findings = transcripts.verify(settings.audit.directory, signing_key or private.with_name(f"{private.name}.pub"))
    if wanted is not None:
        findings = [one for one in findings if one.uid in {"", wanted}]
        if not any(one.uid for one in findings):
            raise TranscriptError(f"nothing is known of {wanted[:64]}", "bastion transcripts list shows all")
    if as_json:
        sound = all(one.is_sound for one in findings)
        write_json({"sound": sound, "findings": [asdict(one) | {"sound": one.is_sound} for one in findings]})
    else:
        write_table(("UID", "VERDICT", "FOUND"), [(f.uid, f.verdict, f.words) for f in findings if f.is_sound])
        for one in findings:
            if not one.is_sound:
                show_error(f"{one.uid or 'ledger'}: {one.verdict}: {one.words}")
    if not all(one.is_sound for one in findings):
        raise typer.Exit(1)


class _Readable:
    """Iterates over a transcript's readable items; after the last of them `error` is the reason why the rest is not.

    Raises:
        TranscriptError: the first item cannot be read.
    """

    def __init__(self, operations: "Iterator[tuple[datetime, FileOperation]]") -> None:
        self.error: TranscriptError | None = None
        self._first = list(itertools.islice(operations, 1))
        self._rest = operations

    def __iter__(self) -> "Iterator[tuple[datetime, FileOperation]]":
        yield from self._first
        try:
            yield from self._rest
        except TranscriptError as error:
            self.error = error


def _result(operation: "FileOperation") -> str:
    return operation.result + (f" ({operation.note})" if operation.note else "")


def _find(folder: Path, uid: str) -> "Transcript":
    from bastion.transcripts import find, list_transcripts

    if uid != "last":
        return find(folder, uid)
    if not (all_of_them := list_transcripts(folder)):
        raise TranscriptError(f"there is no transcript in {folder}", "connect once, and there is one")
    return max(all_of_them, key=lambda one: one.path.stat().st_mtime_ns)


def _ledger(folder: Path) -> Iterator[dict[str, Any]]:
    from bastion.transcripts.ledger import FILE, read

    if (folder / FILE).exists():
        for entry in read(folder / FILE, None):
            yield entry.fields
