"""Run the stand-in cluster until standard input ends: `python -m tests.cluster FOLDER DOCKER_HOST`."""

import asyncio
import logging
import os
import shutil
import sys
from pathlib import Path

from aiohttp import web

from tests.cluster.docker import Docker
from tests.cluster.node import Node
from tests.cluster.rights import Rights
from tests.cluster.runc import adopt_orphans, read
from tests.cluster.server import Server
from tests.cluster.store import Store


async def main(folder: Path, host: str) -> None:
    """Serve; the port is written to FOLDER/port when all is ready, switches are taken at FOLDER/control."""
    parent = os.getppid()
    adopt_orphans()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writing to a client that has gone
    store = Store()
    for name in ("default", "kube-system"):
        store.create(("namespaces", "", name), {"kind": "Namespace", "apiVersion": "v1", "status": {"phase": "Active"}})
    node = Node(store, Docker(host, folder.name, folder))
    token = (folder / "serviceaccount/token").read_text()
    server = Server(node, folder, Rights(token, "system:serviceaccount:default:bastion"))
    control = web.Application()
    control.router.add_post("/", server.control)
    runner = web.AppRunner(control, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "control")).start()
    await server.start()
    (folder / "port.new").write_text(str(server.port))
    (folder / "port.new").rename(folder / "port")
    os.set_blocking(0, False)
    while await read(0, 1):
        pass
    await server.close()
    await node.close()
    await runner.cleanup()
    if os.getppid() != parent:  # the tests were killed and remove nothing
        shutil.rmtree(folder)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
