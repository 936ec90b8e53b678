"""`bastion sessions …`: the sessions of the running server and its companions, through its API."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bastion.cli.options import ConfigOption, JsonOption, read_settings
from bastion.cli.output import say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from bastion.cli.watching import Screen
    from bastion.model import Session

app = typer.Typer(help="List, show, watch and end sessions.")

Uid = Annotated[str, typer.Argument(metavar="UID", help="The session's uid.")]


@app.command("list")
def list_sessions(
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended too, newest first.")] = False,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Only this user's.")] = None,
    stack: Annotated[str | None, typer.Option("--stack", metavar="STACK", help="Only those in this stack.")] = None,
    service: Annotated[str | None, typer.Option("--service", metavar="SERVICE", help="Only of this service.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the live sessions, oldest first; at most a thousand."""
    from bastion.cli.client import ask
    from bastion.model import Session

    wanted = {"user": user, "stack": stack, "service": service, "live": "false" if ended else None}
    query = {name: value for name, value in wanted.items() if value is not None}
    answer = ask(read_settings(config).api, "GET", "/api/sessions", per_page=1000, **query)
    if as_json:
        write_json(answer)
        return
    sessions = [Session.model_validate(one) for one in answer["sessions"]]
    rows = [(s.uid, s.user, s.stack, s.service_name, s.state, s.created_at, s.client_address) for s in sessions]
    write_table(("UID", "USER", "STACK", "SERVICE", "STATE", "SINCE", "FROM"), rows)
    if answer["total"] > len(sessions):
        say(f"these are {len(sessions)} of {answer['total']}")


@app.command("show")
def show_session(uid: Uid, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one session, live or ended."""
    session, answer = _session(uid, "GET", config)
    if as_json:
        write_json(answer)
    else:
        write_fields(dict(session))


@app.command("watch")
def watch_session(uid: Uid, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Follow what a live session shows, from now on; its user is told, and so is the ledger. Control-C leaves."""
    from urllib.parse import quote

    from bastion.cli.client import follow
    from bastion.cli.watching import Screen

    events = follow(read_settings(config).api, f"/api/sessions/{quote(uid, safe='')}/watch")
    if as_json:
        for kind, data in events:
            sys.stdout.write(json.dumps({"event": kind} | data) + "\n")
            sys.stdout.flush()
        return
    screen = Screen(sys.stdout, say)
    try:
        _show(screen, events)
    finally:
        screen.restore()


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


def _show(screen: "Screen", events: Any) -> None:
    try:
        for kind, data in events:
            screen.show(kind, data)
    except KeyboardInterrupt:
        return


def _session(uid: str, method: str, config: ConfigOption, **parameters: str) -> "tuple[Session, Any]":
    from urllib.parse import quote

    from bastion.cli.client import ask
    from bastion.model import Session

    answer = ask(read_settings(config).api, method, f"/api/sessions/{quote(uid, safe='')}", **parameters)
    return Session.model_validate(answer), answer
