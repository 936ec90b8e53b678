"""The command line: which commands there are, and the one place where their failures become words and exit statuses."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from bastion.cli import check, demo, keys, serve, sessions, ssh_config, tokens, transcripts
from bastion.cli.output import show_error
from bastion.errors import BastionError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="bastion",
    help="An SSH server that opens shells in running containers and keeps an encrypted record.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage. BASTION_DEBUG=1 shows tracebacks.",
    add_completion=False,
    rich_markup_mode=None,  # rich alone would cost 200 ms before the first word
    pretty_exceptions_enable=False,
)
app.command("serve", short_help="Run the server")(serve.serve)
app.command("check", short_help="Say what would stop the server")(check.check)
app.command("demo", short_help="Try it out, on loopback")(demo.demo)
app.command("ssh-config", short_help="Print a user's ssh_config blocks")(ssh_config.ssh_config)
app.add_typer(keys.app, name="keys")
app.add_typer(sessions.app, name="sessions")
app.add_typer(tokens.app, name="tokens")
app.add_typer(transcripts.app, name="transcripts")


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if value:
        from importlib.metadata import version

        typer.echo(f"bastion {version('bastion')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def main() -> NoReturn:
    """Run the program with this process's arguments and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; say on standard error what failed, and return the exit status."""
    try:
        status = app(list(arguments), prog_name="bastion", standalone_mode=False)
        sys.stdout.flush()
    except BastionError as error:
        show_error(error.public, error.hint)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "bastion"
        words = error.format_message().rstrip(".")
        show_error(words[:1].lower() + words[1:], f"{command} --help says how it is used")
        return WRONG_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; what Python still holds for it must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _raise_for_debugging()
        words = (error.strerror or str(error)).lower()
        show_error(f"{error.filename}: {words}" if error.filename else words)
    except Exception:  # noqa: BLE001 - the outermost place: nobody else is left to catch it
        _raise_for_debugging()
        show_error("internal error", "BASTION_DEBUG=1 in the environment shows where; please report it")
    else:
        return status if isinstance(status, int) else DONE
    return FAILED


def _raise_for_debugging() -> None:
    if os.environ.get("BASTION_DEBUG") == "1":
        raise  # noqa: PLE0704 - called from an except clause only
