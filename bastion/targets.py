"""A name becomes one running container; the only place that knows the name grammar `service[.N][+container]@stack`."""

import asyncio
import difflib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from bastion.config import StackSettings
from bastion.errors import NoSuchTarget, Refused, RuntimeUnreachable
from bastion.grammar import NAME_PART
from bastion.model import Identity, Name, Target
from bastion.runtimes import Runtime

NAME_LIMIT: Final = 320  # bytes of the whole name
SHOWN: Final = 20  # names listed in a hint
STACK_VARIABLE: Final = "BASTION_STACK"
_PART = re.compile(NAME_PART)
_FORM = "write SERVICE@STACK: names of letters, digits, dots, dashes and underscores, such as web@mystack"

MayEnter = Callable[[str, str], bool]


def parse(text: str) -> Name:
    """Take a name apart: `service[.N][+container][@stack]`, ASCII, at most 320 bytes, each part at most 253.

    Raises:
        NoSuchTarget: it is no name; nothing may be looked up for it.
    """
    left, at, stack = text.partition("@")
    service, plus, container = left.partition("+")
    parts = [service, *([container] if plus else []), *([stack] if at else [])]
    if len(text) > NAME_LIMIT or not all(_PART.fullmatch(part) for part in parts):
        raise NoSuchTarget("that is not a name of anything here", _FORM)
    return Name(service, container if plus else None, stack if at else None)


class Targets:
    """Finds the stack a name leaves out, and the container it means.

    `runtimes` is keyed by engine, and a target's `runtime` becomes that key. A stack is looked for on the engine that
    `engine_of` gives for it, and nowhere else.
    """

    def __init__(
        self, runtimes: Mapping[str, Runtime], stacks: Sequence[StackSettings], engine_of: Callable[[str], str]
    ) -> None:
        self._runtimes = runtimes
        self._stacks = {stack.name: stack for stack in stacks}
        self._listening = [(_endpoint(stack.listen), stack.name) for stack in stacks if stack.listen]
        self._engine_of = engine_of

    async def choose_stack(
        self,
        name: Name,
        identity: Identity,
        local_address: str,
        environment: Mapping[str, str],
        may_enter: MayEnter,
        *,
        literal_stacks: Collection[str] | None = None,
    ) -> Name:
        """Return the name with its stack: the one written, or the first of these that there is.

        The stack of the local address that the client connected to, the one the key was issued for, BASTION_STACK, the
        only one the user may enter. `literal_stacks` are those of the grants, where no wildcard is in them; then no
        engine is asked.

        Raises:
            NoSuchTarget: none of these names one stack; the hint lists what the user may name.
            Refused: there is nothing that the user may enter.
            RuntimeUnreachable: the engine does not answer.
        """
        if name.stack is not None:
            return name
        if stack := self._listening_for(local_address) or identity.key_stack:
            return replace(name, stack=stack)
        if STACK_VARIABLE in environment:
            if not _PART.fullmatch(environment[STACK_VARIABLE]):
                raise NoSuchTarget(
                    f"{STACK_VARIABLE} is not the name of a stack", f"ssh -o SetEnv={STACK_VARIABLE}=mystack"
                )
            return replace(name, stack=environment[STACK_VARIABLE])
        stacks = (
            set(literal_stacks) if literal_stacks is not None else {stack for stack, _ in await self.listing(may_enter)}
        )
        if len(stacks) == 1:
            return replace(name, stack=stacks.pop())
        if not stacks and literal_stacks is not None:
            raise Refused(f"no grant lets {identity.user} enter anything", "ask whoever runs this bastion for a grant")
        raise NoSuchTarget(f"{name.service} of which stack?", await self._choices(name.service, may_enter))

    async def resolve(self, name: Name, may_enter: MayEnter) -> Target:
        """Return the one running container that the name means, with the user and shell of its `[[stacks]]` entry.

        A name that exists as written wins over reading a trailing `.N` as a replica. `Target.preference` decides which
        replica a name without a number means. Whatever the name, the user must be allowed to enter the container's
        service.

        Raises:
            NoSuchTarget: the container does not exist or does not run; the hint lists the names that exist.
            Refused: the user may not enter the container's service.
            RuntimeUnreachable: the engine does not answer.
        """
        stack = name.stack or ""
        runtime = self._runtime(stack)
        found = await runtime.find(stack, name.service, name.container)
        replica = name.replica()
        if not found and replica is not None:
            found = _pick_replica(stack, await runtime.find(stack, replica[0]), *replica)
            if found and name.container is not None:
                inside = await runtime.find(stack, replica[0], name.container)
                found = [target for target in inside if _replica(target) == _replica(found[0])]
        if not found and name.container is not None:
            await self._refuse_container(runtime, stack, name)
        if not found:
            raise NoSuchTarget(
                f"no service {name.service} runs in {stack}", await self._suggestions(name.service, stack, may_enter)
            )
        target = min(found, key=lambda target: (target.preference, -target.created))  # the first of equals
        if not any(may_enter(stack, service) for service in (target.service, *target.aliases)):
            raise Refused(
                f"no grant lets you enter {name.service}@{stack}", await self._choices(name.service, may_enter)
            )
        settings = self._stacks.get(stack)
        return replace(
            target,
            runtime=self._engine_of(stack),
            user=settings.user if settings else None,
            shell=settings.shell if settings else None,
        )

    async def listing(self, may_enter: MayEnter) -> list[tuple[str, str]]:
        """List (stack, service) of everything that runs and that the user may enter, sorted.

        Labels may hold anything; what nobody could name is left out.

        Raises:
            RuntimeUnreachable: an engine does not answer.
        """
        answers = await asyncio.gather(*(self._services(key) for key in self._runtimes))
        return sorted({found for services in answers for found in services if may_enter(*found)})

    async def _services(self, key: str) -> list[tuple[str, str]]:
        services = await self._runtimes[key].services()
        return [
            (stack, service)
            for stack, service in services
            if self._engine_of(stack) == key and _PART.fullmatch(stack) and _PART.fullmatch(service)
        ]

    def _runtime(self, stack: str) -> Runtime:
        return self._runtimes[self._engine_of(stack)]

    def _listening_for(self, local_address: str) -> str | None:
        address, port = _endpoint(local_address)
        for (listening, on), stack in self._listening:
            if listening == address and (on is None or port is None or on == port):
                return stack
        return None

    async def _refuse_container(self, runtime: Runtime, stack: str, name: Name) -> None:
        """Raise when it is only the container that is not there, and list those that are."""
        found = await runtime.find(stack, name.service)
        replica = name.replica()
        if not found and replica is not None:
            found = _pick_replica(stack, await runtime.find(stack, replica[0]), *replica)
        names = [container for target in found for container in target.containers if _PART.fullmatch(container)]
        if found:
            raise NoSuchTarget(
                f"{name.service}@{stack} has no container {name.container}", _enumerate("containers", names)
            )

    async def _suggestions(self, service: str, stack: str, may_enter: MayEnter) -> str:
        """Say what was perhaps meant, and what there is, of what the user may enter."""
        listing = await self._known(may_enter)
        services = [other for in_stack, other in listing if in_stack == stack]
        stacks = sorted({in_stack for in_stack, _ in listing})
        if not services:
            close = [
                f"{service}@{near}" for near in difflib.get_close_matches(stack, stacks) if (near, service) in listing
            ]
            swapped = [f"{stack}@{service}"] if (service, stack) in listing else []
            meant = [_did_you_mean(name) for name in (*swapped, *close)][:1]
            return _joined(*meant, _enumerate("stacks that run", stacks))
        if service in stacks:
            example = next(other for in_stack, other in listing if in_stack == service)
            return f"{service} is a stack: name a service of it too, such as {example}@{service}"
        close = difflib.get_close_matches(service, services, n=1)
        return _joined(
            _did_you_mean(f"{close[0]}@{stack}") if close else "", _enumerate(f"services of {stack}", services)
        )

    async def _choices(self, service: str, may_enter: MayEnter) -> str:
        """List what the user may name; what has the service that was asked for comes first."""
        listing = await self._known(may_enter)
        if any(stack == service for stack, _ in listing):
            listing = [found for found in listing if found[0] == service]
        listing.sort(key=lambda found: found[1] != service)
        return _enumerate("you may name", [f"{other}@{stack}" for stack, other in listing])

    async def _known(self, may_enter: MayEnter) -> list[tuple[str, str]]:
        """List what runs for a hint: an engine that does not answer does not spoil the answer."""
        try:
            return await self.listing(may_enter)
        except RuntimeUnreachable:
            return []


def _pick_replica(stack: str, replicas: list[Target], service: str, number: int) -> list[Target]:
    """Return the replicas with that number: the orchestrator's number, or else the position in the list from 1.

    While Compose replaces a container, the old and the new one have the same number.
    """
    by_number: dict[int, list[Target]] = {}
    is_numbered = any(replica.number is not None for replica in replicas)
    for place, replica in enumerate(replicas, 1):
        own = replica.number if is_numbered else place
        if own is not None:
            by_number.setdefault(own, []).append(replica)
    if replicas and number not in by_number:
        names = [f"{service}.{own}@{stack}" for own in sorted(by_number)]
        raise NoSuchTarget(f"no replica {number} of {service}@{stack} runs", _enumerate("replicas that run", names))
    return by_number.get(number, [])


def _replica(target: Target) -> str:
    return target.pod_name or target.container_id


def _endpoint(text: str) -> tuple[object, int | None]:
    """Read `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; what is no address is compared as it stands."""
    host, port = text, None
    match = re.fullmatch(r"\[([^\]]+)\]:(\d{1,5})|([^:]+):(\d{1,5})", text, re.ASCII)
    if match is not None:
        host, port = match[1] or match[3], int(match[2] or match[4])
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host, port
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address, port


def _did_you_mean(name: str) -> str:
    return f"did you mean {name}?"


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _enumerate(what: str, names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    if not distinct:
        return "nothing runs that you may enter"
    more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return f"{what}: {', '.join(distinct[:SHOWN])}{more}"
