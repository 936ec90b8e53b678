"""The options that commands share, and how a configuration is found and read for a command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bastion.config import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file.  [default: $BASTION_CONFIG, ./bastion.toml, /etc/bastion/bastion.toml]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Write to this new file, mode 0600, instead of standard output."),
]


def read_settings(config: Path | None) -> "Settings":
    """Find and read the configuration.

    Raises:
        ConfigurationError: the file asked for is not there, or something in it is wrong.
    """
    from bastion.config import load, locate

    return load(locate(config))
