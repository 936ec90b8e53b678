"""Containers whose mounts lead to the engine, attacked on the running server (threats C9, E11)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import containers_socket
from tests.e2e.server import Bastion
from tests.engine import Engine

REFUSED = 252
GRANTS = """
[[stacks]]
name = "trusted"
allow_privileged = true
[[grants]]
users = ["alice"]
stacks = ["*"]
"""


@pytest.fixture(scope="module")
def mounting(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a bastion, and containers that mount the folder of its engine's socket, each in another way."""
    folder = tmp_path_factory.mktemp("mounts")
    run = Path(containers_socket(engine)).parent
    link = folder / "link"
    link.symlink_to(run)
    options = ("type=none", "o=bind", f"device={run}")
    engine.docker("volume", "create", *(word for option in options for word in ("--opt", option)), "mounts-bound")
    volumes = {"folder": f"{run}:/host", "link": f"{link}:/host", "volume": "mounts-bound:/host", "plain": "/host"}
    names = {service: f"mounts-{service}-1" for service in volumes}
    for service, volume in volumes.items():
        engine.start(names[service], engine.image_busybox, stack="mounts", service=service, args=["--volume", volume])
    names["trusted"] = "trusted-folder-1"
    arguments = ["--volume", volumes["folder"]]
    engine.start(names["trusted"], engine.image_busybox, stack="trusted", service="folder", args=arguments)
    server = Bastion(folder / "bastion", f'[docker]\nhost = "{engine.host}"\n', grants=GRANTS).start()
    yield server
    assert server.stop() == 0
    engine.remove(*names.values())
    engine.docker("volume", "rm", "mounts-bound")


@pytest.mark.parametrize("service", ["folder", "link", "volume"])
def test_E11_a_container_that_mounts_the_sockets_folder_is_refused(mounting: Bastion, service: str) -> None:
    """Neither the folder, a link to it nor a volume that is bound to it is a way from a container into its host."""
    done = mounting.ssh("ls /host", name=f"{service}@mounts")
    assert done.returncode == REFUSED, done
    assert b"docker.sock" not in done.stdout
    assert b"mounts the Docker socket" in done.stderr
    assert b"allow_privileged = true" in done.stderr


def test_E11_a_stack_may_allow_it(mounting: Bastion) -> None:
    """Where the stack says so, and where the volume leads nowhere, the container is entered."""
    trusted = mounting.ssh("ls /host", name="folder@trusted")
    assert (trusted.returncode, b"docker.sock" in trusted.stdout) == (0, True), trusted.stderr
    plain = mounting.ssh("ls /host", name="plain@mounts")
    assert (plain.returncode, plain.stdout) == (0, b""), plain.stderr
