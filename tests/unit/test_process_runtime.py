"""Local processes: an exec that never started leaves no descriptor behind."""

import os

import pytest

from bastion.errors import BastionError, DatabaseFailed
from bastion.model import Name, Request, Target, Terminal
from bastion.runtimes.duties import Duty
from bastion.runtimes.process import ProcessRuntime

TARGET = Target("process", "mystack", "web", "here", "web")


class Unwritable:
    """A record of duties that cannot be written."""

    async def add(self, duty: Duty) -> None:
        raise DatabaseFailed("the sessions' database does not answer")

    def done(self, duty: Duty) -> None:
        """Take note of nothing."""

    def failed(self, duty: Duty, error: BastionError) -> None:
        """Take note of nothing."""

    def retry_now(self) -> None:
        """There is nothing to try."""


@pytest.mark.parametrize("terminal", [None, Terminal("xterm", 80, 24)], ids=["pipes", "terminal"])
async def test_E1_a_program_that_was_not_started_leaves_no_descriptor(terminal: Terminal | None) -> None:
    """When the duty to end it cannot be put on record, the pipes or the terminal made for it are closed again."""
    runtime = ProcessRuntime("mystack", "web", user=None, duties=Unwritable())
    request = Request("0123456789abcdef", Name("web", stack="mystack"), "exec", "true", terminal=terminal)

    async def attempt() -> int:
        with pytest.raises(DatabaseFailed):
            async with runtime.exec(TARGET, request):
                pytest.fail("it was started")
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough

    before = await attempt()
    assert await attempt() == before
