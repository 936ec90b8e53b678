"""The objects of the stand-in cluster: versions, selectors, and the log of changes that watches read."""

import asyncio
import copy
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tests.cluster.answers import Object, Refused

_LOG_LENGTH: Final = 5000
_REQUIREMENT: Final = re.compile(r"\s*(!?)([\w./-]+)\s*(?:(==|=|!=)\s*([\w.-]*)|\b(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")

Selector = Callable[[Object], bool]
Key = tuple[str, str, str]  # resource such as "pods" or "deployments.apps", namespace ("" for none), name


@dataclass(frozen=True)
class Change:
    """One change: the object before and after; None where there was or is none."""

    version: int
    key: Key
    before: Object | None
    after: Object | None


def now() -> str:
    """Return the present as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects, by resource, namespace and name. What is in here is never changed in place."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self.version = 1000
        self._log: deque[Change] = deque(maxlen=_LOG_LENGTH)
        self._forgotten = self.version  # changes up to this version are not in the log
        self._changed = asyncio.Event()

    def get(self, key: Key) -> Object | None:
        """Return a copy of an object that may be changed and put back; None when there is none."""
        found = self._objects.get(key)
        return None if found is None else copy.deepcopy(found)

    def all(self, resource: str, namespace: str = "") -> Iterator[Object]:
        """Give the objects of a resource in the order of their names, to be read only."""
        for key in sorted(self._objects):
            if key[0] == resource and namespace in ("", key[1]):
                yield self._objects[key]

    def inside(self, namespace: str) -> list[Key]:
        """Return the keys of all objects in a namespace."""
        return [key for key in self._objects if key[1] == namespace]

    def create(self, key: Key, made: Object) -> Object:
        """Add an object, with the metadata a server gives it, and return it.

        Raises:
            Refused: 409, there is one already.
        """
        if key in self._objects:
            resource, _, name = key
            raise Refused(409, f'{resource} "{name}" already exists', {"name": name, "kind": resource.split(".")[0]})
        metadata: Object = (
            {"name": key[2]} | ({"namespace": key[1]} if key[1] else {}) | dict(made.get("metadata") or {})
        )
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        return self.put(key, made | {"metadata": metadata})

    def put(self, key: Key, made: Object) -> Object:
        """Store an object as its next version, unless nothing in it has changed, and return it."""
        before = self._objects.get(key)
        if before is not None and _unversioned(before) == _unversioned(made):
            return before
        after = copy.deepcopy(made)
        after["metadata"]["resourceVersion"] = str(self.version + 1)
        self._objects[key] = after
        self._note(key, before, after)
        return after

    def remove(self, key: Key) -> Object | None:
        """Remove an object; None when there was none."""
        before = self._objects.pop(key, None)
        if before is not None:
            self._note(key, before, None)
        return before

    def since(self, version: int) -> list[Change]:
        """Return the changes after a version.

        Raises:
            Refused: 410, the log does not go back so far.
        """
        if version < self._forgotten:
            raise Refused(410, f"too old resource version: {version} ({self.version})")
        return [change for change in self._log if change.version > version]

    def compact(self) -> None:
        """Forget the log, so that every version but the present is too old."""
        self._log.clear()
        self._forgotten = self.version

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def _note(self, key: Key, before: Object | None, after: Object | None) -> None:
        self.version += 1
        if len(self._log) == _LOG_LENGTH:
            self._forgotten = self._log[0].version
        self._log.append(Change(self.version, key, before, after))
        self._changed.set()
        self._changed = asyncio.Event()


def _unversioned(made: Object) -> Object:
    return made | {"metadata": {key: value for key, value in made["metadata"].items() if key != "resourceVersion"}}


def selector(labels: str, fields: str) -> Selector:
    """Read a labelSelector and a fieldSelector, either may be empty.

    Raises:
        Refused: 400, it cannot be read.
    """
    tests = [*_label_tests(labels), *_field_tests(fields)]
    return lambda made: all(test(made) for test in tests)


def _label_tests(text: str) -> Iterator[Selector]:
    at = 0
    while at < len(text):
        match = _REQUIREMENT.match(text, at)
        if match is None or match.end() == at:
            raise Refused(400, f'unable to parse requirement: found "{text[at:]}"')
        at = match.end()
        yield _label_test(match)


def _label_test(match: re.Match[str]) -> Selector:
    bang, name, operator, value, word, values = match.groups()

    def label(made: Object) -> str | None:
        found: str | None = (made["metadata"].get("labels") or {}).get(name)
        return found

    if word is not None:
        several = {item.strip() for item in values.split(",")}
        return lambda made: (label(made) in several) == (word == "in")
    if operator is not None:
        return lambda made: (label(made) == value) == (operator != "!=")
    return lambda made: (label(made) is None) == bool(bang)


def _field_tests(text: str) -> Iterator[Selector]:
    for part in filter(None, text.split(",")):
        name, operator, value = part.partition("!=") if "!=" in part else part.partition("=")
        if not operator:
            raise Refused(400, f"invalid selector: '{part}'; can't understand '{part}'")
        yield _field_test(name, value.removeprefix("="), equal=operator != "!=")


def _field_test(name: str, value: str, *, equal: bool) -> Selector:
    return lambda made: (_field(made, name) == value) == equal


def _field(made: Object, path: str) -> str:
    found: object = made
    for word in path.split("."):
        found = found.get(word, "") if isinstance(found, dict) else ""
    return str(found)
