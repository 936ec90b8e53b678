"""Make the adapters that the configuration asks for; each one's module is imported only then."""

from collections.abc import Iterator, Mapping
from typing import Any

from bastion.config import KUBERNETES, Settings
from bastion.runtimes import Runtime
from bastion.runtimes.duties import DutyRecord


class Adapters(Mapping[str, Runtime]):
    """One adapter for each engine that the configuration names: the default one, and those of the stacks."""

    def __init__(self, settings: Settings, duties: DutyRecord | None = None) -> None:
        self._duties = duties
        self._now: dict[str, Runtime] = {}
        self._made_of: dict[str, dict[str, Any]] = {}
        self._retired: list[Runtime] = []
        self.apply(settings)

    def __getitem__(self, engine: str) -> Runtime:
        return self._now[engine]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def apply(self, settings: Settings) -> None:
        """Follow new settings: what is configured as before is kept, what is not lives on until `close`.

        Raises:
            ConfigurationError: the address of an engine is of no kind we know; nothing has changed then.
        """
        engines = dict.fromkeys(settings.engine_of(stack) for stack in ("", *(entry.name for entry in settings.stacks)))
        made_of = {engine: _made_of(settings, engine) for engine in engines}
        kept = {engine for engine in self._now if self._made_of[engine] == made_of.get(engine)}
        made = {
            engine: self._now[engine] if engine in kept else self._make(engine, made_of[engine]) for engine in engines
        }
        self._retired += [adapter for engine, adapter in self._now.items() if engine not in kept]
        self._now, self._made_of = made, made_of

    def _make(self, engine: str, made_of: dict[str, Any]) -> Runtime:
        if not engine.startswith(KUBERNETES):
            from bastion.runtimes.docker import DockerRuntime  # noqa: PLC0415 - only when it is configured

            return DockerRuntime(**made_of, name=engine, duties=self._duties)
        from bastion.runtimes.kubernetes import KubernetesRuntime  # noqa: PLC0415 - its SDK costs 0.6 s and 25 MiB

        return KubernetesRuntime(**made_of, name=engine, duties=self._duties)

    async def close(self) -> None:
        """Close every adapter there was."""
        for adapter in (*self._now.values(), *self._retired):
            await adapter.close()


def build_runtimes(settings: Settings, duties: DutyRecord | None = None) -> Adapters:
    """Return the adapters of these settings; no engine is called yet.

    Without a record of `duties`, a program that cannot be ended at its session's end is left running.
    """
    return Adapters(settings, duties)


def _made_of(settings: Settings, engine: str) -> dict[str, Any]:
    stacks = [entry for entry in settings.stacks if settings.engine_of(entry.name) == engine]
    toolboxes = {entry.name: entry.toolbox for entry in stacks if entry.toolbox}
    if not engine.startswith(KUBERNETES):
        archives = frozenset(entry.name for entry in stacks if entry.archive)
        return {
            "host": engine,
            "toolboxes": toolboxes,
            "archives": archives,
            "hosts": _docker_hosts(settings),
            "pause_timeout": settings.docker.pause_timeout,
        }
    return {
        "kubeconfig": settings.kubernetes.kubeconfig if settings.kubernetes else None,
        "context": engine.removeprefix(KUBERNETES) or None,
        "namespaces": {entry.name: entry.namespace or entry.name for entry in stacks},
        "toolboxes": toolboxes,
    }


def _docker_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the addresses of all Docker Engines: a container that mounts an engine's socket controls that engine."""
    return tuple(sorted({settings.docker.host, *(entry.host for entry in settings.stacks if entry.host is not None)}))
