"""`bastion tokens …`: issue, list and revoke the tokens of the HTTP API; each change stands in the ledger."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bastion.cli.ledger import write_ledger
from bastion.cli.options import ConfigOption, JsonOption, read_settings
from bastion.cli.output import say, write_json, write_table

if TYPE_CHECKING:
    from bastion.api.tokens import Tokens
    from bastion.config import Settings
    from bastion.keyring import Keyring

app = typer.Typer(help="Issue, list and revoke tokens of the HTTP API.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the token is called, in logs and in the ledger.")]


@app.command("issue")
def issue(
    name: Name,
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="sessions:read, sessions:write, keys:issue, audit:read or admin; may be repeated.",
        ),
    ],
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="How long: 12h, 90d.")] = "90d",
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Let it do only what this user may.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a token; it is printed once, here, and kept nowhere."""
    seconds = _seconds(expires)
    tokens, keyring, settings = _open(config)
    text = tokens.issue(name, scope, seconds=seconds, user=user)
    try:
        write_ledger(settings, keyring, "token issued", name=name, scopes=scope, of=user, seconds=int(seconds))
    except BaseException:
        tokens.revoke(name)  # a token that stands in no ledger opens nothing
        raise
    typer.echo(text)
    say(f"the token {name} is good for {expires}; nobody can show it a second time")


@app.command("list")
def list_tokens(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the tokens, oldest first; what they are is not known here."""
    tokens, keyring, _ = _open(config)
    found = tokens.list()
    state = {token.name: "good" if keyring.now() < token.expires else "expired" for token in found}
    if as_json:
        facts = [token.model_dump(exclude={"sha256"}) | {"state": state[token.name]} for token in found]
        times = [{key: _time(fact[key]).isoformat() for key in ("created", "expires")} for fact in facts]
        write_json({"tokens": [fact | time for fact, time in zip(facts, times, strict=True)]})
        return
    rows = [(t.name, " ".join(t.scopes), t.user, _time(t.created), _time(t.expires), state[t.name]) for t in found]
    write_table(("NAME", "SCOPES", "USER", "ISSUED", "EXPIRES", "STATE"), rows)


@app.command("revoke")
def revoke(name: Name, *, config: ConfigOption = None) -> None:
    """Revoke a token; the running server knows at once."""
    tokens, keyring, settings = _open(config)
    gone = tokens.revoke(name)
    write_ledger(settings, keyring, "token revoked", name=gone.name, of=gone.user)
    say(f"the token {gone.name} is revoked")


def _open(config: ConfigOption) -> "tuple[Tokens, Keyring, Settings]":
    from bastion.api.tokens import Tokens
    from bastion.keyring import Keyring

    settings = read_settings(config)
    keyring = Keyring(settings.keys.home)
    keyring.load()
    return Tokens(keyring.home, keyring.now), keyring, settings


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from bastion.config import Seconds

    try:
        return TypeAdapter[float](Seconds).validate_python(text)
    except (ValidationError, OverflowError) as error:
        raise typer.BadParameter("write a number and a unit, such as 12h or 90d", param_hint="--expires") from error
