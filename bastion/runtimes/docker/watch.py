"""Tell each session when its container ends or is paused, from one stream of events per engine."""

import asyncio
import contextlib
import json
import random
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from bastion.errors import RuntimeFailed
from bastion.runtimes.docker.endpoint import TIMEOUT, Endpoint
from bastion.tasks import background

_FILTERS: Final = {"type": ["container"], "event": ["die", "destroy", "pause", "unpause"]}
_RECONNECT_SECONDS: Final = (0.5, 10.0)  # before the stream is opened again: after the first failure, and at most

Told = Callable[[str], None]
Notice = Callable[[], None]


def _ignored() -> None:
    """Do nothing."""


class _Watcher(NamedTuple):
    told: Told
    resumed: Notice


_log = structlog.get_logger(__name__)


class Watch:
    """Who watches which container, and the task that reads the engine's events for all of them.

    `running` gives the ids of the running containers; it is asked after each break of the stream, for what was missed.
    `revived` is called when the stream is open again, and when any container is unpaused.
    """

    def __init__(
        self, endpoint: Endpoint, running: Callable[[], Awaitable[set[str]]], revived: Notice = _ignored
    ) -> None:
        self._endpoint = endpoint
        self._running = running
        self._revived = revived
        self._watchers: dict[str, dict[object, _Watcher]] = {}
        self._task: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._wanted = asyncio.Event()

    @contextlib.asynccontextmanager
    async def on(self, container_id: str, told: Told, resumed: Notice = _ignored) -> AsyncIterator[None]:
        """Until left, call `told` with words when the container ends ("was removed" and the like) or "is paused".

        `resumed` is called when it is unpaused.
        """
        if self._task is None or self._task.done():
            self._open.clear()
            self._task = background(self._follow(), name="docker events")
        self._wanted.set()
        with contextlib.suppress(TimeoutError):  # an engine without events still has streams that end
            async with asyncio.timeout(2):
                await self._open.wait()
        key = object()
        self._watchers.setdefault(container_id, {})[key] = _Watcher(told, resumed)
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
        """Read the engine's events for ever; log one line when an outage begins and one when they are back.

        A stream that does not last, as of a proxy that cuts each one, is the same outage.
        """
        loop = asyncio.get_running_loop()
        failures, is_told_back = 0, True
        while True:
            opened_at = float("inf")
            try:
                async with contextlib.aclosing(_events(self._endpoint, _FILTERS)) as stream:
                    async for event in stream:
                        if event:
                            self._deliver(event)
                            continue
                        opened_at = loop.time()
                        if not is_told_back:
                            _log.info("docker events are back", attempts=failures)
                        is_told_back = True
                        self._open.set()
                        self._revived()
                        await self._recheck()
                error = "the engine ended them"
            except (OSError, ValueError, RuntimeFailed) as failure:
                error = str(failure) or type(failure).__name__
            if loop.time() - opened_at >= _RECONNECT_SECONDS[1]:
                failures = 0
            if not failures:
                _log.warning("docker events ended", error=error)
                is_told_back = False
            failures += 1
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        """Wait longer after each failure, and no longer than until a session begins: it may have found the engine."""
        first, longest = _RECONNECT_SECONDS
        seconds = min(longest, first * 2 ** min(failures - 1, 10))
        self._wanted.clear()
        await asyncio.sleep(first * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout((seconds - first) * random.uniform(0.5, 1.0)):  # noqa: S311 - as above
                await self._wanted.wait()

    async def _recheck(self) -> None:
        if not self._watchers:
            return
        running = await self._running()
        for container_id in set(self._watchers) - running:
            self._tell(container_id, "stopped")

    def _deliver(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        container_id = actor.get("ID")
        action = str(event.get("Action") or event.get("status"))
        if action == "unpause":
            self._revived()
        if not isinstance(container_id, str) or container_id not in self._watchers:
            return
        if action == "unpause":
            for watcher in list(self._watchers[container_id].values()):
                watcher.resumed()
        attributes = actor.get("Attributes") or {}
        words = {
            "die": f"stopped (its exit status is {attributes.get('exitCode', 'unknown')})",
            "destroy": "was removed",
            "pause": "is paused",
        }
        if word := words.get(action):
            self._tell(container_id, word)

    def _tell(self, container_id: str, word: str) -> None:
        for watcher in list(self._watchers.get(container_id, {}).values()):
            watcher.told(word)


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
