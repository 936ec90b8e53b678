"""What a client of SFTP sends, read ahead of the work up to a bound; beyond it the client is held back."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from bastion.errors import BastionError, Malformed
from bastion.files.sftp_wire import Fields, PacketReader
from bastion.model import STDIN, Channel, Data, Eof
from bastion.tasks import background

READ_AHEAD: Final = 1024 * 1024


class Incoming:
    """The packets of one channel, in order; to be entered, and left when no more of them are wanted."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._packets = PacketReader()
        self._seen: Fields | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._said_end = False

    async def __aenter__(self) -> Self:
        self._reading = background(self._read(), name="sftp input", expected=(BastionError,))
        self._reading.add_done_callback(lambda _: self._arrived.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.wait((self._reading,))
        with suppress(asyncio.CancelledError):
            self._reading.exception()  # it has been raised by `take`, or something worse has been

    async def take(self) -> Fields | None:
        """Return the next packet; None when the client has sent its end or has gone.

        Raises:
            Malformed: what was sent is no packet, or ends inside one.
        """
        while (packet := self.peek()) is None:
            if self._reading.done():
                self._reading.result()
                if self._said_end and not self._packets.is_between:
                    raise Malformed("the end of input came inside an SFTP packet")
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._seen = None
        return packet

    def peek(self) -> Fields | None:
        """Return the next packet if it has arrived; it stays the next one.

        Raises:
            Malformed: what was sent is no packet.
        """
        if self._seen is None:
            self._seen = self._packets.take()
            if self._packets.held < READ_AHEAD:
                self._room.set()
        return self._seen

    def drop(self) -> None:
        """Take the packet that was peeked at."""
        self._seen = None

    async def _read(self) -> None:
        async for event in self._channel:
            if isinstance(event, Eof):
                self._said_end = True
                return
            if isinstance(event, Data) and event.stream == STDIN:
                self._packets.feed(event.payload)
                self._arrived.set()
                while self._packets.held >= READ_AHEAD:
                    self._room.clear()
                    await self._room.wait()
