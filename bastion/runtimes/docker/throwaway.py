"""The demo's own container: started from an image that is already here, and removed again."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import docker
from docker.errors import APIError, DockerException

from bastion.runtimes.docker.endpoint import TIMEOUT, unreachable

_PREFERRED: Final = ("busybox", "alpine", "debian", "ubuntu")
_TRIES: Final = 8
_MARK: Final = "bastion.demo"
_WAIT: Final = ["-c", "trap exit TERM INT; while :; do sleep 86400 & wait $!; done"]


class Throwaway:
    """One container of a Docker Engine, without network, that does nothing until it is removed.

    Args:
        host: the engine.
        owner: whose it is; `remove` takes what an earlier run of the same owner left behind too.
    """

    def __init__(self, host: str, owner: str) -> None:
        self._host = host
        self._owner = owner

    def start(self, stack: str, service: str) -> str | None:
        """Start it as this service and return its image's name; None when no image here has a shell. Blocks.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        labels = {_MARK: self._owner, "bastion.stack": stack, "bastion.service": service}
        try:
            with closing(docker.DockerClient(base_url=self._host, timeout=TIMEOUT)) as client:
                for image in _candidates(client):
                    container = client.containers.create(
                        image, _WAIT, entrypoint=["sh"], labels=labels, network_mode="none", hostname=service
                    )
                    try:
                        container.start()
                    except APIError:
                        container.remove(force=True)  # no sh in it: the next one may have one
                    else:
                        return image
        except (DockerException, OSError) as error:
            raise unreachable(self._host, error) from error
        return None

    def remove(self) -> None:
        """Remove every container of this owner. Blocks.

        Raises:
            RuntimeUnreachable: the engine does not answer.
        """
        try:
            with closing(docker.DockerClient(base_url=self._host, timeout=TIMEOUT)) as client:
                for container in client.containers.list(all=True, filters={"label": f"{_MARK}={self._owner}"}):
                    container.remove(force=True)
        except (DockerException, OSError) as error:
            raise unreachable(self._host, error) from error


def _candidates(client: Any) -> Sequence[str]:
    """Return the local images' names, small and well-known ones first."""

    def rank(name: str) -> int:
        base = name.rpartition("/")[2].partition(":")[0]
        return _PREFERRED.index(base) if base in _PREFERRED else len(_PREFERRED)

    names = sorted(tag for image in client.images.list() for tag in image.tags)
    return sorted(names, key=rank)[:_TRIES]
