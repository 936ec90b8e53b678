"""`bastion keys …`: make the key home; issue, add, list and revoke keys; each change stands in the ledger."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from bastion.cli.files import new_private_file
from bastion.cli.ledger import write_ledger
from bastion.cli.options import ConfigOption, JsonOption, OutputOption, read_settings
from bastion.cli.output import say, show_error, write_json, write_table

if TYPE_CHECKING:
    from bastion.config import Settings
    from bastion.keyring import Keyring

app = typer.Typer(help="Make the key home, and issue, add, list and revoke keys.")

User = Annotated[str, typer.Argument(metavar="USER", help="The user's name, as grants have it.")]
StackOption = Annotated[
    str | None, typer.Option("--stack", metavar="STACK", help="The only stack the key opens; * is any.")
]


@app.command("init")
def init(*, config: ConfigOption = None) -> None:
    """Make the key home with a host key and the audit signing key; what is there stays as it is."""
    keyring, _ = _open(config, must_be_whole=False)
    keyring.init()
    say(f"key home {keyring.home} is ready")
    if not keyring.auditor_recipients():
        say(f"put an auditor's age1… or ssh-ed25519 line into {keyring.home / 'auditors'}; without one nothing starts")


@app.command("issue")
def issue(
    user: User,
    *,
    stack: StackOption = None,
    service: Annotated[
        str | None, typer.Option("--service", metavar="SERVICE", help="The only service the key opens.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="How long: 12h, 90d.")] = None,
    output: OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key pair for a user; the private half is given once, here, and kept nowhere."""
    lifetime = _lifetime(expires)
    stack, service = (None if name == "*" else name for name in (stack, service))
    keyring, settings = _open(config)
    with _destination(output) as file:
        issued = keyring.issue(user, stack=stack, service=service, expires=lifetime)
        facts = {"user": user, "key_fingerprint": issued.fingerprint, "stack": stack, "service": service}
        try:
            write_ledger(settings, keyring, "key issued", **facts, expires=expires)
        except BaseException:
            keyring.revoke(issued.fingerprint)  # a key that stands in no ledger opens nothing
            raise
        file.write(issued.private_text.encode())
    say(f"{issued.fingerprint} is {user}'s; nobody can give this private half a second time")


@app.command("add")
def add(
    user: User,
    public_key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="A public key, its .pub file, or - for standard input."),
    ],
    *,
    config: ConfigOption = None,
) -> None:
    """Add a key that a user already has."""
    line = _read_line(public_key)
    keyring, settings = _open(config)
    fingerprint = keyring.add(user, line)
    try:
        write_ledger(settings, keyring, "key added", user=user, key_fingerprint=fingerprint)
    except BaseException:
        keyring.revoke(fingerprint)
        raise
    say(f"{fingerprint} is {user}'s")


@app.command("list")
def list_keys(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List every key; lines that are not accepted are named on standard error."""
    keyring, _ = _open(config)
    keys = keyring.list()
    if as_json:
        write_json({"keys": [asdict(key) for key in keys]})
    else:
        rows = [(k.user, k.fingerprint, k.stack, k.service, k.expires, k.state, k.comment) for k in keys]
        write_table(("USER", "FINGERPRINT", "STACK", "SERVICE", "EXPIRES", "STATE", "COMMENT"), rows)
    for problem in keyring.problems:
        show_error(problem)


@app.command("revoke")
def revoke(
    whom: Annotated[str, typer.Argument(metavar="USER|SHA256:…", help="A user, or one key by its fingerprint.")],
    *,
    stack: StackOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke one key or all of a user's; open connections end within 5 s."""
    keyring, settings = _open(config)
    for fingerprint in keyring.revoke(whom, stack=stack):
        say(f"{fingerprint} is revoked")
        write_ledger(settings, keyring, "key revoked", key_fingerprint=fingerprint, of=whom, stack=stack)


def _open(config: Path | None, *, must_be_whole: bool = True) -> "tuple[Keyring, Settings]":
    from bastion.keyring import Keyring

    settings = read_settings(config)
    keyring = Keyring(settings.keys.home)
    if must_be_whole:
        keyring.load()
    return keyring, settings


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_private_file(output) as file:
        yield file


def _lifetime(text: str | None) -> timedelta | None:
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from bastion.config import Seconds

    try:
        return timedelta(seconds=TypeAdapter[float](Seconds).validate_python(text))
    except (ValidationError, OverflowError) as error:
        raise typer.BadParameter("write a number and a unit, such as 12h or 90d", param_hint="--expires") from error


def _read_line(argument: str) -> str:
    if argument == "-":
        return sys.stdin.readline(65536).strip()
    if " " not in argument and (path := Path(argument)).is_file():
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.readline(65536).strip()
    return argument.strip()
