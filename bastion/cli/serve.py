"""`bastion serve`: run the server in the foreground."""

from bastion.cli.options import ConfigOption, read_settings


def serve(*, config: ConfigOption = None) -> None:
    """Run the server until SIGTERM or SIGINT; `bastion check` says first what would stop it."""
    import asyncio

    from bastion import log
    from bastion.app import serve as run

    settings = read_settings(config)
    log.configure(settings.log.format, settings.log.level)
    asyncio.run(run(settings))
