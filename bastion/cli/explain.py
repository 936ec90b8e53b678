"""`bastion check --user alice web@mystack`: what the grants let a user do there, and which line says so."""

from pathlib import Path

import typer

from bastion.cli.output import write_json, write_table
from bastion.errors import ConfigurationError


def explain(config: Path | None, user: str, name: str, *, as_json: bool) -> None:
    """Print for each permission whether it is allowed, and by which grant; exit 1 when none is.

    No engine is asked: a service that does not run is judged like one that does.

    Raises:
        ConfigurationError: something in the configuration is wrong.
        NoSuchTarget: the name is none.
    """
    from bastion.config import load, locate
    from bastion.keyring import Keyring
    from bastion.model import Identity
    from bastion.policy import Policy
    from bastion.targets import parse

    path = locate(config)
    settings = load(path)
    asked = parse(name)
    if asked.stack is None:
        raise ConfigurationError(f"{name} names no stack", "write SERVICE@STACK, such as web@mystack")
    keyring = Keyring(settings.keys.home)
    policy = Policy(settings.grants, settings.stacks, settings.groups, clock=keyring.now)
    verdicts = policy.verdicts(user, asked)
    files = policy.file_access(Identity(user, "", ""), asked)
    paths = {"files:read": files.read, "files:write": files.write}
    if as_json:
        allowed = {word: _line(number) for word, number in verdicts.items()}
        write_json({"user": user, "name": name, "allowed": allowed, "paths": paths})
    else:
        rows = [
            (
                word,
                "allowed" if number is not None else "refused",
                _line(number) or "no grant",
                ", ".join(paths.get(word, ())),
            )
            for word, number in verdicts.items()
        ]
        write_table(("PERMISSION", "VERDICT", "BY", "PATHS"), rows)
        for number in sorted({number for number in verdicts.values() if number is not None}):
            typer.echo(
                f"{_line(number)}: {_words(settings.grants[number].model_dump(mode='json', exclude_defaults=True))}"
            )
    if all(number is None for number in verdicts.values()):
        raise typer.Exit(1)


def _line(number: int | None) -> str | None:
    return None if number is None else f"grants[{number}]"


def _words(grant: dict[str, object]) -> str:
    return ", ".join(f"{key} = {_value(value)}" for key, value in grant.items())


def _value(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
