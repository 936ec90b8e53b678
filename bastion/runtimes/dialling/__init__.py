"""Open a byte stream from inside a container's network, with what its image has: python3, perl, nc, socat or bash."""

import asyncio
import ipaddress
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from bastion.errors import ConnectionLost, NoShell, RuntimeFailed
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Event, Name, Request, Target
from bastion.runtimes import Exec, shell
from bastion.runtimes.dialling.script import CONNECTED, HOST, NOTHING, PORT, SCRIPT, TRYING

_CONNECT_LIMIT: Final = 30.0  # seconds until a helper has to have said something; it gives up itself after 20
_WORDS_LIMIT: Final = 4096  # bytes of a helper's standard error that are kept
_PIECE: Final = 64 * 1024

_LABEL: Final = r"(?!-)[A-Za-z0-9_-]{1,63}"
_HOSTNAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")

_HINTS: Final = (
    (("refused",), "nothing listens on {place} in {container}", "is the port right, and does its program run?"),
    (
        ("resolve", "not known", "bad address", "getaddrinfo", "name resolution", "no address"),
        "{container} knows no host of the name in {place}",
        "write localhost for the container itself",
    ),
    (("timed out", "timeout"), "{place} does not answer {container}", "may the container reach it?"),
    (("unreachable", "no route"), "{container} cannot reach {place}", "which networks is the container in?"),
)

Run = Callable[[Target, Request], AbstractAsyncContextManager[Exec]]


def checked(host: str, port: int) -> str:
    """Return HOST:PORT in words, when the host is a hostname or an IP literal and the port is 1 to 65535.

    Raises:
        RuntimeFailed: they are none, and go nowhere.
    """
    try:
        address = ipaddress.ip_address(host) if "%" not in host else None
    except ValueError:
        address = None
    if address is None and not _HOSTNAME.fullmatch(host):
        raise RuntimeFailed("that is no host to connect to", "write a hostname or an IP address, such as localhost")
    if not 0 < port < 2**16:
        raise RuntimeFailed(f"{port} is no port", "write one of 1 to 65535")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def by_exec(run: Run, target: Target, host: str, port: int) -> AsyncIterator["ExecConnection"]:
    """Connect to HOST:PORT by a helper program in the container, which `run`, an adapter's `exec`, starts and ends.

    `Eof` is passed on as a half-close where the helper can: by all but bash, and not where the engine does not forward
    the end of standard input. When the other end closes, both directions end.

    Raises:
        RuntimeFailed: nothing listens there, the image has no helper, or host or port is none.
    """
    place = checked(host, port)
    request = Request(
        uid=uuid.uuid4().hex,
        name=Name(target.service),
        kind="exec",
        command=SCRIPT,
        environment={HOST: host, PORT: str(port), "LC_ALL": "C"},
    )
    if target.shell is not None and shell.for_scripts(target.shell) != target.shell:
        target = replace(target, shell=None)
    async with AsyncExitStack() as running:
        try:
            program = await running.enter_async_context(run(target, request))
            connection = ExecConnection(program, target.container_name, place)
            await connection.open()
        except NoShell as error:
            raise _no_way(target.container_name) from error
        yield connection


class ExecConnection:
    """A connection whose two directions are the standard streams of a helper in the container."""

    def __init__(self, program: Exec, container: str, place: str) -> None:
        self._program = program
        self._events = aiter(program)
        self._container = container
        self._place = place
        self._connected = False
        self._first: list[Data] = []
        self._words = b""

    async def open(self) -> None:
        """Wait until the helper says that it is connected, or, for those that never do, that it tries.

        Raises:
            RuntimeFailed: it is not; says why.
        """
        try:
            async with asyncio.timeout(_CONNECT_LIMIT):
                while not self._connected and TRYING not in self._words:
                    event = await anext(self._events, None)
                    if event is None:
                        raise await self._failure()
                    if (data := self._output(event)) is not None:
                        self._first.append(data)
        except TimeoutError as error:
            raise RuntimeFailed(
                f"{self._place} does not answer {self._container}", "may the container reach it?"
            ) from error

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give what arrives; see the port."""
        while self._first:
            yield self._first.pop()
        async for event in self._events:
            if (data := self._output(event)) is not None:
                yield data
        if (await self._program.wait()).status != 0:
            raise await self._failure()

    async def send(self, event: Event) -> None:
        """Deliver data or the half-close; see the port."""
        match event:
            case Data(payload=payload):
                await self._program.send(Data(STDIN, payload))
            case Eof():
                await self._program.send(event)
            case _:
                return

    def _output(self, event: Event) -> Data | None:
        """Return what arrived, and keep the helper's own words, which are no part of it, apart."""
        if not isinstance(event, Data):
            return None
        if event.stream == STDERR:
            self._words += event.payload[: _WORDS_LIMIT - len(self._words)]
            self._connected = self._connected or CONNECTED in self._words
            return None
        self._connected = True
        return event

    async def _failure(self) -> RuntimeFailed:
        """Say in words what the helper said."""
        if NOTHING in self._words:
            return _no_way(self._container)
        detail = f"{self._words.decode(errors='replace').strip()} (exit {(await self._program.wait()).status})"
        if self._connected:
            return broken(self._place, detail)
        heard = detail.lower()
        for words, public, hint in _HINTS:
            if any(word in heard for word in words):
                return RuntimeFailed(public.format(place=self._place, container=self._container), hint, detail=detail)
        return RuntimeFailed(
            f"{self._container} cannot connect to {self._place}", "the bastion's log says more", detail=detail
        )


@asynccontextmanager
async def by_socket(host: str, port: int, where: str) -> AsyncIterator["SocketConnection"]:
    """Connect to HOST:PORT from this machine, which is called `where` in words.

    Raises:
        RuntimeFailed: nothing listens there, or host or port is none.
    """
    place = checked(host, port)
    try:
        async with asyncio.timeout(_CONNECT_LIMIT):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: what the idna codec says of an over-long label
        detail = str(error)
        if isinstance(error, ConnectionRefusedError) or "refused" in detail.lower():
            raise RuntimeFailed(
                f"nothing listens on {place} in {where}", "is the port right, and does its program run?", detail=detail
            ) from error
        raise RuntimeFailed(f"{where} cannot connect to {place}", "the log says more", detail=detail) from error
    try:
        yield SocketConnection(reader, writer, place)
    finally:
        writer.transport.abort()


class SocketConnection:
    """A TCP connection of this process's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str) -> None:
        self._reader = reader
        self._writer = writer
        self._place = place

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give what arrives; see the port."""
        try:
            while payload := await self._reader.read(_PIECE):
                yield Data(STDOUT, payload)
        except OSError as error:
            raise broken(self._place, str(error)) from error

    async def send(self, event: Event) -> None:
        """Deliver data or the half-close; what comes after the other end has gone is dropped."""
        if self._writer.is_closing():
            return
        try:
            match event:
                case Data(payload=payload):
                    self._writer.write(payload)
                    await self._writer.drain()
                case Eof():
                    self._writer.write_eof()
                case _:
                    return
        except OSError:
            self._writer.transport.abort()


def broken(place: str, detail: str) -> ConnectionLost:
    """Return the error of a connection to `place` that broke before its end."""
    return ConnectionLost(f"the connection to {place} broke", "connect again", detail=detail)


def _no_way(container: str) -> RuntimeFailed:
    return RuntimeFailed(
        f"{container} gives no way to open a connection from inside it",
        "its image needs a shell and one of python3, perl, nc, socat and bash",
    )
