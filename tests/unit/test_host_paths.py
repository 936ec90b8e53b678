"""Which paths of a host hand over a container engine when they are mounted (threats C9, E11)."""

from pathlib import Path

import pytest

from bastion.runtimes.host_paths import opens_engine, socket_paths


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/run", "/run/", "/var", "/var/run", "/var/run/", "/run/../run", "/var/./run/docker.sock",
        "/run/docker.sock", "/var/run/docker.sock", "/srv/any/docker.sock", "/home/a/.docker/run/docker.sock",
        "/run/docker", "/run/podman", "/run/podman/podman.sock", "/run/containerd",
        "/var/run/containerd/containerd.sock",
        "/run/k3s", "/run/k3s/containerd", "/run/crio", "/run/crio/crio.sock", "/run/cri-dockerd.sock",
        "/run/dockershim.sock", "/run/buildkit", "/run/buildkit/buildkitd.sock",
        "/run/containerd/containerd.sock.ttrpc",
        "/run/user", "/run/user/1000", "/run/user/1000/docker.sock", "/run/user/1000/podman", "/var/run/user/0",
        "/run/user/1000/podman/podman.sock", "/run/user/1000/docker", "/var/lib", "/var/lib/kubelet",
        "/var/lib/kubelet/device-plugins", "/var/lib/kubelet/device-plugins/kubelet.sock", "/opt", "/opt/engine",
        "/opt/engine/own.sock", "/proc/1/root", "/proc/1/root/run", "/proc/self/cwd", "/proc/thread-self/fd/3",
    ],
)  # fmt: skip
def test_E11_path_leads_to_an_engine(path: str) -> None:
    """A socket of an engine, of its parts or a kubelet, one that is configured, and each folder above one of them."""
    assert opens_engine(path, sockets=socket_paths(["tcp://127.0.0.1:1", "unix:///opt/engine/own.sock"]))


@pytest.mark.parametrize(
    "path",
    [
        "", "run", "volume", "/srv", "/etc", "/opt/other", "/opt/engine/own.sock.d", "/opt/engin", "/run/app",
        "/runner",
        "/run/user/1000/pulse", "/run/user/1000/wayland-0", "/var/lib/app", "/var/log",
        "/var/lib/kubelet/pods/x/volumes",
        "/proc/sys", "/tmp/control.sock", "/var/runner",
    ],
)  # fmt: skip
def test_other_path_does_not(path: str) -> None:
    """What holds no such socket may be mounted."""
    assert not opens_engine(path, sockets=socket_paths(["unix:///opt/engine/own.sock"]))


def test_E11_socket_behind_a_link_is_known_by_both_paths(tmp_path: Path) -> None:
    """The socket's own folder leads to it, and the link's."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "engine")
    sockets = socket_paths([f"unix://{tmp_path}/link/own.sock"])
    assert opens_engine(f"{tmp_path}/link", sockets=sockets)
    assert opens_engine(f"{tmp_path}/engine", sockets=sockets)
    assert not opens_engine(f"{tmp_path}/engine/exec", sockets=sockets)


def test_part_of_a_source_is_what_counts() -> None:
    """Of a volume of which only a part is mounted the part counts."""
    assert opens_engine("/var", "run")
    assert not opens_engine("/var", "log")
