"""Serve the files of one container on a channel, by the first way to them that works."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from bastion.errors import NoShell, RuntimeFailed
from bastion.files import Files
from bastion.files.access import Judge
from bastion.files.archive import by_archive
from bastion.files.helper import Start, started
from bastion.files.recorded import RecordedFiles
from bastion.files.scp import parse_scp, serve_scp
from bastion.files.sftp import serve_sftp
from bastion.files.shell_files import ShellFiles
from bastion.model import Channel, Exit, FileAccess, Record, Request, Target
from bastion.runtimes import Exec, Runtime
from bastion.runtimes.beside import NOWHERE
from bastion.sessions import LiveSession
from bastion.tasks import race

SFTP: Final = "sftp"

# Clients that turn the two paths of SYMLINK round where the server does not call itself OpenSSH.
_DRAFTED: Final = ("WinSCP", "AsyncSSH", "libssh_", "libssh-")


async def _never() -> RuntimeFailed:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Reached:
    """The way to a container's files: `files` that we serve, or `program`, the image's own sftp-server, to relay.

    `over` waits until there is no way any more, and returns why.
    """

    way: str
    files: Files | None = None
    program: Exec | None = None
    over: Callable[[], Coroutine[None, None, RuntimeFailed]] = _never


def as_files(request: Request) -> Request | None:
    """Return a request that scp's old protocol carries out as what it is, one for files; None when it is none."""
    if request.kind != "exec" or parse_scp(request.command or "") is None:
        return None
    return replace(request, kind="subsystem", command=SFTP)


@asynccontextmanager
async def reach(runtime: Runtime, target: Target, request: Request, access: FileAccess) -> AsyncIterator[Reached]:
    """Find the way to the container's files, for as long as the context lasts.

    The image's own sftp-server, which judges no paths, is for those only who may read and write everything.

    Raises:
        RuntimeFailed: there is none; says what would help.
    """
    start = Start(runtime.exec, target, request.uid, request.name, strict=Judge(access).depends_on_paths)
    async with AsyncExitStack() as stack:
        own_server = access.is_whole and request.kind == "subsystem" and not _is_drafted(request)
        try:
            helper = await stack.enter_async_context(started(start, own_server=own_server))
        except NoShell:
            if (archive := runtime.archive(target)) is None:
                raise
        else:
            archive = None
        if archive is not None:
            by_engine = await by_archive(archive, target.user)
            yield Reached(by_engine.way, by_engine, over=archive.over)
            return
        if helper.root == NOWHERE.encode():
            raise RuntimeFailed(
                f"a toolbox beside {target.container_name} may not open its files",
                "that takes the container's own user, or SYS_PTRACE",
            )
        if helper.server is not None:
            yield Reached(f"the image's own {helper.server}", program=helper.program)
            return
        files = await stack.enter_async_context(ShellFiles(start, helper))
        yield Reached(files.way, files, over=helper.over)


async def serve(
    channel: Channel, reached: Reached, request: Request, *, access: FileAccess, session: LiveSession, record: Record
) -> Exit:
    """Speak SFTP, or scp's old protocol, until the client has all it wanted; its exit is on record then.

    Raises:
        RuntimeFailed: the way to the container broke, also while nothing was asked of it.
    """
    assert reached.files is not None  # noqa: S101 - what has its own program is relayed

    async def broken() -> NoReturn:
        raise await reached.over()

    files = RecordedFiles(reached.files, access, session, record)
    status = await race(_speak(channel, files, request), broken(), name=f"files {request.uid}")
    await record(status)
    return status


async def _speak(channel: Channel, files: RecordedFiles, request: Request) -> Exit:
    command = parse_scp(request.command or "") if request.kind == "exec" else None
    async with files:
        if command is not None:
            return Exit(await serve_scp(channel, files, command))
        await serve_sftp(channel, files, links_as_drafted=_is_drafted(request))
        return Exit(0)


def _is_drafted(request: Request) -> bool:
    return any(word in request.client for word in _DRAFTED)
