"""Legacy scp (`scp -O`), served over the port to a container's files where the container has no scp of its own."""

from bastion.files import Files
from bastion.files.scp.command import ScpCommand, parse_scp
from bastion.files.scp.sink import Sink
from bastion.files.scp.source import Source
from bastion.files.scp.wire import ScpEnded, Wire
from bastion.model import Channel

__all__ = ["ScpCommand", "parse_scp", "serve_scp"]


async def serve_scp(channel: Channel, files: Files, command: ScpCommand) -> int:
    """Give or take files as the client asks; return the exit status, 1 when anything went wrong on either side.

    A `FileFailed` is told to the client, and the rest goes on; what else is raised comes out as it is.
    """
    wire = Wire(channel)
    end = Sink(wire, files, command) if command.receives else Source(wire, files, command)
    try:
        await end.serve()
    except ScpEnded as ended:
        if words := str(ended):
            await wire.complain(b"", words)
        wire.failures += 1
    return 1 if wire.failures else 0
