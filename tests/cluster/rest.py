"""Answer the REST requests of the stand-in: create, get, list, watch, patch and delete objects in memory."""

import base64
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from tests.cluster.answers import Object, Refused, answer, go_json, not_found
from tests.cluster.controllers import mark_deleted, with_defaults
from tests.cluster.node import Node
from tests.cluster.rights import Where
from tests.cluster.store import Key, selector
from tests.cluster.watch import Watch

_TABLE: Final = "as=PartialObjectMetadata"


class Rest:
    """The verbs over the store; pods are told to the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store
        self.watches = 0  # grows when every open watch is to end

    async def serve(self, request: web.Request, where: Where) -> web.StreamResponse:
        """Answer one request.

        Raises:
            Refused: 400, 404, 405, 409, 410.
        """
        key = (where.resource.full, where.namespace, where.name)
        status = 201 if request.method == "POST" else 200
        match request.method:
            case "GET" if where.name:
                made = self._shown(request, self._existing(key, where))
            case "GET" if request.query.get("watch") in ("true", "1"):
                return await self._watch(request, where)
            case "GET":
                made = self._list(request, where)
            case "POST" if where.subresource == "eviction":
                made = self._delete(where, key, {}, (await body_of(request)).get("deleteOptions") or {})
            case "POST" if not where.name:
                made = self._create(where, await body_of(request), dry="dryRun" in request.query)
            case "PUT" | "PATCH" if where.name:
                made = self._patch(where, key, await body_of(request))
            case "DELETE" if where.name:
                options = await body_of(request) if request.can_read_body else {}
                made = self._delete(where, key, request.query, options)
            case _:
                raise Refused(405, "the server does not allow this method on the requested resource", {})
        return answer(made, status)

    def _existing(self, key: Key, where: Where) -> Object:
        found = self._store.get(key)
        if found is None:
            raise not_found(where.resource.plural, where.resource.group, where.name)
        return {"kind": where.resource.kind, "apiVersion": where.resource.group_version} | found

    def _create(self, where: Where, body: Object, *, dry: bool) -> Object:
        metadata = body.setdefault("metadata", {})
        name = metadata.get("name") or f"{metadata.get('generateName', '')}{time.time_ns() % 100_000:05d}"
        if where.resource.namespaced and self._store.get(("namespaces", "", where.namespace)) is None:
            raise not_found("namespaces", "", where.namespace)
        body |= {"kind": where.resource.kind, "apiVersion": where.resource.group_version}
        if where.resource.full == "pods":
            body = with_defaults(body)
        elif where.resource.full == "namespaces":
            body["status"] = {"phase": "Active"}
        return body if dry else self._store.create((where.resource.full, where.namespace, name), body)

    def _patch(self, where: Where, key: Key, body: Object) -> Object:
        found = self._existing(key, where)
        if where.subresource == "ephemeralcontainers":
            return self._add_ephemeral(key, found, body)
        merged = _merged(found, body)
        if merged.get("spec") != found.get("spec"):
            merged["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        return self._store.put(key, merged)

    def _add_ephemeral(self, key: Key, found: Object, body: Object) -> Object:
        present = found["spec"].setdefault("ephemeralContainers", [])
        names = {one["name"] for kind in ("containers", "initContainers") for one in found["spec"].get(kind, ())}
        for made in (body.get("spec") or {}).get("ephemeralContainers") or ():
            old = next((one for one in present if one["name"] == made["name"]), None)
            if made["name"] in names or (old is not None and old | made != old):
                field = f"spec.ephemeralContainers[{len(present)}].name"
                message = f'Pod "{key[2]}" is invalid: {field}: Duplicate value: "{made["name"]}"'
                raise Refused(422, message, {"name": key[2], "kind": "Pod"})
            if old is None:
                present.append(made)
        put = self._store.put(key, found)
        if (pod := self._node.pod(*key[1:])) is not None:
            pod.add_ephemeral()
        return put

    def _delete(self, where: Where, key: Key, query: Mapping[str, str], body: Object) -> Object:
        found = self._existing(key, where)
        if where.resource.full == "pods":
            grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
            deleted = mark_deleted(self._store, found, None if grace is None else int(grace))
            if grace is not None and int(grace) == 0:
                self._store.remove(key)
            return deleted
        if where.resource.full == "namespaces":
            for name in self._store.inside(where.name):
                self._store.remove(name)
        self._store.remove(key)
        details = {"name": where.name, "kind": where.resource.plural, "uid": found["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _list(self, request: web.Request, where: Where) -> Object:
        matches = selector(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        found = [one for one in self._store.all(where.resource.full, where.namespace) if matches(one)]
        metadata: Object = {"resourceVersion": str(self._store.version)}
        if after := request.query.get("continue"):
            try:
                last = tuple(json.loads(base64.urlsafe_b64decode(after)))
            except ValueError as error:
                raise Refused(400, "continue key is not valid") from error
            found = [one for one in found if _place(one) > last]
        limit = int(request.query.get("limit") or 0)
        if limit and len(found) > limit:
            rest, found = len(found) - limit, found[:limit]
            token = base64.urlsafe_b64encode(json.dumps(_place(found[-1])).encode()).decode()
            metadata |= {"continue": token, "remainingItemCount": rest}
        partial = _TABLE in request.headers.get("Accept", "")
        kind = "PartialObjectMetadataList" if partial else f"{where.resource.kind}List"
        version = "meta.k8s.io/v1" if partial else where.resource.group_version
        items = [_partial(one) if partial else one for one in found]
        return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request, where: Where) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        watches = self.watches

        def is_open() -> bool:
            gone = request.transport is None or request.transport.is_closing()
            return not gone and self.watches == watches

        with contextlib.suppress(ConnectionError):  # the client has gone, as watches end
            await response.prepare(request)
            async for kind, made in Watch(self._store, where, request.query, is_open).events():
                shown = made if kind in ("ERROR", "BOOKMARK") else self._shown(request, made)
                await response.write(f"{go_json({'type': kind, 'object': shown})}\n".encode())
            await response.write_eof()
        return response

    def _shown(self, request: web.Request, made: Object) -> Object:
        return _partial(made) if _TABLE in request.headers.get("Accept", "") else made


async def body_of(request: web.Request) -> Object:
    """Read a request's JSON object.

    Raises:
        Refused: 400 or 415, it is something else.
    """
    try:
        body = await request.json()
    except ValueError as error:
        known = "json" in request.content_type
        words = "couldn't get version/kind; json parse error" if known else "the body is in an unknown format"
        raise Refused(400 if known else 415, words) from error
    if not isinstance(body, dict):
        raise Refused(400, "the body is no object")
    return body


def _place(made: Object) -> tuple[str, str]:
    return made["metadata"].get("namespace", ""), made["metadata"]["name"]


def _partial(made: Object) -> Object:
    metadata = made["metadata"]
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}


def _merged(target: Any, patch: Any) -> Any:
    """Merge as RFC 7386 says."""
    if not isinstance(patch, dict) or not isinstance(target, dict):
        return patch
    made = dict(target)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key, {}), value)
    return made
