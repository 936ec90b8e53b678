"""One session while it lives: its record, its traffic, who watches it, and the one way to end it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bastion.config import GrantSettings
from bastion.errors import BastionError
from bastion.model import STDIN, Data, Event, Session, Terminal, now
from bastion.sessions.watching import Watchers

MOVED_BYTES: Final = 2**20


class LiveSession:
    """One session while it lives: its record, its traffic, and the one way to end it.

    `bytes_in` counts what the client sent, `bytes_out` what the container sent; `active_at` is when anything last went
    either way, on the event loop's clock. `tell` shows the user one line of the bastion's own. `transcript_bytes`
    returns the size of the transcript, which never shrinks; `moved` is called after each MOVED_BYTES of traffic.
    `changed` is called with the session's uid and the fields of its record that were replaced.
    """

    def __init__(
        self, session: Session, grant: GrantSettings | None = None, changed: Callable[..., None] | None = None
    ) -> None:
        self.session = session
        self.grant = grant
        self._changed = changed
        self.bytes_in = 0
        self.bytes_out = 0
        self.active_at = asyncio.get_running_loop().time()
        self.watchers = Watchers()
        self.terminal: Terminal | None = None
        self.tell: Callable[[str], None] = lambda _line: None
        self.transcript_bytes: Callable[[], int] = lambda: 0
        self.moved: Callable[[], None] = lambda: None
        self._moved_at = 0
        self._reason: BastionError | None = None
        self._task: asyncio.Task[object] | None = None

    def update(self, **changes: object) -> None:
        """Replace the record by one with these fields changed, and note when its state became `provisioning`."""
        if changes.get("state") == "provisioning" and self.session.provisioning_at is None:
            changes["provisioning_at"] = now()
        self.session = self.session.model_copy(update=changes)
        if self._changed is not None:
            self._changed(self.session.uid, **changes)

    def count(self, event: Event) -> None:
        """Add the event's bytes to the session's traffic, and note when it was."""
        self.active_at = asyncio.get_running_loop().time()
        if isinstance(event, Data):
            if event.stream == STDIN:
                self.bytes_in += len(event.payload)
            else:
                self.bytes_out += len(event.payload)
            if (traffic := self.bytes_in + self.bytes_out) - self._moved_at >= MOVED_BYTES:
                self._moved_at = traffic
                self.moved()

    def publish(self, event: Event) -> None:
        """Show the event to those who watch; never waits."""
        self.watchers.publish(event)

    def end(self, reason: BastionError) -> None:
        """End the session for this reason; the first reason counts, and what is already ending is left alone."""
        if self._reason is None:
            self._reason = reason
            if self._task is not None:
                self._task.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let `end` stop what runs inside, as the reason it was given.

        Outside of this block `end` stops nothing, so that clean-up is never cut short.

        Raises:
            BastionError: the reason that `end` was given.
        """
        self._raise_reason()
        self._task = task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._reason is not None and task is not None and task.uncancel() == 0:
                self._raise_reason()
            raise  # cancelled from outside, not by `end`
        finally:
            self._task = None

    def _raise_reason(self) -> None:
        if self._reason is not None:
            raise self._reason from None
