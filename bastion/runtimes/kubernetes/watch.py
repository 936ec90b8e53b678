"""Keep the objects of one kind in one namespace at hand, as small values by name, by a list and a watch behind it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import structlog

from bastion.errors import RuntimeFailed
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, refusal
from bastion.tasks import background

METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
_PAGE: Final = 500
_PAGES: Final = 64
_WATCH_SECONDS: Final = 300
_PAUSES: Final = (0.5, 10.0)  # seconds between attempts to open a watch
_AGE: Final = 1.0  # seconds between two lists
_GONE: Final = 410
_FORBIDDEN: Final = 403

_Kept = TypeVar("_Kept")

_log = structlog.get_logger(__name__)


async def list_pages(
    cluster: Cluster,
    path: str,
    query: Mapping[str, str],
    take: Callable[[Mapping[str, Any]], None],
    *,
    accept: str = "",
) -> str:
    """Give each object of a list, at most 32,000 of them, to `take`; return the version to watch it from.

    Raises:
        Answered: no success; 410 when the list went on for too long to be finished.
        RuntimeUnreachable: the cluster does not answer.
    """
    asked = dict(query) | {"limit": str(_PAGE)}
    version = ""
    for _ in range(_PAGES):
        page = await cluster.get(path, asked, accept=accept)
        found, items = page.get("metadata"), page.get("items")
        metadata = found if isinstance(found, dict) else {}
        for item in items if isinstance(items, list) else []:
            if isinstance(item, dict):
                take(item)
        version = str(metadata.get("resourceVersion") or "")
        if not metadata.get("continue"):
            return version
        asked["continue"] = str(metadata["continue"])
    _log.warning("a list is too long to be read whole", path=path, read=_PAGE * _PAGES)
    return version


class Collection(Generic[_Kept]):
    """The objects at `path` as `read` gives them, by name. `changed` is called with each name that has changed.

    `asked` says in words what reading them is ("list pods in the namespace x"). Nothing is asked before `refresh`.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        read: Callable[[Mapping[str, Any]], _Kept | None],
        *,
        asked: str,
        changed: Callable[[str], None] = lambda _: None,
        metadata_only: bool = False,
    ) -> None:
        self.items: dict[str, _Kept] = {}
        self.is_followed = False
        self.refused: RuntimeFailed | None = None
        self._cluster = cluster
        self._path = path
        self._read = read
        self._asked = asked
        self._changed = changed
        self._accept = METADATA if metadata_only else ""
        self._listing = asyncio.Lock()
        self._listed = 0.0
        self._answered = 0.0
        self._ended = 0.0
        self._failure: RuntimeFailed | None = None
        self._version = ""
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._said = ""

    @property
    def is_current(self) -> bool:
        """Whether it is known as it is: listed once, and followed since."""
        return bool(self._listed) and (self.is_followed or self.refused is not None)

    async def refresh(self) -> None:
        """Have a list that ends after this call, and begins a second after the one before; all who wait share it.

        A kind that may not be listed is no failure: it holds nothing, and `refused` says why.

        Raises:
            RuntimeFailed: the list failed.
        """
        asked_at = time.monotonic()
        async with self._listing:
            if self._ended > asked_at and self._failure is not None:
                raise self._failure
            if self._answered > asked_at:
                return
            if self._listed:
                await asyncio.sleep(max(0.0, self._listed + _AGE - time.monotonic()))
            await self._list()

    def follow(self) -> None:
        """See to it that a task follows the changes from here on, until `close`."""
        if self._task is None or self._task.done():
            self._task = background(self._follow(), name=f"kubernetes watch {self._path}")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _list(self) -> None:
        found: dict[str, _Kept] = {}

        def take(entry: Mapping[str, Any]) -> None:
            kept = self._read(entry)
            if kept is not None:
                found[_name(entry)] = kept

        began = time.monotonic()
        self._failure = None
        try:
            accept = self._accept.format("List")
            self._version = await list_pages(self._cluster, self._path, {}, take, accept=accept)
            self.refused = None
        except Answered as answered:
            failure = refusal(answered, self._asked)
            if answered.status != _FORBIDDEN:
                self._failure = failure
                raise failure from answered
            self._version, self.refused = "", failure
            found = {}
        except RuntimeFailed as error:
            self._failure = error
            raise
        finally:
            self._ended = time.monotonic()
        before, self.items = self.items, found
        self._listed, self._answered = began, time.monotonic()
        self._generation += 1  # what an open watch still says is older than this
        for name in before.keys() | found.keys():
            if before.get(name) != found.get(name):
                self._changed(name)

    async def _follow(self) -> None:
        pause = _PAUSES[0]
        while True:
            began, ended_well = time.monotonic(), False
            try:
                if not self._version:
                    async with self._listing:
                        await self._list()
                if self._version:
                    await self._watch()
                    ended_well = True
            except Answered as answered:
                if answered.status in (_GONE, _FORBIDDEN):
                    self._version = ""
                self._say(str(answered))
            except RuntimeFailed as error:
                self._say(f"{error.public} {error.detail}".strip())
            except TimeoutError:
                self._say("the server did not end it in time")
            lasted = time.monotonic() - began > _PAUSES[1]
            pause = _PAUSES[0] if lasted else min(pause * 2, _PAUSES[1])
            if ended_well and lasted:
                continue
            await asyncio.sleep(_PAUSES[1] if self.refused is not None else pause)

    async def _watch(self) -> None:
        generation = self._generation
        query = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        accept = self._accept.format("")
        events = self._cluster.watch(self._path, query, accept=accept, opened=self._opened)
        try:
            async with asyncio.timeout(_WATCH_SECONDS * 1.2), contextlib.aclosing(events):
                async for event in events:
                    if generation != self._generation:
                        return
                    self._take(event)
        finally:
            self.is_followed = False

    def _opened(self) -> None:
        self.is_followed = True
        self._said = ""

    def _say(self, error: str) -> None:
        """Log why the watch ended or cannot be opened, once until it is open again."""
        if error != self._said:
            _log.info("a watch ended", path=self._path, error=error)
        self._said = error

    def _take(self, event: Mapping[str, Any]) -> None:
        found = event.get("object")
        entry: Mapping[str, Any] = found if isinstance(found, dict) else {}
        if event.get("type") == "ERROR":
            code = entry.get("code")
            raise Answered.of(code if isinstance(code, int) else 500, entry)
        metadata = entry.get("metadata")
        if not isinstance(metadata, dict):
            return
        self._version = str(metadata.get("resourceVersion") or self._version)
        kept = self._read(entry)
        if event.get("type") in ("ADDED", "MODIFIED") and kept is not None:
            self.items[_name(entry)] = kept
        elif event.get("type") == "DELETED":
            self.items.pop(_name(entry), None)
        else:
            return
        self._changed(_name(entry))


def _name(entry: Mapping[str, Any]) -> str:
    return str((entry.get("metadata") or {}).get("name"))
