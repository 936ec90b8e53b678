"""`bastion demo`: a whole bastion in one folder and on loopback, with the lines to paste."""

import asyncio
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bastion.cli.files import new_private_file
from bastion.errors import ConfigurationError

if TYPE_CHECKING:
    from bastion.app import Demonstration
    from bastion.config import Settings

_USER: Final = "demo"
_PORTS_TRIED: Final = 100
_SOCKET_LIMIT: Final = 107


def demo(
    *,
    state: Annotated[Path, typer.Option("--state", metavar="DIR", help="Where its keys and transcripts live.")] = Path(
        ".demo"
    ),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The first port to try.")] = 2222,
) -> None:
    """Run a bastion for trying out: on 127.0.0.1, with keys of its own, in front of what runs here."""
    from bastion import log
    from bastion.config import load

    log.configure("console", "info")
    state = state.absolute()
    _write_configuration(state, _free_port(port))
    settings = load(state / "bastion.toml")
    _make_keys(state, settings)
    asyncio.run(_run(state, settings))


async def _run(state: Path, settings: "Settings") -> None:
    from bastion.app import demonstrate, serve

    async with demonstrate(settings, str(state)) as demonstration:

        def ready(addresses: Sequence[tuple[str, int]]) -> None:
            _pin_host_keys(state, settings, addresses[0])
            _print_lines(state, addresses[0], demonstration)

        await serve(settings, runtimes=demonstration.runtimes, ready=ready)


def _free_port(first: int) -> int:
    for port in range(first, min(first + _PORTS_TRIED, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigurationError(f"no free port from {first} on", "name another with --port")


def _write_configuration(state: Path, port: int) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    api = state / "api.sock"
    if len(os.fsencode(api)) > _SOCKET_LIMIT:
        raise ConfigurationError(f"{state} is too long a path for a socket in it", "name a shorter one with --state")
    engine = os.environ.get("DOCKER_HOST", "")
    lines = [
        "# Written anew by each `bastion demo`.",
        "[ssh]",
        f'listen = ["127.0.0.1:{port}"]',
        'drain_timeout = "0s"',
        "[keys]",
        'home = "keys"',
        "[audit]",
        'directory = "transcripts"',
        "[api]",
        f"listen = {json.dumps(f'unix:{api}')}",
        *(["[docker]", f"host = {json.dumps(engine)}"] if engine.startswith(("unix://", "tcp://")) else []),
        "[[grants]]",
        f'users = ["{_USER}"]',
        'stacks = ["*"]',
        'allow = ["shell", "exec", "files:read", "files:write"]',
    ]
    (state / "bastion.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_keys(state: Path, settings: "Settings") -> None:
    """Make the key home, an auditor and a user's key; those of an earlier run stay."""
    from bastion.cli.ledger import write_ledger
    from bastion.keyring import Keyring
    from bastion.transcripts import generate_identity

    keyring = Keyring(settings.keys.home)
    keyring.init()
    if not (auditor := state / "auditor.key").exists():
        secret, recipient = generate_identity()
        with new_private_file(auditor) as file:
            file.write(f"# public key: {recipient}\n{secret}\n".encode())
        with new_private_file(keyring.home / "auditors" / "demo.pub") as file:
            file.write(f"{recipient}\n".encode())
    keyring.load()
    if not (private := state / "demo.key").exists():
        issued = keyring.issue(_USER)
        write_ledger(settings, keyring, "key issued", user=_USER, key_fingerprint=issued.fingerprint)
        with new_private_file(private) as file:
            file.write(issued.private_text.encode())
    if not any(key.user == _USER and key.state == "good" for key in keyring.list()):
        raise ConfigurationError(f"{private} opens nothing any more", f"start afresh: rm -r {shlex.quote(str(state))}")


def _pin_host_keys(state: Path, settings: "Settings", address: tuple[str, int]) -> None:
    from bastion.keyring import Keyring

    host, port = address
    publics = [path.with_name(f"{path.name}.pub") for path in Keyring(settings.keys.home).host_keys()]
    lines = [" ".join([f"[{host}]:{port}", *path.read_text(encoding="ascii").split()[:2]]) for path in publics]
    (state / "known_hosts").write_text("\n".join(lines) + "\n", encoding="ascii")


def _print_lines(state: Path, address: tuple[str, int], demonstration: "Demonstration") -> None:
    from bastion.log import escape

    host, port = address
    known_hosts = _shown(state / "known_hosts")
    quoted = f'"{known_hosts}"' if " " in known_hosts else known_hosts
    ssh = ["ssh", "-i", _shown(state / "demo.key"), "-p", str(port), "-o", "IdentitiesOnly=yes"]
    ssh += ["-o", f"UserKnownHostsFile={quoted}"]
    here = [_program(), "transcripts"]
    config = ["--config", _shown(state / "bastion.toml")]
    play = [*here, "play", "last", *config, "--identity", _shown(state / "auditor.key")]
    stack, service = demonstration.names[0]
    others = [f"{one_service}@{one_stack}" for one_stack, one_service in demonstration.names[1:]]
    typer.echo(f"\n{escape(demonstration.words)}\n")
    typer.echo(f"  enter it:       {shlex.join([*ssh, f'{service}@{stack}@{host}'])}")
    typer.echo(f"  play it back:   {shlex.join(play)}")
    typer.echo(f"  is it whole?    {shlex.join([*here, 'verify', *config])}")
    typer.echo(f"  stop:           Ctrl-C here; rm -r {shlex.quote(_shown(state))} forgets its keys and transcripts")
    if others:
        typer.echo(f"  also running:   {escape(', '.join(others))}")
    typer.echo()
    sys.stdout.flush()


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _program() -> str:
    """Return how this program is called from here: by its name where PATH finds it, else by its path."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which("bastion")
    return "bastion" if found is not None and Path(found).absolute() == called else _shown(called)
