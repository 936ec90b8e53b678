"""Read and write a container's files by the engine's archive API, which streams tar."""

import asyncio
import base64
import binascii
import json
import stat
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import httpx

from bastion.errors import ConnectionLost, ContainerEnded, FileFailed, RuntimeFailed
from bastion.model import Target
from bastion.runtimes import Bounds, Look
from bastion.runtimes.docker.endpoint import TIMEOUT, unreachable
from bastion.runtimes.docker.engine import Engine, running
from bastion.runtimes.docker.watch import Watch

_UNSEEN: Final = ("/proc", "/sys", "/dev", "/run/secrets")
_WRITING: Final = 120.0  # seconds in which the engine has unpacked what it got
_STAT: Final = "X-Docker-Container-Path-Stat"
_WORDS: Final = 4096
_TYPES: Final = (  # of Go's os.FileMode; what has none of them is a regular file
    (1 << 31, stat.S_IFDIR),
    (1 << 27, stat.S_IFLNK),
    (1 << 25, stat.S_IFIFO),
    (1 << 24, stat.S_IFSOCK),
    (1 << 21, stat.S_IFCHR),
    (1 << 26, stat.S_IFBLK),
)
_BITS: Final = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))
_REPLACED: Final = "\ufffd"  # what JSON has in the place of a byte that is no UTF-8
_READ_ONLY: Final = "marked read-only"


class Archives:
    """The archive API of one engine, and its connections."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        endpoint = engine.endpoint
        where = f"{endpoint.host}:{endpoint.port}" if endpoint.path is None else "docker"
        self._engine = engine
        self._watch = watch
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=endpoint.path, limits=httpx.Limits(max_connections=None)),
            base_url=f"http://{where}",
            headers={"Accept-Encoding": "identity"},
            timeout=httpx.Timeout(TIMEOUT),
            trust_env=False,
        )

    def of(self, target: Target) -> "DockerArchive":
        """Return the files of one container."""
        return DockerArchive(self._engine, self._watch, self._client, target)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._client.aclose()


class DockerArchive:
    """The files of one container; see the port."""

    def __init__(self, engine: Engine, watch: Watch, client: httpx.AsyncClient, target: Target) -> None:
        self._engine = engine
        self._watch = watch
        self._client = client
        self._target = target

    async def bounds(self) -> Bounds:
        """Return what the container is configured to be; see the port."""
        details = await running(self._engine, self._target)
        config, host = details.get("Config") or {}, details.get("HostConfig") or {}
        mounts = [*(details.get("Mounts") or []), *(host.get("Mounts") or [])]
        hidden = [str(mount.get("Destination") or mount.get("Target")) for mount in mounts if _is_unseen(mount)]
        unseen = dict.fromkeys([*_UNSEEN, *(host.get("Tmpfs") or {}), *hidden])
        folder = str(config.get("WorkingDir") or "/").encode()
        return Bounds(str(config.get("User") or ""), folder, tuple(path.encode() for path in unseen))

    async def look(self, path: bytes) -> Look | None:
        """Return what is at a path; see the port."""
        async with self._asked("HEAD", path) as answer:
            if answer.status_code == httpx.codes.OK:
                return _look(answer.headers.get(_STAT, ""))
        if answer.status_code == httpx.codes.NOT_FOUND:  # of the path or of the container: there are no words with it
            await self._engine.ask("inspect_container", self._target.container_id)
            return None
        async with self.get(path):  # an answer to HEAD has no words, one to this has
            raise FileFailed("the engine does not say what it is")

    @asynccontextmanager
    async def get(self, path: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read as a tar; see the port."""
        async with self._asked("GET", path) as answer:
            if answer.status_code != httpx.codes.OK:
                raise await self._failure(answer)
            yield self._pieces(answer)

    async def put(self, folder: bytes, tar: Iterable[bytes]) -> None:
        """Unpack a tar in a folder; see the port."""

        async def content() -> AsyncIterator[bytes]:
            for piece in tar:
                yield piece

        async with self._asked("PUT", folder, content()) as answer:
            if answer.status_code != httpx.codes.OK:
                raise await self._failure(answer)

    async def over(self) -> RuntimeFailed:
        """Wait until the container ends; see the port."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def told(word: str) -> None:
            if not ended.done():
                ended.set_result(word)

        async with self._watch.on(self._target.container_id, told):
            try:
                await running(self._engine, self._target)
            except RuntimeFailed as error:
                return error
            word = await ended
        return ContainerEnded(
            f"the container {self._target.container_name} {word}", "connect again when its service is back"
        )

    @asynccontextmanager
    async def _asked(
        self, method: str, path: bytes, content: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[httpx.Response]:
        version = ".".join(str(part) for part in await self._engine.api())
        query = f"path={urllib.parse.quote_from_bytes(path, safe='')}"
        query += "&noOverwriteDirNonDir=1" if content is not None else ""
        request = self._client.build_request(
            method,
            f"/v{version}/containers/{self._target.container_id}/archive?{query}",
            content=content,
            headers={"Content-Type": "application/x-tar"} if content is not None else None,
            timeout=httpx.Timeout(TIMEOUT, read=_WRITING if content is not None else TIMEOUT),
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.ConnectError as error:
            raise unreachable(self._engine.host, error) from error
        except httpx.TransportError as error:
            raise self._broken(error) from error
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx.TransportError as error:
            raise self._broken(error) from error

    async def _failure(self, answer: httpx.Response) -> RuntimeFailed | FileFailed:
        """Turn a refusal into our error; what its words mean beyond that is for whoever knows words."""
        text = b""
        async for piece in self._pieces(answer):
            text += piece
            if len(text) >= _WORDS:
                break
        words = _message(text[:_WORDS])
        detail = f"{answer.status_code} {words}"
        if answer.status_code == httpx.codes.NOT_FOUND and words.startswith("No such container"):
            return ContainerEnded(
                f"the container {self._target.container_name} is gone",
                "connect again when its service is back",
                detail=detail,
            )
        if answer.status_code == httpx.codes.NOT_FOUND:
            return FileFailed("no such file", detail=detail, kind="no-such-file")
        if words.endswith(_READ_ONLY):
            return FileFailed("the container's file system is read-only", detail=detail, kind="permission-denied")
        return FileFailed("the engine could not do it", "its log says more", detail=detail)

    def _broken(self, error: Exception) -> ConnectionLost:
        return ConnectionLost(
            f"the engine broke off with a file of {self._target.container_name}",
            "look at what is there, and try again",
            detail=str(error) or type(error).__name__,
        )


def _is_unseen(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "tmpfs"


def _look(header: str) -> Look:
    """Read what the engine says of a path.

    Raises:
        FileFailed: it makes no sense, or a symbolic link leads where JSON has no words for.
    """
    try:
        said = json.loads(base64.b64decode(header, validate=True))
        bits, size, target = int(said["mode"]), int(said["size"]), str(said.get("linkTarget") or "")
        modified = int(datetime.fromisoformat(str(said["mtime"])).timestamp())
    except (binascii.Error, ValueError, KeyError, TypeError, OverflowError) as error:
        raise FileFailed("the engine's answer makes no sense") from error
    mode = next((kind for bit, kind in _TYPES if bits & bit), stat.S_IFREG) | bits & 0o777
    mode |= sum(special for bit, special in _BITS if bits & bit)
    if not stat.S_ISLNK(mode):
        return Look(mode, size, modified)
    if _REPLACED in target or not target.startswith("/"):
        raise FileFailed("a symbolic link whose end the engine cannot tell", kind="unsupported")
    return Look(mode, size, modified, target.encode())


def _message(text: bytes) -> str:
    try:
        said = json.loads(text)
    except ValueError:
        return text.decode(errors="replace").strip()
    return str(said.get("message") if isinstance(said, dict) else said).strip()
