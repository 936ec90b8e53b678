"""Background tasks: every end is handled in one place, and an essential one that fails stops the server."""

import asyncio
import gc
import re
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import bastion
from bastion.app.faults import Faults
from bastion.errors import BastionError
from bastion.metrics import Metrics
from bastion.tasks import background, race, result_within, unpaused_timeout

STRUCTURED = {
    "tasks.py": 1,  # background itself
    "api/watch.py": 2,
    "runtimes/kubernetes/exec.py": 2,
}
"""How many tasks each file starts that the same function awaits, whatever happens."""


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def faults() -> tuple[Faults, Metrics, asyncio.Event]:
    metrics, stop = Metrics(), asyncio.Event()
    return Faults(metrics, stop.set), metrics, stop


def test_every_other_task_is_started_by_background() -> None:
    """No module but those listed starts a task by itself; each of those awaits its own."""
    root = Path(bastion.__file__).parent
    counts = {
        str(path.relative_to(root)): len(re.findall(r"\b(?:create_task|ensure_future)\(", path.read_text()))
        for path in root.rglob("*.py")
    }
    assert {path: count for path, count in counts.items() if count} == STRUCTURED


async def test_a_fault_is_one_line_and_one_count() -> None:
    """The line has the task's name and the error; the server goes on."""
    handler, metrics, stop = faults()
    with capture_logs() as lines:
        task = background(fail(ValueError("unforeseen")), name="the task")
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], str(line["exc_info"])) for line in lines] == [
        ("internal error", "the task", "unforeseen")
    ]
    assert b"bastion_internal_errors_total 1.0" in metrics.render()
    assert not stop.is_set()
    handler.raise_fatal()


async def test_what_is_expected_is_silent_and_never_reported_as_unretrieved(caplog: pytest.LogCaptureFixture) -> None:
    """An expected error and a cancelled task leave no line; another BastionError leaves one warning."""
    _, metrics, _ = faults()
    with capture_logs() as lines:
        tasks: set[asyncio.Task[Any]] = {
            background(fail(BastionError("known")), name="1", expected=(BastionError,)),
            background(fail(BastionError("the disk is full")), name="2"),
            background(asyncio.sleep(3600), name="3"),
        }
        await asyncio.sleep(0)
        for task in tasks:
            if task.get_name() == "3":
                task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        tasks.clear()
        del task
        gc.collect()
    assert [(line["log_level"], line["task"], line["reason"]) for line in lines] == [
        ("warning", "2", "the disk is full")
    ]
    assert not caplog.records
    assert b"bastion_internal_errors_total 0.0" in metrics.render()


async def test_an_essential_task_that_fails_stops_the_server_with_its_error() -> None:
    """The failure asks the server to stop, and is raised where the server has stopped."""
    handler, _, stop = faults()
    with capture_logs():
        async with handler.running(fail(ValueError("unforeseen")), "keys"):
            await asyncio.wait_for(stop.wait(), 5)
    with pytest.raises(ValueError, match="unforeseen"):
        handler.raise_fatal()


async def test_a_caller_that_waits_no_longer_leaves_the_task_running() -> None:
    """After its seconds the caller gets TimeoutError, and the task's result all the same if it asks again."""
    release = asyncio.Event()

    async def work() -> int:
        await release.wait()
        return 7

    task = background(work(), name="slow")
    with pytest.raises(TimeoutError):
        await result_within(task, 0.01)
    release.set()
    assert await result_within(task, 5) == 7


async def test_F10_a_pause_of_the_process_is_no_timeout() -> None:
    """What waits with a second to go is not timed out by a stop of two; without a stop it is."""
    async with unpaused_timeout(1.0):
        await asyncio.sleep(0.1)
        time.sleep(2.0)  # noqa: ASYNC251 - stops the loop as SIGSTOP stops the process
        await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        async with unpaused_timeout(0.05):
            await asyncio.Event().wait()


async def test_a_race_ends_both_and_raises_what_broke_it() -> None:
    """The one beside may end first; what it raises ends the race; neither is left running."""

    async def answer() -> int:
        await asyncio.sleep(0.01)
        return 7

    async def for_ever() -> int:
        await asyncio.Event().wait()
        return 0

    before = len(asyncio.all_tasks())
    assert await race(answer(), for_ever(), name="1") == 7
    assert await race(answer(), asyncio.sleep(0), name="2") == 7
    with pytest.raises(BastionError, match="broken"):
        await race(for_ever(), fail(BastionError("broken")), name="3")
    assert len(asyncio.all_tasks()) == before
