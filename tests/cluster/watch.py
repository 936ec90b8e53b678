"""One watch: the events that a client sees of the store's changes, bookmarks and endings included."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

from tests.cluster.answers import Object, Refused
from tests.cluster.rights import Where
from tests.cluster.store import Change, Selector, Store, selector

_BOOKMARK_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 1800.0
_LOOK_SECONDS: Final = 1.0

Event = tuple[str, Object]


class Watch:
    """A watch over a resource, by the query of its request; it ends when `is_open` says no more, or its time is up."""

    def __init__(self, store: Store, where: Where, query: Mapping[str, str], is_open: Callable[[], bool]) -> None:
        self._store = store
        self._where = where
        fields = f"metadata.name={where.name}" if where.name else query.get("fieldSelector", "")
        self._matches: Selector = selector(query.get("labelSelector", ""), fields)
        self._is_open = is_open
        self._seconds = float(query.get("timeoutSeconds") or _WATCH_SECONDS)
        self._bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        self._version = int(query.get("resourceVersion") or 0)

    async def events(self) -> AsyncIterator[Event]:
        """Give (type, object) in order; after ERROR comes nothing."""
        time = asyncio.get_running_loop().time
        until, bookmark = time() + self._seconds, time() + _BOOKMARK_SECONDS
        if self._version == 0:
            self._version = self._store.version
            for made in list(self._store.all(self._where.resource.full, self._where.namespace)):
                if self._matches(made):
                    yield "ADDED", self._typed(made)
        while time() < until and self._is_open():
            try:
                changes = self._store.since(self._version)
            except Refused as refused:
                yield "ERROR", refused.status()
                return
            for event in self._seen(changes):
                yield event
            if self._bookmarks and time() > bookmark:
                bookmark = time() + _BOOKMARK_SECONDS
                yield "BOOKMARK", self._typed({"metadata": {"resourceVersion": str(self._version)}})
            await self._change(until - time())

    async def _change(self, left: float) -> None:
        """Wait a while for a change, unless one has come meanwhile."""
        if self._store.version == self._version and left > 0:
            waiting = asyncio.ensure_future(self._store.changed())
            await asyncio.wait({waiting}, timeout=min(_LOOK_SECONDS, left))
            waiting.cancel()

    def _seen(self, changes: list[Change]) -> Iterator[Event]:
        for change in changes:
            self._version = change.version
            resource, namespace, _ = change.key
            if resource == self._where.resource.full and self._where.namespace in ("", namespace):
                yield from self._through(change)

    def _through(self, change: Change) -> Iterator[Event]:
        """Say how a change looks through the selector."""
        before = change.before is not None and self._matches(change.before)
        if change.after is not None and self._matches(change.after):
            yield "MODIFIED" if before else "ADDED", self._typed(change.after)
        elif before and change.before is not None:
            metadata = change.before["metadata"] | {"resourceVersion": str(change.version)}
            yield "DELETED", self._typed(change.before | {"metadata": metadata})

    def _typed(self, made: Object) -> Object:
        return {"kind": self._where.resource.kind, "apiVersion": self._where.resource.group_version} | made
