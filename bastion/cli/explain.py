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
    from bastion.keyring.clock import Clock
    from bastion.model import Identity
    from bastion.policy import NOT_SERVED, Policy, lines
    from bastion.targets import parse

    path = locate(config)
    settings = load(path)
    asked = parse(name)
    if asked.stack is None:
        raise ConfigurationError(f"{name} names no stack", "write SERVICE@STACK, such as web@mystack")
    clock = Clock(settings.keys.home / "clock")
    clock.load()
    policy = Policy(settings.grants, settings.stacks, settings.groups, clock=clock.now)
    verdicts = policy.verdicts(user, asked)
    files = policy.file_access(Identity(user, "", ""), asked)
    paths = {"files:read": files.read, "files:write": files.write}
    if as_json:
        write_json(
            {
                "user": user,
                "name": name,
                "allowed": {word: [f"grants[{number}]" for number in one.grants] for word, one in verdicts.items()},
                "refused": {word: one.why_not for word, one in verdicts.items() if not one.grants},
                "not_served": sorted(NOT_SERVED),
                "paths": paths,
            }
        )
    else:
        rows = [
            (
                word,
                "allowed" if one.grants else "refused",
                (lines(one.grants) or one.why_not)
                + ("; it is not served yet" if one.grants and word in NOT_SERVED else ""),
                ", ".join(paths.get(word, ())),
            )
            for word, one in verdicts.items()
        ]
        write_table(("PERMISSION", "VERDICT", "BY", "PATHS"), rows)
        for number in sorted({number for one in verdicts.values() for number in one.grants}):
            words = _words(settings.grants[number].model_dump(mode="json", exclude_defaults=True))
            typer.echo(f"{lines([number])}: {words}")
    if not any(one.grants for one in verdicts.values()):
        raise typer.Exit(1)


def _words(grant: dict[str, object]) -> str:
    return ", ".join(f"{key} = {_value(value)}" for key, value in grant.items())


def _value(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
