"""`bastion keys …`: make the key home; issue, add, list, revoke and copy keys; each change stands in the ledger."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypedDict

import typer

from bastion.cli.files import new_private_file
from bastion.cli.ledger import write_ledger
from bastion.cli.options import ConfigOption, JsonOption, OutputOption, read_settings
from bastion.cli.output import say, show_error, write_json, write_table

if TYPE_CHECKING:
    from bastion.config import Settings
    from bastion.keyring import IssuedKey, Keyring

app = typer.Typer(help="Make the key home, and issue, add, list and revoke keys.")

User = Annotated[str, typer.Argument(metavar="USER", help="The user's name, as grants have it.")]
StackOption = Annotated[
    str | None, typer.Option("--stack", metavar="STACK", help="The only stack the key opens; * is any.")
]


@app.command("init")
def init(
    *,
    authority: Annotated[
        bool, typer.Option("--ca", help="Make a key that signs users' certificates, too.", show_default=False)
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Make the key home with a host key and the audit signing key; what is there stays as it is."""
    with _open(config, must_be_whole=False) as (keyring, _):
        keyring.init(authority=authority)
        say(f"key home {keyring.home} is ready")
        if not keyring.auditor_recipients():
            folder = keyring.home / "auditors"
            say(f"put an auditor's age1… or ssh-ed25519 line into {folder}; without one nothing starts")


@app.command("issue")
def issue(
    user: User,
    *,
    stack: StackOption = None,
    service: Annotated[
        str | None, typer.Option("--service", metavar="SERVICE", help="The only service the key opens.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="How long: 12h, 90d.  [default: 90d; 8h with --certificate]"),
    ] = None,
    sources: Annotated[
        str | None, typer.Option("--from", metavar="ADDRESSES", help="Where from only: 192.0.2.0/24,2001:db8::7.")
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Sign a certificate; no line in the key home is made.")
    ] = False,
    authority: Annotated[
        str | None, typer.Option("--ca", metavar="NAME", help="Which key of ca/ signs it, if there are several.")
    ] = None,
    output: OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key pair for a user who holds a grant there; the private half is given once, here, and kept nowhere."""
    lifetime = _lifetime(expires or ("8h" if certificate else "90d"))
    stack, service = (None if name == "*" else name for name in (stack, service))
    if authority is not None and not certificate:
        raise typer.BadParameter("goes with --certificate", param_hint="--ca")
    if certificate and output is None:
        raise typer.BadParameter(
            "is needed with --certificate, which makes FILE and FILE-cert.pub", param_hint="--output"
        )
    with _open(config) as (keyring, settings):
        _authorize(keyring, settings, user, stack, service)
        networks = sources.split(",") if sources is not None else []
        bounds: _Bounds = {"stack": stack, "service": service, "expires": lifetime, "sources": networks}
        if certificate and output is not None:
            _certify(keyring, settings, user, bounds, authority=authority, output=output)
            return
        with _destination(output) as file:
            issued = keyring.issue(user, **bounds)
            try:
                write_ledger(settings, keyring, "key issued", **_facts(user, issued, bounds))
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
        typer.Argument(metavar="KEY", help="A public key, its file (OpenSSH or RFC 4716), or - for standard input."),
    ],
    *,
    config: ConfigOption = None,
) -> None:
    """Add a key that a user already has."""
    line = _read_line(public_key)
    with _open(config) as (keyring, settings):
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
    with _open(config) as (keyring, _):
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
    whom: Annotated[
        str | None,
        typer.Argument(metavar="[USER|SHA256:…]", help="A user, or one key or authority.", show_default=False),
    ] = None,
    *,
    stack: StackOption = None,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="Instead, every certificate of this key id.")
    ] = None,
    serial: Annotated[
        int | None, typer.Option("--serial", metavar="NUMBER", help="Instead, the certificate of this serial.", min=0)
    ] = None,
    authority: Annotated[
        str | None, typer.Option("--ca", metavar="SHA256:…", help="The authority that gave the serial.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Revoke one key, all of a user's, or certificates; open connections end within 5 s."""
    if sum(one is not None for one in (whom, key_id, serial)) != 1:
        raise typer.BadParameter("name one of them", param_hint="USER, SHA256:…, --id or --serial")
    if (serial is None) != (authority is None):
        raise typer.BadParameter("go together", param_hint="--serial and --ca")
    with _open(config) as (keyring, settings):
        if key_id is not None:
            keyring.revoke_id(key_id)
            say(f"certificates of the key id {key_id} are revoked")
            write_ledger(settings, keyring, "certificate revoked", key_id=key_id)
        elif serial is not None and authority is not None:
            keyring.revoke_serial(serial, authority)
            say(f"the certificate {serial} of {authority} is revoked")
            write_ledger(settings, keyring, "certificate revoked", serial=serial, authority=authority)
        elif whom is not None:
            for fingerprint in keyring.revoke(whom, stack=stack):
                say(f"{fingerprint} is revoked")
                write_ledger(settings, keyring, "key revoked", key_fingerprint=fingerprint, of=whom, stack=stack)
            if stack is None:
                _name_tokens(keyring, whom)


@app.command("import")
def import_keys(*, config: ConfigOption = None) -> None:
    """Copy users' keys and what is revoked from the files to the sessions' database; what it has stays."""
    _copy(config, to_database=True)


@app.command("export")
def export_keys(*, config: ConfigOption = None) -> None:
    """Copy users' keys and what is revoked from the sessions' database to the files; what they have stays."""
    _copy(config, to_database=False)


def _copy(config: Path | None, *, to_database: bool) -> None:
    from bastion.keyring import Keyring, copy_keys

    settings = read_settings(config)
    keyring = Keyring(settings.keys.home)
    keyring.load()
    copied = copy_keys(settings, to_database=to_database)
    where = "database" if to_database else "files"
    for user, fingerprint in copied.keys:
        say(f"{fingerprint} is {user}'s")
        write_ledger(settings, keyring, "key copied", user=user, key_fingerprint=fingerprint, to=where)
    for line in copied.revoked:
        say(f"revoked: {line}")
        write_ledger(settings, keyring, "revocation copied", line=line, to=where)
    say(f"copied to the {where}: {len(copied.keys)} keys, {len(copied.revoked)} revocations; what was there stayed")
    if settings.keys.store != where:
        say(f'they count from the next start on with [keys] store = "{where}"')
    for problem in copied.problems:
        show_error(problem)
    if copied.problems:
        raise typer.Exit(1)


def _name_tokens(keyring: "Keyring", user: str) -> None:
    """Say which tokens a user still has: one with keys:issue makes new keys."""
    from bastion.api.tokens import Tokens

    for token in Tokens(keyring.home, keyring.now).list():
        if token.user == user:
            say(f"{user} still has the token {token.name}: bastion tokens revoke {token.name}")


class _Bounds(TypedDict):
    stack: str | None
    service: str | None
    expires: timedelta
    sources: list[str]


def _authorize(keyring: "Keyring", settings: "Settings", user: str, stack: str | None, service: str | None) -> None:
    """Refuse to make a key for somebody who could open nothing with it.

    Raises:
        Refused: there is no grant for it.
    """
    from bastion.policy import Policy

    policy = Policy(settings.grants, settings.stacks, settings.groups, clock=keyring.now)
    policy.authorize_key(user, stack, service)


def _certify(
    keyring: "Keyring", settings: "Settings", user: str, bounds: _Bounds, *, authority: str | None, output: Path
) -> None:
    with new_private_file(output) as file, new_private_file(output.with_name(f"{output.name}-cert.pub")) as beside:
        issued = keyring.certify(user, **bounds, authority=authority)
        facts = _facts(user, issued, bounds)
        write_ledger(settings, keyring, "certificate issued", **facts, serial=issued.serial, authority=issued.authority)
        file.write(issued.private_text.encode())
        beside.write(f"{issued.public_line}\n".encode())
        os.fchmod(beside.fileno(), 0o644)
    say(f"{issued.fingerprint} is certified for {user}, serial {issued.serial} of {issued.authority}")


def _facts(user: str, issued: "IssuedKey", bounds: _Bounds) -> dict[str, object]:
    facts: dict[str, object] = {"user": user, "key_fingerprint": issued.fingerprint}
    facts |= {"stack": bounds["stack"], "service": bounds["service"]}
    facts |= {"seconds": int(bounds["expires"].total_seconds()), "from": ",".join(bounds["sources"]) or None}
    return facts


@contextmanager
def _open(config: Path | None, *, must_be_whole: bool = True) -> "Iterator[tuple[Keyring, Settings]]":
    from bastion.keyring import open_keyring

    settings = read_settings(config)
    keyring = open_keyring(settings)
    with closing(keyring):
        if must_be_whole:
            keyring.load()
        yield keyring, settings


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_private_file(output) as file:
        yield file


def _lifetime(text: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from bastion.config import Seconds

    try:
        return timedelta(seconds=TypeAdapter[float](Seconds).validate_python(text))
    except (ValidationError, OverflowError) as error:
        raise typer.BadParameter("write a number and a unit, such as 12h or 90d", param_hint="--expires") from error


def _read_line(argument: str) -> str:
    from bastion.errors import ConfigurationError
    from bastion.keyring.public_key_files import MAX_FILE_BYTES, read_public_key

    content = argument.encode("utf-8", "surrogateescape")
    if argument == "-":
        content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    elif " " not in argument and (path := Path(argument)).is_file():
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"{path}: {(error.strerror or 'cannot be read').lower()}", "") from error
    return read_public_key(content).decode("utf-8", "surrogateescape")
