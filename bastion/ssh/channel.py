"""One SSH session channel becomes events, and events become what the client sees."""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Protocol

import asyncssh
from asyncssh.packet import SSHPacket, String, UInt32

from bastion.errors import BastionError, ClientGone
from bastion.model import STDERR, STDIN, Data, Eof, Event, Exit, Identity, Name, Request, Resize, Signal, Terminal
from bastion.ssh.guard import Guard

EVENTS_HELD = 1024
EVENTS_MOST = 65536
SMALL = 16 * 1024  # bytes; pieces of input below that are put together while they wait
REQUESTS_HELD = 64
LEAST_PACKET = 1024  # bytes; each packet costs one of its own size and 36 bytes more, so that less would stall the loop

_ENVIRONMENT_NAME = re.compile(r"LANG|LC_[A-Z]{1,32}|COLORTERM|BASTION_[A-Z_]{1,32}")
_ENVIRONMENT_VALUE = re.compile(r"[A-Za-z0-9._@:/+-]{0,256}")
_SIGNALS = frozenset(
    ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
)
_TERM = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_MOST_VARIABLES = 32
_MOST_CHARACTERS = 4096


class Host(Protocol):
    """What a channel needs of the connection it belongs to."""

    identity: Identity
    name: Name
    guard: Guard

    @property
    def client(self) -> str:
        """The version that the client's program gave."""
        ...

    def start(self, request: Request, channel: "SessionChannel") -> Coroutine[None, None, None]:
        """Carry the request out on the channel."""
        ...

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run the work as a task that lives on when the connection has gone."""
        ...

    def drop(self, why: str) -> None:
        """End the connection at once: its client does what none in good faith does."""
        ...

    def closed(self, channel: "SessionChannel") -> None:
        """Count a channel as closed."""
        ...


class SessionChannel(asyncssh.SSHServerSession[bytes]):
    """One `session` channel (RFC 4254 §6): asyncssh calls in, the gateway iterates, sends, says and exits."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._terminal: Terminal | None = None
        self._kind: str | None = None
        self._command: str | None = None
        self._events: deque[Event | bytearray] = deque()
        self._arrived = asyncio.Event()
        self._held = 0
        self._window_open = asyncio.Event()
        self._window_open.set()
        self._environment: dict[str, str] = {}
        self._ended: BastionError | None = None
        self._gone: BastionError | None = None
        self._finished = False
        self._when_ended: Callable[[BastionError], None] | None = None

    # What asyncssh calls. An exception in any of these would end the whole connection, so they only take notes.

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Remember the channel to answer on, and bound what asyncssh itself would keep of it."""
        self._chan = chan
        self._process = chan.process_packet
        chan._deliver_data = self.data_received  # type: ignore[method-assign]  # noqa: SLF001 - see `_open_window`
        chan.process_packet = self._watch  # type: ignore[method-assign,assignment] # asyncssh passes by position
        # asyncssh looks these four up by name.
        chan._process_env_request = self._take_variable  # type: ignore[method-assign]  # noqa: SLF001
        chan._process_exec_request = self._take_command  # type: ignore[method-assign]  # noqa: SLF001
        chan._process_subsystem_request = self._take_subsystem  # type: ignore[method-assign]  # noqa: SLF001
        self._process_terminal = chan._process_pty_req_request  # noqa: SLF001
        chan._process_pty_req_request = self._take_terminal  # type: ignore[method-assign]  # noqa: SLF001
        if chan._send_pktsize < LEAST_PACKET:  # noqa: SLF001 - no public name
            self._host.drop(f"packets of less than {LEAST_PACKET} bytes are not served")

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: object) -> bool:
        """Accept a terminal unless the key forbids one; a TERM that is no plain word becomes "dumb"."""
        if not self._host.identity.may_pty or self._kind is not None:
            return False
        columns, rows = _size(term_size[0], term_size[1])
        self._terminal = Terminal(term_type if _TERM.fullmatch(term_type) else "dumb", columns, rows)
        return True

    def shell_requested(self) -> bool:
        """Accept; whether this user may is the gateway's to say, in words."""
        self._kind = "shell"
        return True

    def exec_requested(self, command: str) -> bool:
        """Accept a command of any length and content; it is handed whole to the container's shell.

        Surrogates stand for bytes that are not UTF-8 (PEP 383).
        """
        self._kind, self._command = "exec", command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept, so that the gateway can refuse in words what OpenSSH would refuse without any."""
        self._kind, self._command = "subsystem", subsystem[:_MOST_CHARACTERS]
        return True

    def session_started(self) -> None:
        """Hand the request to the gateway."""
        request = Request(
            uid=secrets.token_hex(8),
            name=self._host.name,
            kind=self._kind,  # type: ignore[arg-type] # one of the three has been set
            command=self._command,
            terminal=self._terminal,
            environment=dict(self._environment),
            client=self._host.client,
        )
        self._host.keep(self._host.start(request, self))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Queue input; the channel's window holds the client back while much of it waits."""
        self._held += len(data)
        last = self._events[-1] if self._events else None
        if isinstance(last, bytearray) and len(last) + len(data) <= SMALL:
            last += data
        else:
            self._put(bytearray(data) if len(data) < SMALL else Data(STDIN, data))

    def eof_received(self) -> bool:
        """Queue the end of input, and keep the channel open for the output that follows it."""
        self._put(Eof())
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """Queue the new size, in order with the input; of several in a row the last is enough."""
        if self._events and isinstance(self._events[-1], Resize):
            self._events.pop()
        self._put(Resize(*_size(width, height)))

    def signal_received(self, signal: str) -> None:
        """Queue a signal of the client's, in order with the input."""
        if signal in _SIGNALS and len(self._events) <= EVENTS_HELD:
            self._put(Signal(signal))

    def pause_writing(self) -> None:
        """Note that the client's window is full."""
        self._window_open.clear()

    def resume_writing(self) -> None:
        """Note that the client's window has room again."""
        self._window_open.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the channel is closed, by whichever side."""
        self._host.closed(self)
        self._gone = ClientGone("the client went away")
        self._window_open.set()
        self._arrived.set()
        if not self._finished:
            self.end(self._gone)

    def end(self, reason: BastionError) -> None:
        """End what runs on the channel, or will: a request whose container is still looked for does not start."""
        self._ended = self._ended or reason
        if self._when_ended is not None:
            self._when_ended(self._ended)

    def _watch(self, number: int, sequence: int, packet: SSHPacket) -> bool | Awaitable[None]:
        """Let a packet through; asyncssh tells of no close behind input it holds, as until a program is asked for."""
        if number == asyncssh.constants.MSG_CHANNEL_CLOSE:
            self._chan.resume_reading()
        result = self._process(number, sequence, packet)
        if len(self._chan._request_queue) > REQUESTS_HELD:  # noqa: SLF001 - some requests are answered one at a time
            self._host.drop("too many requests at once")
        return result

    def _take_variable(self, packet: SSHPacket) -> bool:
        """Keep a variable that may enter a container; asyncssh would keep any number of any length."""
        name, value = (packet.get_string().decode("ascii", "replace") for _ in range(2))
        packet.check_end()
        if not (_ENVIRONMENT_NAME.fullmatch(name) and _ENVIRONMENT_VALUE.fullmatch(value)):
            return False
        if name not in self._environment and len(self._environment) >= _MOST_VARIABLES:
            return False
        self._environment[name] = value
        return True

    def _take_command(self, packet: SSHPacket) -> bool:
        """Start a command of any bytes.

        asyncssh 2.24.1 refuses one that is not UTF-8 before the session hears of it, and OpenSSH's client shows "exec
        request failed on channel 0". Pinned by test_C3_a_command_of_any_bytes_arrives_whole.
        """
        command = packet.get_string().decode("utf-8", "surrogateescape")
        packet.check_end()
        return self._chan._start_session(command=command)  # noqa: SLF001 - no public name

    def _take_subsystem(self, packet: SSHPacket) -> bool:
        """Start a subsystem of any name, for the gateway to refuse in words: asyncssh 2.24.1 takes ASCII only."""
        subsystem = packet.get_string().decode("utf-8", "surrogateescape")
        packet.check_end()
        return self._chan._start_session(subsystem=subsystem)  # noqa: SLF001 - no public name

    def _take_terminal(self, packet: SSHPacket) -> bool:
        """Request a terminal whatever TERM is: asyncssh 2.24.1 ends the connection where it is not ASCII."""
        term = packet.get_string()
        rest = packet.get_remaining_payload()
        return self._process_terminal(SSHPacket(String(term if term.isascii() else b"dumb") + rest))

    # What the gateway and the relay call.

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give what the client sends, in order, until it has gone."""
        while True:
            while not self._events:
                if self._gone is not None:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            event = self._events.popleft()
            if isinstance(event, bytearray):
                event = Data(STDIN, bytes(event))
            if isinstance(event, Data):
                self._held -= len(event.payload)
                self._open_window()
            yield event

    async def send(self, event: Event) -> None:
        """Write output, and wait while the client does not take it.

        Raises:
            ClientGone: the channel is closed.
        """
        if not isinstance(event, Data):
            return
        await self._window_open.wait()
        await self._host.guard.clear()  # last: nothing but our own writing shuts the window again
        if self._gone is not None or self._chan.is_closing():
            raise ClientGone("the client went away")
        with self._host.guard.corked():
            self._chan.write(event.payload, asyncssh.EXTENDED_DATA_STDERR if event.stream == STDERR else None)

    def say(self, line: str) -> None:
        """Show the client one line of the bastion's own, on standard error."""
        if self._gone is None and not self._finished and not self._chan.is_closing():
            text = "".join(c if c.isprintable() else "?" for c in line[:_MOST_CHARACTERS])
            ending = "\r\n" if self._terminal is not None else "\n"
            self._chan.write((text + ending).encode(), asyncssh.EXTENDED_DATA_STDERR)

    def exit(self, status: Exit) -> None:
        """Tell the client how it ended and close the channel; the first call counts."""
        if self._gone is not None or self._finished:
            return
        self._finished = True
        if status.signal is not None:
            self._chan.exit_with_signal(status.signal)
        else:
            self._chan.exit(status.status)

    def when_ended(self, callback: Callable[[BastionError], None]) -> None:
        """Call back when the client goes before `exit`, or the connection is ended; at once if that has been."""
        self._when_ended = callback
        if self._ended is not None:
            callback(self._ended)

    def _put(self, event: Event | bytearray) -> None:
        self._events.append(event)
        self._arrived.set()
        if len(self._events) > EVENTS_MOST:
            self._host.drop("too many small pieces of input at once")

    def _open_window(self) -> None:
        """Let the client send as much more as is not held here.

        asyncssh opens the whole window again whenever it hands something on, whatever else it still holds, so that
        a program which reads slowly would have it hold more and more.
        """
        whole = self._chan._init_recv_window  # noqa: SLF001 - no public names
        more = whole - self._chan._recv_window - self._held  # noqa: SLF001
        if more >= whole // 2 and self._gone is None and not self._chan.is_closing():
            self._chan._recv_window += more  # noqa: SLF001
            self._chan.send_packet(asyncssh.constants.MSG_CHANNEL_WINDOW_ADJUST, UInt32(more))


def _size(columns: int, rows: int) -> tuple[int, int]:
    """Return a terminal size an engine accepts: OpenSSH without a terminal of its own sends 0 × 0."""
    return min(columns, 65535) or 80, min(rows, 65535) or 24
