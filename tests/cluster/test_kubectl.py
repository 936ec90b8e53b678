"""The real kubectl works on the cluster of the tests."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Iterator[str]:
    """Give a ready pod with one container."""
    cluster.deployment("kubectl")
    yield cluster.pods("kubectl")[0]
    cluster.delete("Deployment", "kubectl", grace=0)


def kubectl(cluster: Cluster, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run kubectl in the tests' namespace."""
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "-n", cluster.namespace, *args]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)


def test_get_names_pods(cluster: Cluster, pod: str) -> None:
    """`kubectl get pods` lists them."""
    assert f"pod/{pod}" in kubectl(cluster, "get", "pods", "-o", "name").stdout.split()


def test_exec_keeps_streams_apart(cluster: Cluster, pod: str) -> None:
    """Output, errors and the exit status arrive by themselves."""
    done = kubectl(cluster, "exec", pod, "--", "sh", "-c", "echo o; echo e >&2; exit 7")
    assert (done.stdout, done.returncode) == ("o\n", 7)
    assert done.stderr == "e\ncommand terminated with exit code 7\n"


def test_exec_passes_input_to_its_end(cluster: Cluster, pod: str) -> None:
    """`cat` gives back what it was given, and ends."""
    given = "line\n" * 20_000
    done = kubectl(cluster, "exec", "-i", pod, "--", "cat", given=given)
    assert (done.stdout == given, done.stderr, done.returncode) == (True, "", 0)


def test_exec_is_refused_in_words(cluster: Cluster, pod: str) -> None:
    """A container, a pod or a command that is not there is named."""
    assert f"container x is not valid for pod {pod}" in kubectl(cluster, "exec", pod, "-c", "x", "--", "true").stderr
    assert 'pods "nopod" not found' in kubectl(cluster, "exec", "nopod", "--", "true").stderr
    done = kubectl(cluster, "exec", pod, "--", "nosuch")
    assert re.search(r'exec: "nosuch": executable file not found in \$PATH', done.stderr)
    assert done.returncode == 1


def test_delete_waits_for_the_end(cluster: Cluster, pod: str) -> None:
    """`kubectl delete pod` comes back when the pod is gone, and its workload has made another."""
    cluster.deployment("ended")
    (name,) = cluster.pods("ended")
    assert kubectl(cluster, "delete", "pod", name).stdout.startswith(f'pod "{name}" deleted')
    with pytest.raises(LookupError):
        cluster.get("Pod", name)
    cluster.ready("ended")
    cluster.delete("Deployment", "ended", grace=0)
