"""Tell each session when its container ends or is paused, from one stream of events per engine."""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from bastion.runtimes.docker.endpoint import TIMEOUT, Endpoint

_FILTERS: Final = {"type": ["container"], "event": ["die", "destroy", "pause"]}
_PAUSE: Final = 0.5  # seconds before the stream is opened again

Told = Callable[[str], None]

_log = structlog.get_logger(__name__)


class Watch:
    """Who watches which container, and the task that reads the engine's events for all of them.

    `running` gives the ids of the running containers; it is asked after each break of the stream, for what was missed.
    """

    def __init__(self, endpoint: Endpoint, running: Callable[[], Awaitable[set[str]]]) -> None:
        self._endpoint = endpoint
        self._running = running
        self._watchers: dict[str, dict[object, Told]] = {}
        self._task: asyncio.Task[None] | None = None
        self._open = asyncio.Event()

    @contextlib.asynccontextmanager
    async def on(self, container_id: str, told: Told) -> AsyncIterator[None]:
        """Until left, call `told` with words when the container ends ("was removed" and the like) or "is paused"."""
        if self._task is None or self._task.done():
            self._open.clear()
            self._task = asyncio.create_task(self._follow(), name="docker events")
        with contextlib.suppress(TimeoutError):  # an engine without events still has streams that end
            async with asyncio.timeout(2):
                await self._open.wait()
        key = object()
        self._watchers.setdefault(container_id, {})[key] = told
        try:
            yield
        finally:
            left = self._watchers[container_id]
            del left[key]
            if not left:
                del self._watchers[container_id]

    async def close(self) -> None:
        """Stop reading events."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(_events(self._endpoint, _FILTERS)) as stream:
                    async for event in stream:
                        if event:
                            self._deliver(event)
                        else:
                            self._open.set()
                            await self._recheck()
            except (OSError, ValueError) as error:
                _log.warning("docker events ended", error=str(error))
            await asyncio.sleep(_PAUSE)

    async def _recheck(self) -> None:
        if not self._watchers:
            return
        running = await self._running()
        for container_id in set(self._watchers) - running:
            self._tell(container_id, "stopped")

    def _deliver(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        container_id = actor.get("ID")
        if not isinstance(container_id, str) or container_id not in self._watchers:
            return
        attributes = actor.get("Attributes") or {}
        words = {
            "die": f"stopped (its exit status is {attributes.get('exitCode', 'unknown')})",
            "destroy": "was removed",
            "pause": "is paused",
        }
        if word := words.get(str(event.get("Action") or event.get("status"))):
            self._tell(container_id, word)

    def _tell(self, container_id: str, word: str) -> None:
        for told in list(self._watchers.get(container_id, {}).values()):
            told(word)


async def _events(endpoint: Endpoint, filters: Mapping[str, list[str]]) -> AsyncGenerator[dict[str, Any], None]:
    """Give the engine's events as they happen, an empty one first when the stream is open; end when it does.

    HTTP/1.0, so that the answer comes as plain lines instead of chunks.

    Raises:
        OSError: the engine does not answer, or answers with an error.
        ValueError: a line is too long, or no JSON.
    """
    reader, writer = await endpoint.open_streams()
    try:
        query = urllib.parse.urlencode({"filters": json.dumps(filters)})
        writer.write(f"GET /events?{query} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        async with asyncio.timeout(TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"GET /events: {head[:200]!r}")
        yield {}
        while line := await reader.readline():
            if line.strip():
                yield json.loads(line)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the engine closed the connection") from error
    finally:
        writer.close()
