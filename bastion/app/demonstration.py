"""Find or make something that the demo can serve: labelled containers, a throwaway one, or local processes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bastion.app.adapters import build_runtimes
from bastion.config import Settings
from bastion.errors import NoSuchTarget, RuntimeUnreachable
from bastion.runtimes import Runtime

DEMO_NAME = ("mystack", "web")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the demo serves: its runtimes, the (stack, service) pairs one may try, and a line that says what it is."""

    runtimes: Mapping[str, Runtime]
    names: Sequence[tuple[str, str]]
    words: str


@asynccontextmanager
async def demonstrate(settings: Settings, owner: str) -> AsyncIterator[Demonstration]:
    """Find something to enter: labelled containers that run, else a throwaway one, else local processes.

    `owner` tells this demo's throwaway container from another's; it is removed when the context is left.
    """
    async with AsyncExitStack() as cleanup:
        try:
            found = await _containers(settings, owner, cleanup)
        except RuntimeUnreachable as error:
            found = _local_processes(error.public)
        yield found


async def _containers(settings: Settings, owner: str, cleanup: AsyncExitStack) -> Demonstration:
    from bastion.runtimes.docker.throwaway import Throwaway  # noqa: PLC0415 - only for the demo

    runtimes = build_runtimes(settings)
    throwaway = Throwaway(settings.docker.host, owner)
    await asyncio.to_thread(throwaway.remove)  # what a killed demo left is not to be mistaken for a service
    if names := await _enterable(runtimes):
        return Demonstration(runtimes, names, f"services of this Docker Engine that can be entered: {len(names)}")
    cleanup.push_async_callback(asyncio.to_thread, throwaway.remove)
    if (image := await asyncio.to_thread(throwaway.start, *DEMO_NAME)) is None:
        return _local_processes("this Docker Engine runs no labelled container and has no image with a shell")
    return Demonstration(runtimes, [DEMO_NAME], f"web@mystack is a throwaway container of the image {image}")


async def _enterable(runtimes: Mapping[str, Runtime]) -> list[tuple[str, str]]:
    names = []
    for runtime in runtimes.values():
        for stack, service in await runtime.services():
            with contextlib.suppress(NoSuchTarget):  # the service has stopped meanwhile
                targets = await runtime.find(stack, service) if stack != "docker" else []  # "docker" is unlabelled
                if targets and not targets[0].hazards:
                    names.append((stack, service))
    return names


def _local_processes(why: str) -> Demonstration:
    from bastion.runtimes.process import ProcessRuntime  # noqa: PLC0415 - only for the demo

    user = "nobody" if os.geteuid() == 0 else None
    runtime = ProcessRuntime(*DEMO_NAME, user=user)
    words = f"{why}: web@mystack is a shell on this machine itself, as {user or 'you'}"
    return Demonstration({runtime.name: runtime}, [DEMO_NAME], words)
