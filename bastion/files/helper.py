"""A long-lived shell in a container that does file operations: it is started, asked, and its answers are told apart."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from bastion.errors import BastionError, ConnectionLost, FileFailed, NoShell, RuntimeFailed
from bastion.files.answers import KEPT, SMALL, Answer, Answers
from bastion.files.handed import Handed
from bastion.files.helper_script import BOOTSTRAP, SLOTS, script, written
from bastion.model import STDIN, STDOUT, Data, Name, Request, Target
from bastion.runtimes import Exec, shell
from bastion.tasks import background

Run = Callable[[Target, Request], AbstractAsyncContextManager[Exec]]

_PIECE: Final = 64 * 1024
_NOISE: Final = 64 * 1024  # bytes that a container may say before the script speaks
_LEAVING: Final = 1.0


@dataclass(frozen=True, slots=True)
class Start:
    """How helpers of one session are started: `run` is its runtime's `exec`, `uid` the session's own.

    With `strict` every path has to be a real one, and no symbolic link that is swapped in leads an operation elsewhere.
    """

    run: Run
    target: Target
    uid: str
    name: Name
    strict: bool = False
    limit: float = 30.0  # seconds without a byte until the container is believed not to answer

    def request(self, number: int) -> Request:
        """Return the request for helper `number`; each has a uid of its own, for what ends one ends all of that uid.

        The number stands in front: where an image has no grep, a uid that begins like another is taken for it.
        """
        uid = self.uid if number == 0 else f"{number}-{self.uid}"
        return Request(uid, self.name, "exec", command=BOOTSTRAP, environment={"LC_ALL": "C"})


@asynccontextmanager
async def started(start: Start, *, number: int = 0, own_server: bool = False) -> AsyncIterator["Helper"]:
    """Start a helper, or, with `own_server`, the image's own sftp-server when it has one: see `Helper.server`.

    Raises:
        NoShell: the container has no shell, or not the tools.
        RuntimeFailed: it does not answer.
    """
    target = start.target
    if target.shell is not None and shell.for_scripts(target.shell) != target.shell:
        target = replace(target, shell=None)
    async with start.run(target, start.request(number)) as program:
        helper = Helper(program, target.container_name, start.limit)
        try:
            await helper.open(strict=start.strict, own_server=own_server)
            yield helper
        finally:
            await helper.close()


class Helper:
    """A shell that runs our script, and answers one command after another.

    `server` is the path of the image's own sftp-server when that is what runs instead: then `program` is its, and
    nothing can be asked. `umask`, `tools`, `root` and `home` are what the shell found; `slots` its free descriptors.
    """

    def __init__(self, program: Exec, container: str, limit: float) -> None:
        self.server: str | None = None
        self.umask = 0o022
        self.tools: frozenset[str] = frozenset()
        self.root = b""
        self.home = b"/"
        self.slots = set(SLOTS)
        self.failure: RuntimeFailed | None = None
        self._over = asyncio.Event()
        self._program = program
        self._events = aiter(program)
        self._container = container
        self._limit = limit
        self._key = secrets.token_hex(16)
        self._answers = Answers()
        self._rest = b""
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def program(self) -> Exec:
        """The image's own sftp-server, with what it has said already."""
        return Handed(self._program, self._rest, self._events)

    async def open(self, *, strict: bool, own_server: bool) -> None:
        """Send the script, and read what it has found."""
        answer = Answer(self._limit, KEPT, _NOISE)
        words = ("server" if own_server else "-", "strict" if strict else "-")
        greeting = self._command(answer, "start", words, ())
        self._answers.expect(answer)
        try:
            async with asyncio.timeout(self._limit):
                await self._program.send(Data(STDIN, script(self._key) + greeting))
                while not answer.is_over:
                    event = await anext(self._events, None)
                    if event is None:
                        raise self._lost("it ended before it said a word")
                    if isinstance(event, Data) and event.stream == STDOUT:
                        self._take(event.payload)
                        if self.failure is not None:
                            raise self.failure
        except TimeoutError as error:
            raise self._silent() from error
        try:
            found = await answer.whole()
        except FileFailed as error:
            raise NoShell(
                f"the container {self._container} has not the tools to read and write files with",
                "its image needs stat and dd, as GNU's coreutils and busybox have them",
                detail=error.detail,
            ) from error
        self._found(found.split(b"\0"))
        if self.server is None:
            if self._rest:
                raise self._lost("it says more than was asked")
            self._pump = background(self._read(), name="helper shell")

    async def ask(
        self,
        operation: str,
        *words: str | int,
        paths: Sequence[bytes] = (),
        payload: bytes | memoryview = b"",
        limit: float | None = None,
        keep: int = KEPT,
        most: int = SMALL,
        is_ahead: bool = False,
    ) -> Answer:
        """Send a command, and return its answer, which may still be on its way.

        Raises:
            RuntimeFailed: the helper is no more.
        """
        answer = Answer(self._limit if limit is None else limit, keep, most, is_ahead=is_ahead)
        command = self._command(answer, operation, words, paths)
        task = background(self._send(answer, command, payload), name="helper command", expected=(BastionError,))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)  # one half of a command that were sent would be read with the next as one
        except asyncio.CancelledError:
            answer.abandon()
            raise
        return answer

    async def do(
        self, operation: str, *words: str | int, paths: Sequence[bytes] = (), limit: float | None = None
    ) -> bytes:
        """Send a command, and return all of its short answer."""
        return await (await self.ask(operation, *words, paths=paths, limit=limit)).whole()

    async def over(self) -> RuntimeFailed:
        """Wait until nothing can be asked any more, and return why."""
        await self._over.wait()
        assert self.failure is not None  # noqa: S101 - one sets the other
        return self.failure

    async def close(self) -> None:
        """End the shell, if it listens; its exec ends what is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self.server is None and self.failure is None:
            with contextlib.suppress(TimeoutError, RuntimeFailed):
                async with asyncio.timeout(_LEAVING), self._sending:
                    await self._program.send(Data(STDIN, f"{self._key} - exit\n".encode()))
        self._fail(self._lost("it was ended"))
        tasks = [*self._tasks, *([self._pump] if self._pump is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _command(self, answer: Answer, operation: str, words: Sequence[str | int], paths: Sequence[bytes]) -> bytes:
        line = " ".join((self._key, answer.token, operation, str(len(paths)), *map(str, words)))
        return b"".join((line.encode(), b"\n", *(written(path) + b"\n" for path in paths)))

    async def _send(self, answer: Answer, command: bytes, payload: bytes | memoryview) -> None:
        async with self._sending:
            if self.failure is not None:
                raise self.failure
            if not self._answers.waiting:
                self._heard = asyncio.get_running_loop().time()
            self._answers.expect(answer)
            self._room.set()
            self._watch()
            if payload and len(payload) <= _PIECE:
                command, payload = b"".join((command, payload)), b""
            await self._program.send(Data(STDIN, command))
            for at in range(0, len(payload), _PIECE):
                await self._program.send(Data(STDIN, bytes(payload[at : at + _PIECE])))
                self._heard = asyncio.get_running_loop().time()

    async def _read(self) -> None:
        try:
            async for event in self._events:
                if not isinstance(event, Data) or event.stream != STDOUT:
                    continue
                self._take(event.payload)
                if self.failure is not None:
                    return
                while self._answers.is_held_back():
                    self._room.clear()
                    self._answers.waiting[0].emptied = self._room.set
                    await self._room.wait()
                    self._heard = asyncio.get_running_loop().time()
            status = await self._program.wait()
            self._fail(self._lost(f"it ended with {status.status}"))
        except RuntimeFailed as error:
            self._fail(error)

    def _take(self, payload: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            left = self._answers.take(payload)
        except ValueError:
            self._fail(self._lost("it answers what no helper answers"))
            return
        if left and self._pump is None:
            self._rest = left
        elif left:
            self._fail(self._lost("it answers what was not asked"))

    def _found(self, said: Sequence[bytes]) -> None:
        """Take what the script has found."""
        match said:
            case [b"server", path, *_]:
                self.server = path.decode(errors="replace")
            case [b"shell", umask, tools, root, home, *_] if re.fullmatch(rb"0?[0-7]{1,4}", umask):
                self.umask = int(umask, 8)
                self.tools = frozenset(tools.decode(errors="replace").split())
                self.root = root
                self.home = home if home.startswith(b"/") else b"/"
            case _:
                raise self._lost("it says what no helper says")

    def _watch(self) -> None:
        """See to it that an answer which does not come is not waited for for ever."""
        if self._timer is None and self._answers.waiting:
            due = self._heard + self._answers.waiting[0].limit
            self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        if not self._answers.waiting or self.failure is not None:
            return
        if self._answers.is_held_back():
            self._heard = now
        elif now >= self._heard + self._answers.waiting[0].limit:
            self._fail(self._silent())
            return
        self._watch()

    def _fail(self, error: RuntimeFailed) -> None:
        """End every answer that is waited for, and the reading."""
        if self.failure is not None:
            return
        self.failure = error
        self._over.set()
        self._answers.end(error)
        self._room.set()
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()

    def _lost(self, detail: str) -> ConnectionLost:
        return ConnectionLost(
            f"the shell that reads and writes files in {self._container} is no more", "connect again", detail=detail
        )

    def _silent(self) -> RuntimeFailed:
        return RuntimeFailed(
            f"the container {self._container} does not answer", "is it overloaded, or its disk or file server gone?"
        )
