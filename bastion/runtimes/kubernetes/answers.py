"""Read what a cluster answers, within bounds: bodies, the lines of a watch, objects."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import aiohttp

from bastion.runtimes.kubernetes.errors import Answered

_LINE_LIMIT: Final = 4 * 1024 * 1024
_REFUSAL_LIMIT: Final = 64 * 1024  # bytes of an answer that is no success
_FIRST_REFUSAL: Final = 300


async def successful(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """Return the answer; raise Answered, and let go of it, if it is no success."""
    if response.status < _FIRST_REFUSAL:
        return response
    async with response:
        told: object = None
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(await body(response, _REFUSAL_LIMIT))
        raise Answered.of(response.status, told)


async def body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the answer's body; raise ValueError if it is of more than `limit` bytes."""
    whole = bytearray()
    async for chunk in response.content.iter_any():
        whole += chunk
        if len(whole) > limit:
            response.close()
            raise ValueError("the answer is too long")
    return bytes(whole)


async def lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Give the answer's lines, each at most 4 MiB; raise ValueError for a longer one."""
    held = bytearray()
    async for chunk in response.content.iter_any():
        searched = len(held)
        held += chunk
        while (end := held.find(b"\n", searched)) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            searched = 0
            if line.strip():
                yield line
        if len(held) > _LINE_LIMIT:
            raise ValueError("a line is too long")


def read_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object; raise ValueError if it is none."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")  # noqa: TRY004 - of JSON
    return found
