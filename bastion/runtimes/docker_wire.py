"""Speak the two requests of the Docker Engine that stay open: the hijacked stream of an exec, and the events."""

import asyncio
import json
import socket
import urllib.parse
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bastion.errors import ConfigurationError
from bastion.model import STDERR, STDOUT, Data

HIGH: Final = 512 * 1024  # bytes held for a slow reader before the socket is left alone
LOW: Final = 128 * 1024
STALL: Final = 0.5  # seconds without a read before `stalled` is called

_HEAD_LIMIT: Final = 64 * 1024
_FRAME_HEADER: Final = 8
_SYSTEM_ERROR: Final = 3
_LINE_LIMIT: Final = 1024 * 1024
_TIMEOUT: Final = 20.0


class StartRefused(Exception):
    """The engine answered the start of an exec with an error: its HTTP status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class StreamBroken(Exception):
    """What came is no stream of an exec, or it ended within a frame."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a unix socket's path, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, address: str) -> "Endpoint":
        """Read unix:///PATH or tcp://HOST:PORT.

        Raises:
            ConfigurationError: it is none of the two. TLS and ssh:// cannot close one direction only, so that
                `… | ssh web sort` would lose its output.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return cls(path=parts.path)
        try:
            if parts.scheme == "tcp" and parts.hostname and not parts.path.strip("/"):
                return cls(host=parts.hostname, port=parts.port or 2375)
        except ValueError as error:
            raise ConfigurationError(f"docker host {address!r}: {error}", "write tcp://HOST:PORT") from error
        hint = "use unix:///PATH or tcp://HOST:PORT"
        if parts.scheme in ("http", "https", "ssh"):
            hint += "; forward a remote engine's socket here with ssh -NL /run/engine.sock:/var/run/docker.sock HOST"
        raise ConfigurationError(f"docker host {address!r} cannot be used", hint)

    def probe(self) -> None:
        """Connect to a unix socket and let go again; blocks.

        Raises:
            OSError: nobody listens. The SDK would leave its own socket open on that.
        """
        if self.path is not None:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_TIMEOUT)
                probe.connect(self.path)

    async def open(self, stream: "ExecStream") -> None:
        """Connect the stream to the engine."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: stream, self.path)
        else:
            await loop.create_connection(lambda: stream, self.host, self.port)

    async def open_streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and return the two ends."""
        if self.path is not None:
            return await asyncio.open_unix_connection(self.path, limit=_LINE_LIMIT)
        return await asyncio.open_connection(self.host, self.port, limit=_LINE_LIMIT)


class Frames:
    """Take apart the stream of an exec without a terminal: 8-byte headers (stream, 3 zeros, length), split anywhere.

    Source: Docker Engine API, "Attach to a container", stream format.
    """

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    @property
    def between(self) -> bool:
        """Whether the stream may end here: no frame is half read."""
        return not self._left and not self._header

    def feed(self, chunk: bytes) -> list[Data]:
        """Return what the chunk holds, in order; neighbours of one stream become one piece.

        Raises:
            StreamBroken: a header that no engine sends, or an error of the engine's in the middle of the stream.
        """
        found: list[tuple[int, list[memoryview]]] = []
        view = memoryview(chunk)
        at = 0
        while at < len(view):
            if not self._left:
                take = _FRAME_HEADER - len(self._header)
                self._header += view[at : at + take]
                at += take
                if len(self._header) < _FRAME_HEADER:
                    break
                self._stream, self._left = self._header[0], int.from_bytes(self._header[4:])
                if self._header[1:4] != b"\0\0\0" or self._stream not in (STDOUT, STDERR):
                    raise StreamBroken(f"a frame of stream {self._stream}: {bytes(view[at : at + 200])!r}")
                self._header = b""
                continue
            piece = view[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if found and found[-1][0] == self._stream:
                found[-1][1].append(piece)
            else:
                found.append((self._stream, [piece]))
        return [Data(stream, b"".join(pieces)) for stream, pieces in found]


class ExecStream(asyncio.Protocol):
    """One exec's hijacked connection: starts it, gives its output as `Data`, takes its input, half-closes.

    It parses in the protocol itself: an asyncio StreamReader would copy every byte twice more. Nothing is sent before
    the 101 has come, since the engine loses what arrives with the request.
    """

    def __init__(self, *, tty: bool, stalled: Callable[[], None]) -> None:
        self._frames = None if tty else Frames()
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._waiting: asyncio.Future[None] | None = None
        self._output: deque[Data] = deque()
        self._held = 0
        self._bounded = True
        self._stall: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Exception | None = None
        self.ended = False

    async def start(self, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> None:
        """Open the connection, start the exec and wait for the 101.

        Raises:
            StartRefused: the engine says no.
            OSError: it does not answer.
        """
        async with asyncio.timeout(_TIMEOUT):
            await endpoint.open(self)
            content = json.dumps(body).encode()
            head = (
                f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
                f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            assert self._transport is not None  # noqa: S101 - open() has called connection_made
            self._transport.write(head.encode() + content)
            await self._started

    async def read(self) -> Data | None:
        """Return the next piece of output; None at its end.

        Raises:
            StreamBroken: the connection ended within a frame, or what came is no stream.
        """
        while not self._output:
            if self.ended:
                if self._error is not None:
                    raise self._error
                return None
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        data = self._output.popleft()
        self._held -= len(data.payload)
        if self._stall is not None and self._held < LOW:
            self._resume()
        return data

    async def write(self, payload: bytes) -> None:
        """Send input, and wait while the engine takes no more; once the stream is over it is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(payload)
        await self._writable.wait()

    def write_eof(self) -> None:
        """Close our direction only, after what was written."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def drain_all(self) -> None:
        """Hold all that comes from now on: the program has ended, and its engine drops after 2 s what nobody took."""
        self._bounded = False
        self._resume()

    def wait_longer(self) -> None:
        """Have `stalled` called again if there is still no read in a while."""
        if self._stall is not None and not self.ended:
            self._stall = self._loop.call_later(STALL, self._stalled)

    def abort(self) -> None:
        """Close both directions at once; what has arrived can still be read."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type that asyncio declares
        self._transport = transport
        transport.set_write_buffer_limits(high=256 * 1024)

    def data_received(self, data: bytes) -> None:
        """Take what the engine sent: the answer's head, then output."""
        if not self._started.done():
            self._head += data
            if len(self._head) > _HEAD_LIMIT:
                self._fail(StreamBroken("the engine's answer has no end"))
                return
            head, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank or not self._answered(head, data):
                return
        if not data:
            return
        try:
            found = self._frames.feed(data) if self._frames else [Data(STDOUT, data)]
        except StreamBroken as error:
            self._fail(error)
            return
        self._output.extend(found)
        self._held += sum(len(piece.payload) for piece in found)
        if self._held > HIGH and self._bounded and self._stall is None and self._transport is not None:
            self._transport.pause_reading()
            self._stall = self._loop.call_later(STALL, self._stalled)
        self._wake()

    def eof_received(self) -> None:
        """Close: the engine closes last, and input that it did not take would keep a plain close waiting for ever."""
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the output, and everybody's waiting."""
        self.ended = True
        if self._error is None and self._frames and not self._frames.between:
            self._error = StreamBroken("the stream ended within a frame")
        if self._error is None and exc is not None:
            self._error = StreamBroken(str(exc))
        if self._stall is not None:
            self._stall.cancel()
        if not self._started.done():
            self._answered_partly()
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        """Hold writers back: the program does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    def _answered(self, head: bytes, body: bytes) -> bool:
        """Read the status line; say whether the stream is open."""
        words = head.split(b"\r\n")[0].split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if status in (101, 200):
            self._head = b""
            self._started.set_result(None)
            return True
        try:
            message = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            return False  # more of the body is to come; the engine closes the connection behind it or we time out
        self._refuse(StartRefused(status, message))
        return False

    def _answered_partly(self) -> None:
        words = self._head.split(b" ", 2)
        if len(words) > 1 and words[1].isdigit():
            self._refuse(StartRefused(int(words[1]), self._head[-1000:].decode(errors="replace")))
        else:
            self._refuse(ConnectionResetError("the engine closed the connection"))

    def _refuse(self, error: Exception) -> None:
        if not self._started.done():
            self._started.set_exception(error)
        self.abort()

    def _fail(self, error: Exception) -> None:
        self._error = error
        if not self._started.done():
            self._started.set_exception(ConnectionResetError(str(error)))
        self.abort()

    def _resume(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


async def events(endpoint: Endpoint, filters: Mapping[str, list[str]]) -> AsyncGenerator[dict[str, Any], None]:
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
        async with asyncio.timeout(_TIMEOUT):
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
