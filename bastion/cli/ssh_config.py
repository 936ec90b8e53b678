"""`bastion ssh-config`: the blocks that make plain `ssh web@mystack.bastion` work from any OpenSSH client."""

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bastion.cli.options import ConfigOption, JsonOption, read_settings
from bastion.cli.output import say, write_json
from bastion.errors import BastionError, ConfigurationError
from bastion.grammar import NAME_PART

if TYPE_CHECKING:
    from bastion.config import Settings

_NAME: Final = re.compile(NAME_PART)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_%-]{0,252}")
_EVERYWHERE: Final = ("0.0.0.0", "::", "")
_LARGEST_PORT: Final = 65535


def ssh_config(
    *,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Where clients reach the server.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=_LARGEST_PORT, help="Its port.")] = None,
    identity: Annotated[str | None, typer.Option("--identity", metavar="FILE", help="The user's private key.")] = None,
    stack: Annotated[
        list[str] | None,
        typer.Option("--stack", metavar="STACK", help="Repeatable.  [default: all that are known]"),
    ] = None,
    domain: Annotated[str, typer.Option("--domain", metavar="NAME", help="What follows the stack's name.")] = "bastion",
    known_hosts: Annotated[bool, typer.Option("--known-hosts", help="Print the known_hosts lines only.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what goes into a user's ~/.ssh/config, before any `Host *`, and the line for their known_hosts."""
    settings = read_settings(config)
    if not _NAME.fullmatch(domain):
        raise typer.BadParameter("must be a name", param_hint="--domain")
    pins = _known_hosts(settings, domain)
    if known_hosts:
        typer.echo("\n".join(pins))
        return
    address = _address(settings, host, port)
    stacks = sorted(set(stack)) if stack else asyncio.run(_known_stacks(settings))
    if not all(_NAME.fullmatch(name) for name in stacks):
        raise typer.BadParameter("must be a stack's name", param_hint="--stack")
    blocks = _blocks(address, identity, stacks, domain)
    if as_json:
        write_json({"stacks": stacks, "config": blocks, "known_hosts": pins})
        return
    comment = "".join(f"#   {line}\n" for line in pins)
    typer.echo(f"# for ~/.ssh/known_hosts; --known-hosts prints it alone:\n{comment}\n{blocks}", nl=False)


def _address(settings: "Settings", host: str | None, port: int | None) -> tuple[str, int]:
    listen_host, _, listen_port = settings.ssh.listen[0].rpartition(":") if settings.ssh.listen else ("", "", "")
    chosen = host or listen_host.removeprefix("[").removesuffix("]")
    if chosen in _EVERYWHERE:
        raise ConfigurationError("the server listens on every address", "say which one clients use: --host NAME")
    if not _HOST.fullmatch(chosen):
        raise typer.BadParameter("must be a name or an address", param_hint="--host")
    if port is None and not listen_port.isdecimal():
        raise ConfigurationError("ssh.listen names no port", "say which one clients use: --port NUMBER")
    return chosen, port or int(listen_port)


async def _known_stacks(settings: "Settings") -> list[str]:
    """Return the stacks that the configuration names and those that run; what no name can be is left out."""
    from bastion.app import build_runtimes

    named = {stack.name for stack in settings.stacks} | {name for grant in settings.grants for name in grant.stacks}
    for runtime in build_runtimes(settings).values():
        try:
            named |= {stack for stack, _ in await runtime.services()}
        except BastionError as error:
            say(f"warning: {error.public}; stacks that only run there are not in the list")
        finally:
            await runtime.close()
    return sorted(name for name in named if _NAME.fullmatch(name))


def _known_hosts(settings: "Settings", domain: str) -> list[str]:
    from bastion.keyring import Keyring

    keyring = Keyring(settings.keys.home)
    keyring.load()
    lines = []
    for path in keyring.host_keys():
        words = path.with_name(f"{path.name}.pub").read_text(encoding="ascii", errors="replace").split()
        lines.append(" ".join([domain, *words[:2]]))
    return lines


def _blocks(address: tuple[str, int], identity: str | None, stacks: list[str], domain: str) -> str:
    """Return a block for each stack, and one with what they share.

    The stack travels in the environment: but for the user name, no ssh_config token reaches a server. A ControlMaster's
    socket must then differ between stacks, as a master gives all its sessions its own environment, and %C does not.
    """
    blocks = []
    for name in stacks:
        tag = hashlib.sha256(name.encode()).hexdigest()[:8]
        blocks.append(f"Host {name}.{domain}\n    SetEnv BASTION_STACK={name}\n    ControlPath ~/.ssh/{tag}-%C\n")
    host, port = address
    common = [
        f"HostName {host}",
        f"Port {port}",
        f"HostKeyAlias {domain}",
        *([f"IdentityFile {_quoted(identity)}", "IdentitiesOnly yes"] if identity else []),
    ]
    blocks.append(f"Host {domain} *.{domain}\n" + "".join(f"    {line}\n" for line in common))
    return "\n".join(blocks)


def _quoted(path: str) -> str:
    if not path.isprintable() or '"' in path:
        raise typer.BadParameter("must be a path without quotes and control characters", param_hint="--identity")
    return f'"{path}"' if " " in path else path
