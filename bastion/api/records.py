"""The routes about what is on record: transcripts, as they are encrypted, and the ledger."""

import asyncio
import itertools
import os
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
from bastion.errors import TranscriptError
from bastion.transcripts import find, list_transcripts
from bastion.transcripts.ledger import read

_CHUNK = 64 * 1024
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
    try:
        descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise TranscriptError(f"the transcript {uid} cannot be read", "look at the log", detail=str(error)) from None
    try:
        size = os.fstat(descriptor).st_size
        await parts.transcripts.ledger.append("transcript given", uid=uid, by=caller.name, address=caller.address)
    except BaseException:
        os.close(descriptor)
        raise
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{uid}.cast.age"',
        "Cache-Control": "no-store",
        "Bastion-Transcript-State": found.state,
    }
    return StreamingResponse(_contents(descriptor, size), media_type=_AGE, headers=headers)


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


def _contents(descriptor: int, size: int) -> Iterator[bytes]:
    """Give the first `size` bytes and no more: the file may grow meanwhile."""
    with os.fdopen(descriptor, "rb") as file:
        left = size
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def _described(directory: Path, ledger: Path) -> list[TranscriptFile]:
    opened = {
        str(entry.fields.get("uid")): entry.fields
        for entry in (read(ledger, None) if ledger.exists() else ())
        if entry.fields.get("event") == "opened"
    }
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
    if not path.exists():
        return LedgerPage(entries=[], last=0)
    last = after
    entries: list[dict[str, Any]] = []
    for entry in itertools.islice(read(path, None), after, None):
        if len(entries) == limit:
            break
        last = entry.number
        if event in {None, entry.fields.get("event")} and uid in {None, entry.fields.get("uid")}:
            entries.append({"number": entry.number} | entry.fields)
    return LedgerPage(entries=entries, last=last)
