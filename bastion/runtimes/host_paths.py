"""Say which paths of a host, mounted into a container, hand over a container engine and with it the host."""

import os
import posixpath
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import urlsplit

# Where engines, their parts and a kubelet listen by default. A folder above any of them holds it too.
_SOCKETS: Final = (
    "/run/docker.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/docker/swarm/control.sock",
    "/run/docker/plugins/plugin.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/containerd/containerd.sock.ttrpc",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/dockershim.sock",
    "/run/buildkit/buildkitd.sock",
    "/var/lib/kubelet/device-plugins/kubelet.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
)
# Of these names a socket is an engine's, wherever it lies.
_SOCKET_NAMES: Final = frozenset(posixpath.basename(path) for path in _SOCKETS) - {"control.sock", "plugin.sock"} | {
    "docker.raw.sock",
    "docker.sock.raw",
}
_USERS: Final = "/run/user"  # a rootless engine listens in a folder of its user's
_USER_FOLDERS: Final = frozenset(
    {"buildkit", "containerd", "containerd-rootless", "docker", "dockerd-rootless", "podman"}
)
_USER_DEPTH: Final = 4  # of the parts of /run/user/1000


def socket_paths(hosts: Iterable[str]) -> frozenset[str]:
    """Return the paths of the sockets among the addresses of engines, and the paths that links in these lead to."""
    paths = [urlsplit(host).path for host in hosts if host.startswith("unix://")]
    return frozenset(_normal(path) for name in paths if name for path in (name, os.path.realpath(name)))


def opens_engine(source: str, below: str = "", sockets: Collection[str] = ()) -> bool:
    """Tell whether `below` in the path `source` is an engine's socket or a folder above one.

    `sockets` are those that the configuration names, as `socket_paths` returns them, beside the well-known ones. A
    source that is not absolute is no path of the host.
    """
    if not source.startswith("/"):
        return False
    path = _normal(posixpath.join("/", source.strip("/"), below.strip("/")))
    if posixpath.basename(path) in _SOCKET_NAMES:
        return True
    folder = path.rstrip("/") + "/"
    if any(socket == path or socket.startswith(folder) for socket in (*_SOCKETS, *sockets)):
        return True
    parts = path.split("/")
    if path.startswith("/proc/") and (parts[2].isdecimal() or parts[2].endswith("self")):
        return True  # root, cwd and fd of a process lead to any place of the host
    is_users = path == _USERS or path.startswith(_USERS + "/")
    return is_users and (len(parts) <= _USER_DEPTH or (len(parts) == _USER_DEPTH + 1 and parts[-1] in _USER_FOLDERS))


def _normal(path: str) -> str:
    """Return a path without `.`, `..` and doubled slashes; /var/run is /run on every system that has engines."""
    path = posixpath.normpath("/" + path.strip("/"))
    return path.removeprefix("/var") if path == "/var/run" or path.startswith("/var/run/") else path
