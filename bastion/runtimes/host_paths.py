"""Say which paths of a host, mounted into a container, hand over its engine and with it the host."""

import posixpath
from typing import Final

_SOCKETS: Final = frozenset(
    {"docker.sock", "podman.sock", "containerd.sock", "crio.sock", "docker.sock.raw", "buildkitd.sock"}
)
_FOLDERS: Final = frozenset(
    {"/", "/run", "/var", "/run/docker", "/run/podman", "/run/containerd", "/run/crio", "/run/k3s"}
    | {"/run/k3s/containerd", "/run/dockershim.sock"}
)


def opens_engine(source: str, below: str = "") -> bool:
    """Tell whether `below` in the path `source` is an engine's socket or a folder that holds one.

    /var/run is /run; a source that is not absolute is no path of the host.
    """
    if not source.startswith("/"):
        return False
    path = posixpath.normpath(posixpath.join("/", source.strip("/"), below.strip("/")))
    if path == "/var/run" or path.startswith("/var/run/"):
        path = path.removeprefix("/var")
    return posixpath.basename(path) in _SOCKETS or path in _FOLDERS
