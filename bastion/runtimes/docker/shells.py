"""Which shell a container has: found out once, by asking it, and remembered."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from bastion.errors import NoShell
from bastion.model import Target
from bastion.runtimes import shell

_REMEMBERED: Final = 4096  # containers

Run = Callable[[Target, tuple[str, ...], str | None], Awaitable[bytes]]


class Shells:
    """The shells of containers; `run` runs a command in a target's container as a user, and returns its output."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: OrderedDict[str, str] = OrderedDict()
        self._probing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def of(self, target: Target) -> str:
        """Return bash, or else sh, asked for once per container, however many ask at a time.

        Raises:
            NoShell: it has neither.
        """
        async with self._probing.setdefault(target.container_id, asyncio.Lock()):
            if target.container_id not in self._known:
                self._known[target.container_id] = await self._probe(target)
        self._known.move_to_end(target.container_id)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[target.container_id]

    async def _probe(self, target: Target) -> str:
        found = ""
        for probe in (shell.PROBE, ("bash", "-c", "echo bash")):
            found = (await self._run(target, probe, target.user)).decode(errors="replace").strip()
            if found in ("bash", "sh"):
                return found
        raise NoShell(
            f"the container {target.container_name} has no shell, so neither a shell nor a command can run in it",
            "its image has neither sh nor bash; if it has another shell, the operator can name it for the stack",
            detail=found,
        )
