"""The ways into a pod: the bastion with and without its record, the adapter alone, and `kubectl exec`."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bastion.model import Data, Name, Request
from bastion.runtimes.kubernetes import KubernetesRuntime
from bench import files
from bench.contenders import Contender, bastion
from bench.measure import MIB, SIZE
from tests.cluster import Cluster
from tests.engine import Engine

KUBECTL, POD, POD_BARE = "kubectl exec", "bastion, pod", "bastion, pod, no record"


@dataclass(frozen=True)
class Pod(Contender):
    """A contender that is a bastion before a cluster; the adapter is reached without it, by its kubeconfig."""

    kubeconfig: Path = Path()
    namespace: str = ""
    mover: files.Mover | None = None


@contextmanager
def pods(engine: Engine, folder: Path) -> Iterator[tuple[list[Contender], str]]:
    """Make a pod, start the servers before its cluster, and give every way in and what cluster it is.

    `kubectl exec` is among them on a real cluster only: before the stand-in it would measure the stand-in.
    """
    cluster = Cluster(engine)
    with ExitStack() as stack:
        stack.callback(cluster.close)
        cluster.deployment("web")
        (name,) = cluster.pods("web")
        cluster.look(name, f"head -c {SIZE} /dev/urandom > /tmp/random")
        sections = (
            f'[kubernetes]\nkubeconfig = "{cluster.kubeconfig}"\n'
            f'[[stacks]]\nname = "bench"\nruntime = "kubernetes"\nnamespace = "{cluster.namespace}"\n'
        )
        every: list[Contender] = []
        for title, module in ((POD, "bastion"), (POD_BARE, "bench.unrecorded")):
            made = bastion(stack, title, folder / module, sections, module)
            mover = files.over_ssh(title, made, "web@bench", folder)
            every.append(Pod(**vars(made), kubeconfig=cluster.kubeconfig, namespace=cluster.namespace, mover=mover))
        if cluster.real and (kubectl := shutil.which("kubectl")) is not None:
            of_pod = [kubectl, "--kubeconfig", str(cluster.kubeconfig), "-n", cluster.namespace]
            into = [*of_pod, "exec"]
            copy = files.Mover(
                KUBECTL,
                lambda there, here: [*of_pod, "cp", f"{name}:{there}", str(here)],
                lambda here, there: [*of_pod, "cp", str(here), f"{name}:{there}"],
            )
            every.append(
                Pod(
                    KUBECTL,
                    lambda command, *, tty=False: [*into, "-it" if tty else "-i", name, "--", "sh", "-c", command],
                    list,
                    mover=copy,
                )
            )
        yield every, asyncio.run(_version(cluster))


def fetch(contender: Contender) -> float:
    """Return MiB/s of 256 MiB of random bytes out of the pod by scp, or by `kubectl cp`."""
    assert isinstance(contender, Pod)
    assert contender.mover is not None
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as folder:
        return files.fetch(contender.mover, Path(folder))


def send(contender: Contender) -> float:
    """Return MiB/s of 256 MiB of random bytes into the pod by scp, or by `kubectl cp`."""
    assert isinstance(contender, Pod)
    assert contender.mover is not None
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as folder:
        (Path(folder) / "sent").write_bytes(os.urandom(SIZE))
        return files.send(contender.mover, Path(folder))


def adapter(contender: Contender) -> float:
    """Return MiB/s of 256 MiB of random bytes out of the pod by the adapter alone: no SSH, no record."""
    assert isinstance(contender, Pod)
    return asyncio.run(_adapter(contender))


async def _adapter(contender: Pod) -> float:
    runtime = KubernetesRuntime(contender.kubeconfig, None, namespaces={"bench": contender.namespace})
    try:
        (target,) = await runtime.find("bench", "web")
        request = Request("bench-adapter", Name("web"), "exec", "cat /tmp/random")
        size, began = 0, time.perf_counter()
        async with runtime.exec(target, request) as program:
            async for event in program:
                size += len(event.payload) if isinstance(event, Data) else 0
            took = time.perf_counter() - began
            if size != SIZE or (await program.wait()).status != 0:
                raise RuntimeError(f"the adapter gave {size} bytes")
        return SIZE / MIB / took
    finally:
        await runtime.close()


async def _version(cluster: Cluster) -> str:
    runtime = KubernetesRuntime(cluster.kubeconfig, None)
    try:
        version = (await runtime.ping()).partition(" at ")[0]
    finally:
        await runtime.close()
    return version if cluster.real else "the tests' stand-in for a cluster, on this machine: the relay's own ceiling"
