"""`bastion serve`: run the server in the foreground."""

from bastion.cli.options import ConfigOption


def serve(*, config: ConfigOption = None) -> None:
    """Run the server until SIGTERM or SIGINT; `bastion check` says first what would stop it.

    SIGHUP, and a change of the file, read the configuration again: grants, groups, stacks and sessions count at once.
    """
    import asyncio
    import signal

    from bastion import log
    from bastion.app import Reload
    from bastion.app import serve as run
    from bastion.config import load, locate

    path = locate(config)
    reload = Reload(path.absolute()) if path else None
    if reload is not None:  # until the loop has its own handler: what is asked for now is done when it serves
        signal.signal(signal.SIGHUP, lambda *_: reload.ask())
    settings = load(path)
    log.configure(settings.log.format, settings.log.level)
    asyncio.run(run(settings, reload=reload))
