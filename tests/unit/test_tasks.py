"""Background tasks: every end is handled in one place, and an essential one that fails stops the server."""

import asyncio
import gc
import re
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import bastion
from bastion.app.faults import Faults
from bastion.errors import BastionError
from bastion.metrics import Metrics
from bastion.tasks import background, result_within

STRUCTURED = {
    "tasks.py": 1,  # background itself
    "relay.py": 2,
    "files/serving.py": 2,
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
