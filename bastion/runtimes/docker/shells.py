"""Which shell a container has: found out once, by asking it, and remembered."""

import asyncio
import re
import shlex
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from bastion.errors import NoShell, RuntimeFailed
from bastion.model import Target
from bastion.runtimes import shell

_REMEMBERED: Final = 4096  # containers
_FOUND: Final = "bastion"  # what a chosen shell has to print
_NOT_THERE: Final = ("not found", "no such file")  # what the engine says of a program that will not be there later
_CWD_GONE: Final = re.compile(r'chdir to cwd \("(.*?)"\)')  # runc's words of a working directory that cannot be entered

Run = Callable[[Target, tuple[str, ...], str | None], Awaitable[bytes]]


class Shells:
    """The shells of containers; `run` runs a command in a target's container as a user, and returns its output."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: OrderedDict[tuple[str, str | None], str | None] = OrderedDict()
        self._probing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def of(self, target: Target) -> str:
        """Return the shell chosen for it, or else bash or sh, asked for once per container, however many ask at a time.

        Raises:
            NoShell: it is not there.
            RuntimeFailed: its user or working directory is not there.
        """
        key = (target.container_id, target.shell)
        async with self._probing.setdefault(target.container_id, asyncio.Lock()):
            if key not in self._known:
                self._known[key] = await self._probe(target)
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if (found := self._known[key]) is None:
            raise _no_shell(target, "")
        return found

    async def _probe(self, target: Target) -> str | None:
        """Return the shell; None when there is none, which only another container of that name may change."""
        probes: tuple[tuple[str, ...], ...] = (shell.PROBE, ("bash", "-c", "echo bash"))
        if target.shell is not None:
            probes = ((target.shell, "-c", f"echo {_FOUND}"),)
        answers = []
        for probe in probes:
            answers.append((await self._run(target, probe, target.user)).decode(errors="replace").strip())
            if target.shell is not None and answers[-1] == _FOUND:
                return target.shell
            if target.shell is None and answers[-1] in ("bash", "sh"):
                return answers[-1]
        if error := refusal(target, answers[-1]):
            raise error
        if all(any(words in answer.lower() for words in _NOT_THERE) for answer in answers):
            return None
        raise _no_shell(target, answers[-1])


def refusal(target: Target, detail: str) -> RuntimeFailed | None:
    """Return what the engine's words `detail` say is missing besides a shell; None if they name nothing else."""
    name, words = target.container_name, detail.lower()
    if "passwd file" in words or "unable to find user" in words:
        return RuntimeFailed(
            f"the user chosen for {name} is not in its image",
            "the operator can correct or remove `user` in its [[stacks]] entry or the grant",
            detail=detail,
        )
    if gone := _CWD_GONE.search(detail):
        return RuntimeFailed(
            f"the working directory of {name} is gone",
            f"the operator can make it again: docker exec -w / -u 0 {name} mkdir -p {shlex.quote(gone[1])}",
            detail=detail,
        )
    return None


def _no_shell(target: Target, detail: str) -> NoShell:
    return NoShell(
        f"the container {target.container_name} has no shell, so neither a shell nor a command can run in it",
        "the operator can name, for its stack, an image with one as `toolbox`, or another shell that its image has",
        detail=detail,
    )
