"""The hijacked stream of one exec: its start, its frames taken apart, its input and the half-close of it."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from bastion.model import STDERR, STDOUT, Data
from bastion.runtimes.docker.endpoint import TIMEOUT, Endpoint

_HIGH: Final = 512 * 1024  # bytes held for a slow reader before the socket is left alone
_LOW: Final = 128 * 1024
_STALL: Final = 0.5  # seconds without a read before `stalled` is called
_HEAD_LIMIT: Final = 64 * 1024
_FRAME_HEADER: Final = 8
_WRITE_LIMIT: Final = 256 * 1024  # bytes of input that wait here for a program that does not read


class StartRefused(Exception):
    """The engine answered the start of an exec with an error: its HTTP status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class StreamBroken(Exception):
    """What came is no stream of an exec, or it ended within a frame."""


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
        async with asyncio.timeout(TIMEOUT):
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
        if self._stall is not None and self._held < _LOW:
            self._resume()
        return data

    def insert(self, line: str) -> None:
        """Put a line of the bastion's own into the output, on standard error, behind what has arrived."""
        if not self.ended:
            data = Data(STDERR, line.encode())
            self._output.append(data)
            self._held += len(data.payload)
            self._wake()

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
            self._stall = self._loop.call_later(_STALL, self._stalled)

    def abort(self) -> None:
        """Close both directions at once; what has arrived can still be read."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type that asyncio declares
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_LIMIT)

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
        if self._held > _HIGH and self._bounded and self._stall is None and self._transport is not None:
            self._transport.pause_reading()
            self._stall = self._loop.call_later(_STALL, self._stalled)
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
