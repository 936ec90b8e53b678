"""Open, sign and close the transcripts in one directory, and stop the sessions when their record fails."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from bastion.errors import BastionError, ConfigurationError, RecordingFailed
from bastion.model import Request, Session, Target
from bastion.tasks import background
from bastion.transcripts import ledger as ledgers
from bastion.transcripts.asciicast import Input, Lines
from bastion.transcripts.checkpoints import Checkpoints, beginning
from bastion.transcripts.closing import Closing
from bastion.transcripts.folders import check_folders, make_folder
from bastion.transcripts.layout import LOCK, SUFFIX, UID, parts_of
from bastion.transcripts.recipients import RecipientList
from bastion.transcripts.recorder import ASK, Recorder
from bastion.transcripts.sealing import MAX_NAMED, Unsealed, seal_leftovers
from bastion.transcripts.signing import Signer
from bastion.transcripts.volume import Volume

_INTERVAL: Final = 0.5  # two of them, and a failing volume has stopped every session within a second


class Transcripts:
    """Records sessions in `directory` for `recipients`, signed with the key at `signing_key`.

    Raises:
        ConfigurationError: no recipient or a malformed one, a directory that cannot be written or that others may
            write in, or a signing key that is missing, not ours or open to others.
    """

    ledger: ledgers.Ledger

    def __init__(
        self,
        directory: Path,
        recipients: Sequence[str],
        signing_key: Path,
        *,
        node: str,
        input: Input = "no-tty",  # noqa: A002 - the name the configuration gives it
        stream_limit: int = 64 * 2**20,
        reserve: int | None = None,
    ) -> None:
        self._recipients = RecipientList.parse(recipients)
        self._signer = Signer(signing_key)
        self._directory = directory
        self._input: Input = input
        self._stream_limit = stream_limit
        check_folders(directory)
        _check_writable(directory)
        self._worker = ThreadPoolExecutor(1, "transcripts-worker")
        self._syncing = ThreadPoolExecutor(1, "transcripts-syncing")
        self.ledger = ledgers.Ledger(directory / ledgers.FILE, self._signer, node, self._syncing)
        self._checkpoints = Checkpoints(self._signer, self.ledger)
        self._closing = Closing(self._signer, self.ledger, self._checkpoints)
        self.volume = Volume(directory, reserve)
        self._live: set[Recorder] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._lock = -1
        self._log = structlog.get_logger("bastion.transcripts")

    async def start(self) -> None:
        """Seal as unclean what a crash left and the ledger proves, name what it does not, and begin to sync.

        Raises:
            ConfigurationError: another server records in this directory.
            RecordingFailed: the volume does not take the seals.
        """
        self._lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = -1
            raise ConfigurationError(
                f"another bastion records in {self._directory}", "stop it, or set another [audit] directory"
            ) from error
        try:
            await self._in_thread(self.ledger.begin)
            unsealed = await self._in_thread(seal_leftovers, self._directory, self._signer, self.ledger)
        except OSError as error:
            raise RecordingFailed(f"cannot seal what a crash left: {error.strerror}", ASK, detail=str(error)) from error
        self._log_unsealed(unsealed)
        self._ticking = background(self._tick(), name="transcripts tick", essential=True)

    def check(self) -> None:
        """Tell whether sessions can be recorded, as far as is known without trying.

        Raises:
            RecordingFailed: they cannot, until a restart.
        """
        if self.ledger.failure is not None:
            raise self.ledger.failure
        if (failed := self._checkpoints.failed) is not None:
            raise RecordingFailed("the transcript volume failed and is not trusted any more", ASK, detail=str(failed))

    async def close(self) -> None:
        """Wait for the sessions that are being finalised, and stop."""
        if self._leaving:
            await asyncio.wait(self._leaving)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait({self._ticking})
            self._ticking = None
        for executor in (self._worker, self._syncing):
            executor.shutdown()
        for recorder in self._live:
            recorder.close()
        self._live.clear()
        self.ledger.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def refuse_unless_ready(self) -> None:
        """Say why no session could be recorded, as far as that was seen at the last look.

        Raises:
            RecordingFailed: the volume has failed, does not answer, or has only its reserve left.
        """
        self.check()
        self.volume.refuse_unless_ready()

    async def replace_recipients(self, recipients: Sequence[str]) -> bool:
        """Encrypt new transcripts to these recipients, once the ledger has the change; running sessions keep theirs.

        Returns whether that changed anything.

        Raises:
            ConfigurationError: there is no recipient or a malformed one; the last ones count.
            RecordingFailed: the ledger does not take the change; the last ones count.
        """
        before, after = self._recipients, await asyncio.to_thread(RecipientList.parse, recipients)
        if after.digest == before.digest:
            return False
        change = {
            "before": before.digest,
            "after": after.digest,
            "added": sorted(after.fingerprints() - before.fingerprints()),
            "removed": sorted(before.fingerprints() - after.fingerprints()),
        }
        await self.ledger.append("recipients changed", **change)
        self._recipients = after
        self._log.info("recipients changed", **change)
        return True

    def open(
        self, session: Session, request: Request, target: Target, *, on_failure: Callable[[BastionError], None]
    ) -> AbstractAsyncContextManager[Recorder]:
        """Open the transcript of a session; leaving finalises it, also when an exception passes through.

        `on_failure` is called once, on the event loop, when recording fails in the background.

        Raises:
            RecordingFailed: it cannot be opened, and nothing may run; or, on leaving, it could not be finalised.
        """
        return self._open(session, request, target, on_failure)

    @asynccontextmanager
    async def _open(
        self, session: Session, request: Request, target: Target, on_failure: Callable[[BastionError], None]
    ) -> AsyncIterator[Recorder]:
        recorder = await self._begin(session, request, target, on_failure)
        try:
            yield recorder
        except BaseException as error:
            with suppress(RecordingFailed):
                await self._leave(recorder, _words(error))
            raise
        await self._leave(recorder, None)

    async def _begin(
        self, session: Session, request: Request, target: Target, on_failure: Callable[[BastionError], None]
    ) -> Recorder:
        self.check()
        if UID.fullmatch(session.uid) is None:
            raise RecordingFailed("the session has no usable uid", ASK)
        lines = Lines(self._input, self._stream_limit, tty=request.terminal is not None)
        recipients = self._recipients  # the header names the list that the file is encrypted to, also during a reload
        header = lines.header(session, request, target, recipients.digest)
        creating = background(
            self._in_thread(self._create, session, recipients, on_failure),
            name=f"open transcript {session.uid}",
            expected=(RecordingFailed,),
        )
        try:
            recorder: Recorder = await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.add_done_callback(self._abandon)
            raise
        try:
            recorder.begin(lines, header)
        except RecordingFailed:
            await self._in_thread(self._closing.fail, recorder)
            raise
        self._live.add(recorder)
        return recorder

    def _abandon(self, creating: asyncio.Future[Recorder]) -> None:
        if not creating.cancelled() and creating.exception() is None:
            abandoning = self._in_thread(self._closing.abandon, creating.result())
            self._leave_to(background(abandoning, name="abandon a transcript"))

    def _leave_to(self, task: asyncio.Task[None]) -> None:
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _create(
        self, session: Session, recipients: RecipientList, on_failure: Callable[[BastionError], None]
    ) -> Recorder:
        folder = self._directory / f"{session.created_at:%Y/%m/%d}"
        path = folder / f"{session.uid}{SUFFIX}"
        self.volume.admit()
        try:
            self._signer.check()
            make_folder(folder)
            recorder = Recorder(session.uid, folder, recipients.recipients, self._worker, on_failure)
        except FileExistsError as error:
            raise RecordingFailed("there is a transcript of this session already", ASK, detail=str(error)) from error
        except ConfigurationError as error:
            raise RecordingFailed(error.public, error.hint) from error
        except OSError as error:
            _remove(path)
            raise RecordingFailed(
                f"the session cannot be recorded: {error.strerror}", ASK, detail=str(error)
            ) from error
        fields = {"uid": session.uid, "path": str(path.relative_to(self._directory)), "recipients": recipients.digest}
        about: dict[str, object] = {
            "beginning": beginning(recorder).as_fields(),
            "user": session.user,
            "stack": session.stack,
            "service": session.service_name,
            "key_fingerprint": session.key_fingerprint,
        }
        try:
            self.ledger.write("opened", fields | about, sync=False)  # the next checkpoint brings it to the disk
        except RecordingFailed:
            recorder.close()
            _remove(path)
            raise
        return recorder

    async def _leave(self, recorder: Recorder, words: str | None) -> None:
        task = background(self._finalise(recorder, words), name=f"finalise {recorder.uid}", expected=(RecordingFailed,))
        self._leave_to(task)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("transcript-not-finalised", uid=recorder.uid, error=str(error))
            raise

    async def _finalise(self, recorder: Recorder, words: str | None) -> None:
        try:
            await recorder.end(words)
            await asyncio.get_running_loop().run_in_executor(self._worker, recorder.age.finish)
            await self._in_thread(self._closing.close, recorder)
        except (RecordingFailed, OSError) as error:
            failure = recorder.fail(error, tell=False)
            await recorder.drained()
            await self._in_thread(self._closing.fail, recorder)
            raise failure from error
        finally:
            self._live.discard(recorder)

    def _log_unsealed(self, unsealed: Sequence[Unsealed]) -> None:
        for one in unsealed[:MAX_NAMED]:
            self._log.error(
                "transcript-not-sealed", uid=one.uid, path=one.path, verdict=one.verdict, reason=one.reason,
                hint="bastion transcripts verify",
            )  # fmt: skip
        if len(unsealed) > MAX_NAMED:
            self._log.error("transcripts-not-sealed", count=len(unsealed), hint="bastion transcripts verify")

    async def _tick(self) -> None:
        reason = ""
        while True:
            await asyncio.sleep(_INTERVAL)
            live = list(self._live)
            for recorder in live:
                try:
                    recorder.cut_if_old()
                except RecordingFailed as error:
                    recorder.fail(error, tell=True)
            await self._in_thread(self.volume.look)
            try:
                for recorder, failure in await self._in_thread(self._checkpoints.write, live):
                    recorder.fail(failure, tell=True)
                reason = ""
            except (OSError, BastionError) as error:
                if str(error) != reason:  # once, and not at every tick
                    reason = str(error)
                    self._log.error("recording-stopped", reason=reason, sessions=len(self._live))
                for recorder in list(self._live):
                    recorder.fail(error, tell=True)

    async def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._syncing, function, *arguments)


def _check_writable(directory: Path) -> None:
    probe = directory / f".writable.{os.getpid()}"
    try:
        make_folder(directory)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write transcripts in {directory}: {error.strerror}",
            "make [audit] directory writable for this user",
        ) from error


def _remove(path: Path) -> None:
    for leftover in [path, *parts_of(path)]:
        with suppress(OSError):
            leftover.unlink(missing_ok=True)


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return min(
            (_words(inner) for inner in error.exceptions),
            key=lambda words: words in ("client disconnected", "internal error"),
        )
    if isinstance(error, BastionError):
        return error.public
    return "client disconnected" if isinstance(error, (asyncio.CancelledError, ConnectionError)) else "internal error"
