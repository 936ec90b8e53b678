"""`bastion check`: say in one pass everything that would stop the server, each with what to do about it."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bastion.cli.options import ConfigOption, JsonOption
from bastion.cli.output import show_error, show_warning, write_json, write_table
from bastion.errors import BastionError, ConfigurationError, DatabaseFailed

if TYPE_CHECKING:
    from bastion.config import ApiSettings, Settings
    from bastion.keyring import Keyring
    from bastion.runtimes import Runtime

_PATTERN_HINT = (
    'write its arguments out, or run a script without options: docs/configuration.md, "Patterns of commands"'
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; a failed check has a hint with the remedy.

    A check that passed and has a hint all the same is a warning.
    """

    part: str
    right: bool
    words: str
    hint: str = ""


def check(
    name: Annotated[str | None, typer.Argument(metavar="[SERVICE@STACK]", show_default=False)] = None,
    *,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Say instead what this user may do there.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with the configuration, the key home, the engines and the folders; exit 1 when anything is.

    Run it as the user that the server runs as: it looks at what that user may read and write. With --user and a name it
    says what the grants let that user do there, and by which line of the configuration.
    """
    if (name is None) != (user is None):
        raise typer.BadParameter("go together: bastion check --user alice web@mystack", param_hint="--user and a name")
    if name is not None and user is not None:
        from bastion.cli.explain import explain

        explain(config, user, name, as_json=as_json)
        return
    findings = list(_findings(config))
    if as_json:
        write_json({"right": all(one.right for one in findings), "findings": [asdict(one) for one in findings]})
    else:
        if rows := [(one.part, one.words) for one in findings if one.right and not one.hint]:
            write_table(("PART", "FOUND"), rows)
        for one in findings:
            if one.hint or not one.right:
                show = show_warning if one.right else show_error
                show(f"{one.part}: {one.words}", one.hint)
    if not all(one.right for one in findings):
        raise typer.Exit(1)


def _findings(config: Path | None) -> Iterator[Finding]:
    from bastion.config import load, locate
    from bastion.keyring import open_keyring

    try:
        path = locate(config)
        settings = load(path)
    except ConfigurationError as error:
        yield _wrong("configuration", error)
        return
    yield Finding("configuration", right=True, words=str(path or "the defaults: there is no file"))
    yield from _look_at_grants(settings)
    yield from _look_at_addresses(settings)
    keyring = open_keyring(settings)
    try:
        yield from _look_at_keys(keyring)
    finally:
        keyring.close()
    yield from _look_at_recipients(settings, keyring)
    yield from _look_at_transcripts(settings.audit.directory, settings.audit.reserve)
    yield from _look_at_database(settings.database)
    if settings.api.socket is not None:
        yield from _look_at_socket(settings.api.socket)
    if settings.api.endpoints:
        yield _look_at_api(settings.api)
    yield from asyncio.run(_look_at_engines(settings))


def _wrong(part: str, error: BastionError) -> Finding:
    return Finding(part, right=False, words=error.public, hint=error.hint)


def _look_at_grants(settings: "Settings") -> Iterator[Finding]:
    from bastion.cli.pattern_risks import risks
    from bastion.policy import NOT_SERVED

    if settings.grants:
        users = sorted({user for grant in settings.grants for user in grant.users})
        groups = sorted({f"the group {group}" for grant in settings.grants for group in grant.groups})
        yield Finding("grants", right=True, words=f"{len(settings.grants)} for {', '.join([*users, *groups])}")
        for number, grant in enumerate(settings.grants):
            if idle := sorted(NOT_SERVED.intersection(grant.allow)):
                words = f"grants[{number}] allows {', '.join(idle)}: that is not served yet"
                yield Finding("grants", right=True, words=words)
            for pattern in grant.command:
                for risk in risks(pattern):
                    words = f'grants[{number}] allows the command "{pattern}": {risk}'
                    yield Finding("grants", right=True, words=words, hint=_PATTERN_HINT)
    else:
        yield Finding(
            "grants", right=False, words="there are none, so nobody may enter anything", hint="add [[grants]]"
        )


def _look_at_addresses(settings: "Settings") -> Iterator[Finding]:
    for address in settings.ssh.listen:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and int(port) < 2**16:
            yield Finding("ssh", right=True, words=f"listens on {address}")
        else:
            yield Finding(
                "ssh", right=False, words=f"{address} is no HOST:PORT", hint="write 127.0.0.1:2222 or [::1]:2222"
            )


def _look_at_keys(keyring: "Keyring") -> Iterator[Finding]:
    if faults := keyring.faults():
        yield from (_wrong("key home", fault) for fault in faults)
        return
    keyring.refresh()
    try:
        users = [key.user for key in keyring.list() if key.state == "good"]
    except DatabaseFailed as error:
        yield _wrong("keys", error)
        return
    yield Finding("key home", right=True, words=f"{keyring.home}: {len(users)} keys of {len(set(users))} users")
    for problem in keyring.problems:
        yield Finding("key home", right=False, words=problem, hint="mend or remove that line: it lets nobody in")


def _look_at_recipients(settings: "Settings", keyring: "Keyring") -> Iterator[Finding]:
    from bastion.transcripts.recipients import parse_recipients

    try:
        recipients = parse_recipients([*settings.audit.recipients, *keyring.auditor_recipients()])
    except ConfigurationError as error:
        yield _wrong("auditors", error)
    else:
        yield Finding("auditors", right=True, words=f"{len(recipients)} can open transcripts")


def _look_at_transcripts(folder: Path, reserve: int | None) -> Iterator[Finding]:
    from bastion.transcripts.folders import check_folders
    from bastion.transcripts.volume import measure

    if found := _folder_fault("transcripts", folder):
        yield found
        return
    try:
        check_folders(folder)
    except ConfigurationError as error:
        yield _wrong("transcripts", error)
        return
    room = measure(_nearest(folder), reserve)
    words = f"{folder}: {room}"
    if room.is_low:
        hint = "make room: no session is opened while only [audit] reserve is left"
        yield Finding("transcripts", right=False, words=words, hint=hint)
    else:
        warning = "; no session is opened once only the reserve is left" if room.is_scarce else ""
        yield Finding("transcripts", right=True, words=words + warning)


def _look_at_database(url: str) -> Iterator[Finding]:
    from bastion.sessions.database import look_at
    from bastion.sessions.duty_table import open_duties

    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and (found := _folder_fault("sessions", path.parent)):
        yield found
        return
    try:
        yield Finding("sessions", right=True, words=asyncio.run(look_at(url)))
        count, oldest = asyncio.run(open_duties(url))
    except (ConfigurationError, DatabaseFailed) as error:
        yield _wrong("sessions", error)
        return
    if count and oldest is not None:
        words = f"programs left by ended sessions: {count}, the oldest since {oldest:%Y-%m-%d %H:%M} UTC"
        yield Finding("duties", right=True, words=words)


def _look_at_socket(path: Path) -> Iterator[Finding]:
    found = _folder_fault("api socket", path.parent)
    if found is None and path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        found = Finding("api socket", right=False, words=f"{path} is there and is no socket", hint="set [api] listen")
    yield found or Finding("api socket", right=True, words=str(path))


def _look_at_api(settings: "ApiSettings") -> Finding:
    from bastion.api.server import tls_of

    try:
        secret = tls_of(settings) is not None
    except ConfigurationError as error:
        return _wrong("api", error)
    places = ", ".join(f"{host}:{port}" for host, port in settings.endpoints)
    return Finding("api", right=True, words=f"listens on {places} {'with TLS' if secret else 'without TLS'}")


async def _look_at_engines(settings: "Settings") -> list[Finding]:
    from bastion.app import build_runtimes

    try:
        runtimes = build_runtimes(settings)
    except ConfigurationError as error:
        return [_wrong("engine", error)]
    findings = []
    for runtime in runtimes.values():
        try:
            findings += await look_at_engine(runtime)
        finally:
            await runtime.close()
    return findings


async def look_at_engine(runtime: "Runtime") -> list[Finding]:
    """Ask an engine what it is, and then what would keep sessions from working on it."""
    findings = []
    try:
        findings.append(Finding("engine", right=True, words=await runtime.ping()))
        findings += [_wrong("engine", fault) for fault in await runtime.faults()]
    except BastionError as error:
        findings.append(_wrong("engine", error))
    return findings


def _folder_fault(part: str, folder: Path) -> Finding | None:
    """Look whether we may make files in a folder, or make the folder itself."""
    nearest = _nearest(folder)
    tests: list[tuple[Callable[[], bool], str, str]] = [
        (nearest.is_dir, f"{nearest} is no folder", "remove it, or configure another path"),
        (
            lambda: os.access(nearest, os.W_OK | os.X_OK),
            f"user id {os.geteuid()} may not write in {nearest}",
            f"install -d -o USER -m 700 {folder}, with the server's user, or configure another path",
        ),
    ]
    return next((Finding(part, right=False, words=words, hint=hint) for test, words, hint in tests if not test()), None)


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
