"""`bastion sessions …`: the live sessions of the running server, through its API."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bastion.cli.options import ConfigOption, JsonOption, read_settings
from bastion.cli.output import say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from bastion.model import Session

app = typer.Typer(help="List, show and end live sessions.")

Uid = Annotated[str, typer.Argument(metavar="UID", help="The session's uid.")]


@app.command("list")
def list_sessions(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the live sessions, oldest first."""
    from bastion.cli.client import ask
    from bastion.model import Session

    answer = ask(read_settings(config).api.socket, "GET", "/api/sessions")
    if as_json:
        write_json(answer)
        return
    sessions = [Session.model_validate(one) for one in answer["sessions"]]
    rows = [(s.uid, s.user, s.stack, s.service_name, s.state, s.created_at, s.client_address) for s in sessions]
    write_table(("UID", "USER", "STACK", "SERVICE", "STATE", "SINCE", "FROM"), rows)


@app.command("show")
def show_session(uid: Uid, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one live session."""
    session, answer = _session(uid, "GET", config)
    if as_json:
        write_json(answer)
    else:
        write_fields(dict(session))


@app.command("end")
def end_session(
    uid: Uid,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What the user is told.")],
    config: ConfigOption = None,
) -> None:
    """End one live session: its programs end, and its user reads the reason."""
    session, _ = _session(uid, "DELETE", config, reason=reason)
    say(f"session {session.uid} of {session.user} in {session.service_name}@{session.stack} is ended")


def _session(uid: str, method: str, config: ConfigOption, **parameters: str) -> "tuple[Session, Any]":
    from urllib.parse import quote

    from bastion.cli.client import ask
    from bastion.model import Session

    answer = ask(read_settings(config).api.socket, method, f"/api/sessions/{quote(uid, safe='')}", **parameters)
    return Session.model_validate(answer), answer
