"""The Kubernetes runtime: names become pods, requests become execs, and nothing is left behind."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

from bastion.errors import ContainerEnded, NoSuchTarget, RuntimeFailed, RuntimeUnreachable
from bastion.model import Request, Target
from bastion.runtimes import Connection, Exec
from bastion.runtimes.dialling import by_exec
from bastion.runtimes.duties import Duty, DutyRecord, Reaped, Unrecorded
from bastion.runtimes.kubernetes import targets
from bastion.runtimes.kubernetes.cache import Cache
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, refusal
from bastion.runtimes.kubernetes.forward import HERE, forward
from bastion.runtimes.kubernetes.programs import Programs
from bastion.runtimes.kubernetes.rights import missing
from bastion.runtimes.kubernetes.services import Census

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DEFAULT_NAMESPACE: Final = "default"
_HALF_CLOSE: Final = (1, 30)  # the version from which the end of standard input can be passed on
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

_log = structlog.get_logger(__name__)


class KubernetesRuntime:
    """A cluster: one context of a kubeconfig, or the one whose pod the bastion runs in.

    `namespaces` are those of the configured stacks, `toolboxes` the stacks' images for containers without a shell;
    `duties` records what is to be ended.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str | None,
        *,
        name: str = "kubernetes:",
        namespaces: Mapping[str, str] = _NONE,
        toolboxes: Mapping[str, str] = _NONE,
        duties: DutyRecord | None = None,
    ) -> None:
        self.name = name
        self._namespaces = dict(namespaces)
        self._toolboxes = dict(toolboxes)
        self._cluster = Cluster(kubeconfig, context)
        self._cache = Cache(self._cluster, frozenset(self._namespaces.values()))
        self._census = Census(self._cluster)
        self._programs = Programs(
            self._cluster, self._cache, self._toolboxes, runtime=name, duties=duties or Unrecorded()
        )

    async def services(self) -> list[tuple[str, str]]:
        """List (stack, service) of what runs, as far as the bastion may see it; see the port."""
        stacks = dict(self._namespaces)
        everywhere = await self._everywhere()
        if everywhere is None and (own := await self._cluster.namespace()) is not None and self._namespace(own) == own:
            stacks.setdefault(own, own)
        answers = await asyncio.gather(
            *(self._cache.view(namespace) for namespace in stacks.values()), return_exceptions=True
        )
        found = {(stack, service) for stack, service in everywhere or () if self._namespace(stack) == stack}
        found -= {(stack, service) for stack, service in found if stack in stacks}
        for (stack, namespace), answer in zip(stacks.items(), answers, strict=True):
            if isinstance(answer, RuntimeFailed):
                _log.warning("a namespace is left out", namespace=namespace, error=answer.public, detail=answer.detail)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found |= {(stack, service) for service in targets.services(answer)}
        unreachable = [answer for answer in answers if isinstance(answer, RuntimeUnreachable)]
        if unreachable and len(unreachable) == len(answers) and not found:
            raise unreachable[0]
        return sorted(found)

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        """List a service's ready pods, or the pod with that name, each by one container; see the port.

        What is not found is looked for once more in a list made anew: a watch may be behind.
        """
        namespace = self._namespace(stack)
        if namespace is None:
            return []
        try:
            found = self._targets(await self._cache.view(namespace), stack, namespace, service, container)
        except NoSuchTarget:
            found = []
        if found:
            return found
        return self._targets(await self._cache.view(namespace, anew=True), stack, namespace, service, container)

    @asynccontextmanager
    async def exec(self, target: Target, request: Request) -> AsyncIterator[Exec]:
        """Run the request's shell or command in the target's pod; see the port.

        A pod that is not there after all is looked for once more in a list made anew, so that the next find knows.
        """
        async with AsyncExitStack() as running:
            try:
                program = await running.enter_async_context(self._programs.exec(target, request))
            except ContainerEnded:
                await self._look_again(target)
                raise
            yield program

    async def reap(self, duty: Duty) -> Reaped:
        """End what a session left; see the port."""
        return await self._programs.reap(duty)

    def dial(self, target: Target, host: str, port: int) -> AbstractAsyncContextManager[Connection]:
        """Connect to the pod itself by the cluster's port-forward, elsewhere by a helper in the pod; see the port.

        A port-forward has no half-close: `Eof` is kept back.
        """
        if host in HERE:
            return forward(self._cluster, str(target.namespace), str(target.pod_name), port)
        return by_exec(self.exec, target, host, port)

    def archive(self, target: Target) -> None:
        """Return None: a cluster reads no files of its pods."""

    async def faults(self) -> list[RuntimeFailed]:
        """Name the rights that the bastion lacks in each namespace of a configured stack, or else in its own."""
        namespaces = sorted(set(self._namespaces.values()))
        if not namespaces:
            namespaces = [await self._cluster.namespace() or _DEFAULT_NAMESPACE]
        with_toolbox = {self._namespaces.get(stack, stack) for stack in self._toolboxes}
        answers = [
            await missing(
                self._cluster,
                namespace,
                toolbox=namespace in with_toolbox,
                unlisted=self._cache.unlisted(namespace),
            )
            for namespace in namespaces
        ]
        return [answer for answer in answers if answer is not None]

    async def ping(self) -> str:
        """Return the cluster's version and address, and what it cannot do; see the port."""
        try:
            answer = await self._cluster.get("/version")
        except Answered as answered:
            raise refusal(answered, "get its version") from answered
        words = f"Kubernetes {ascii(str(answer.get('gitVersion'))[:40])[1:-1]} at {await self._cluster.server()}"
        version = re.match(r"v(\d{1,3})\.(\d{1,3})\b", str(answer.get("gitVersion")), re.ASCII)
        if version is not None and (int(version[1]), int(version[2])) < _HALF_CLOSE:
            words += ", which does not pass on the end of standard input (1.30 does)"
        return words

    async def close(self) -> None:
        """Wait for what is being ended, stop watching, and let go of every connection."""
        await self._programs.close()
        await self._cache.close()
        await self._cluster.close()

    async def _look_again(self, target: Target) -> None:
        """List a namespace anew, unless its watch knows already that the target has ended."""
        namespace = str(target.namespace)
        with contextlib.suppress(RuntimeFailed):
            known = (await self._cache.view(namespace)).pods.get(str(target.pod_name))
            if not targets.difference(target, known):
                await self._cache.view(namespace, anew=True)

    def _namespace(self, stack: str) -> str | None:
        """Return the namespace of a stack: mapped, or of its own name if no other stack is mapped to that."""
        if stack in self._namespaces:
            return self._namespaces[stack]
        is_free = _NAMESPACE.fullmatch(stack) is not None and stack not in self._namespaces.values()
        return stack if is_free else None

    def _targets(
        self, view: targets.View, stack: str, namespace: str, service: str, container: str | None
    ) -> list[Target]:
        return targets.find(view, service, container, runtime=self.name, stack=stack, namespace=namespace)

    async def _everywhere(self) -> set[tuple[str, str]] | None:
        """Return (namespace, service) of all namespaces; None if they may not be listed, or the list failed."""
        try:
            return await self._census.services()
        except Answered as answered:
            _log.warning("the namespaces are not listed", error=str(answered))
            return None
