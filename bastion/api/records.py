"""The routes about what is on record: transcripts, as they are encrypted, and the ledger."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from bastion.api.callers import Calling, needs
from bastion.api.services import Named, Page, Parts, PerPage, Uid
from bastion.transcripts import find, list_transcripts

_CHUNK = 64 * 1024
_LONGEST_LINE = 16 * 2**20
_OPENED = b'"event":"opened"'
_AGE = "application/age-encryption"


class TranscriptFile(BaseModel):
    """One transcript: `size` in bytes of its files, its state, and when, whose and where as the ledger has it."""

    uid: str
    size: int
    state: Literal["complete", "unclean", "open"]
    signed: bool
    opened: datetime | None
    user: str | None
    stack: str | None
    service: str | None


class TranscriptList(BaseModel):
    """One page of the transcripts that fit, oldest first, and how many fit."""

    transcripts: list[TranscriptFile]
    total: int


class LedgerPage(BaseModel):
    """Lines of the ledger as they were written, and the number of the last one; `problem` says what is no line."""

    entries: list[dict[str, Any]]
    last: int


def add_records(api: FastAPI) -> None:
    """Add the routes of /api/transcripts and /api/ledger."""
    tags: list[str | Enum] = ["audit"]
    extra = needs("audit:read")
    file = {"description": "The age file.", "content": {_AGE: {"schema": {"type": "string", "format": "binary"}}}}
    api.get("/api/transcripts", tags=tags, openapi_extra=extra)(list_all)
    api.get(
        "/api/transcripts/{uid}",
        tags=tags,
        openapi_extra=extra,
        response_class=StreamingResponse,
        responses={200: file},
    )(give_transcript)
    api.get("/api/ledger", tags=tags, openapi_extra=extra)(show_ledger)


async def list_all(
    parts: Parts,
    *,
    user: Named = None,
    stack: Named = None,
    service: Named = None,
    page: Page = 1,
    per_page: PerPage = 100,
) -> TranscriptList:
    """List transcripts, oldest first."""
    found = await asyncio.to_thread(_described, parts.transcripts.ledger.path.parent, parts.transcripts.ledger.path)
    wanted = [
        one
        for one in found
        if user in {None, one.user} and stack in {None, one.stack} and service in {None, one.service}
    ]
    return TranscriptList(transcripts=wanted[(page - 1) * per_page : page * per_page], total=len(wanted))


async def give_transcript(parts: Parts, caller: Calling, uid: Uid) -> Response:
    """Give a transcript's age file as it is now; an auditor's identity opens it."""
    found = await asyncio.to_thread(find, parts.transcripts.ledger.path.parent, uid)
    size = found.path.stat().st_size
    await parts.transcripts.ledger.append("transcript given", uid=uid, by=caller.name, address=caller.address)
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{uid}.cast.age"',
        "Cache-Control": "no-store",
        "Bastion-Transcript-State": found.state,
    }
    return StreamingResponse(_contents(found.path, size), media_type=_AGE, headers=headers)


async def show_ledger(
    parts: Parts,
    *,
    after: Annotated[int, Query(ge=0, le=10**12, description="the number of the last line that is known")] = 0,
    event: Annotated[str | None, Query(max_length=64)] = None,
    uid: Annotated[str | None, Query(max_length=64)] = None,
    limit: PerPage = 100,
) -> LedgerPage:
    """Show lines of the ledger after a number, oldest first, each with its signature."""
    return await asyncio.to_thread(_ledger_page, parts.transcripts.ledger.path, after, event, uid, limit)


def _contents(path: Path, size: int) -> Iterator[bytes]:
    """Give the first `size` bytes and no more: the file may grow meanwhile."""
    with path.open("rb") as file:
        left = size
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def _described(directory: Path, ledger: Path) -> list[TranscriptFile]:
    opened = {str(fields.get("uid")): fields for _, fields in _lines(ledger, 0, _OPENED)}
    described = []
    for one in list_transcripts(directory):
        facts = opened.get(one.uid, {})
        described.append(
            TranscriptFile(
                uid=one.uid,
                size=one.size,
                state=one.state,
                signed=one.signed,
                opened=facts.get("time"),
                user=facts.get("user"),
                stack=facts.get("stack"),
                service=facts.get("service"),
            )
        )
    return described


def _ledger_page(path: Path, after: int, event: str | None, uid: str | None, limit: int) -> LedgerPage:
    last = after
    entries: list[dict[str, Any]] = []
    for last, fields in _lines(path, after, *(json.dumps(word).encode() for word in (event, uid) if word is not None)):
        if event in {None, fields.get("event")} and uid in {None, fields.get("uid")}:
            entries.append({"number": last} | fields)
            if len(entries) == limit:
                return LedgerPage(entries=entries, last=last)
    return LedgerPage(entries=entries, last=last)


def _lines(path: Path, after: int, *having: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the number and the fields of each line after a number that has all of these bytes in it.

    The others are not read as JSON: a ledger is long, and this is done while sessions run.
    """
    try:
        opened = path.open("rb")
    except FileNotFoundError:  # no other error: a ledger that cannot be read is not an empty one
        return
    with opened as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_LINE)
            if not line.endswith(b"\n"):
                return
            if number > after and all(part in line for part in having):
                yield number, _fields(line)


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    return fields if isinstance(fields, dict) else {"problem": "is no line of a ledger"}
