"""May this person do this there? Pure: answers from the grants and the key's own bounds, and asks nobody."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from bastion.command_patterns import MAX_COMMAND_CHARACTERS, WILDCARDS, CommandPattern
from bastion.config import EVERYWHERE, GrantSettings, GroupSettings, Permission, StackSettings
from bastion.errors import Refused
from bastion.model import FileAccess, Identity, Name, Request, Target
from bastion.patterns import name_matcher

SHOWN: Final = 20  # grants named in a hint
_ASK = "ask whoever runs this bastion for a grant"
_PATHS_SHOWN: Final = 5  # of one grant
_FILES: Final[tuple[Permission, ...]] = ("files:read", "files:write")
_VERBS: Final[dict[Permission, str]] = {
    "shell": "open a shell",
    "exec": "run a command",
    "files:read": "copy files",
    "files:write": "copy files",
}
NOT_SERVED: Final[frozenset[Permission]] = frozenset({"forward", "agent"})  # yet


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers, from 0, of the grants that give a permission, or why none does.

    Several count where each gives something: those for some commands, up to one for all, and all those for files.
    """

    grants: tuple[int, ...] = ()
    why_not: str = ""


class Policy:
    """The grants and what the stacks allow, as configured; a user may do what the first matching grant says.

    `clock` gives the present in seconds since the epoch, for grants that expire.
    """

    def __init__(
        self,
        grants: Sequence[GrantSettings],
        stacks: Sequence[StackSettings] = (),
        groups: Sequence[GroupSettings] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._grants = tuple(grants)
        self._commands = {pattern: CommandPattern(pattern) for grant in grants for pattern in grant.command}
        self._members = {group.name: group.users for group in groups}
        self._privileged = frozenset(stack.name for stack in stacks if stack.allow_privileged)
        self._clock = clock

    def authorize(self, identity: Identity, request: Request, target: Target | None = None) -> GrantSettings:
        """Return the first grant that allows the request; `request.name.stack` is known by then.

        Called before the look-up without a target, so that no ungranted name reaches an engine; a trailing `.N` then
        counts as written and as a replica. Called again with the target found, it goes by the service that the
        container is really of: a container's own name, or `app*` that fits it, is no way round a grant.

        Raises:
            Refused: there is no such grant, the key is for something else, or the request is of a kind not served.
        """
        permissions = _permissions(request)
        if request.terminal is not None and not may_have_terminal(identity):
            raise Refused("this key may not have a terminal", "leave the terminal out: ssh -T")
        stack, services = _asked(request.name, target)
        words = f"{request.name.service}@{stack}"
        if not any(_key_fits(identity, stack, service) for service in services):
            raise Refused(f"this key is not for {words}", f"it is for {_key_bounds(identity)} only")
        fitting = [
            grant
            for grant in self._grants_of(identity)
            if _allows(grant, permissions) and any(_covers(identity, grant, stack, service) for service in services)
        ]
        for grant in fitting:
            if permissions != ("exec",) or self._allows_command(grant, request.command or ""):
                return grant
        if fitting:
            commands = list(dict.fromkeys(pattern for grant in fitting for pattern in grant.command))
            raise Refused(
                f"no grant lets {identity.user} run that command in {words}", _explain_commands(commands, request)
            )
        raise Refused(f"no grant lets {identity.user} {_VERBS[permissions[0]]} in {words}", self._explain(identity))

    def allows(self, identity: Identity, permission: Permission, target: Target) -> bool:
        """Tell whether any grant gives the permission for the service of this container."""
        return any(
            permission in grant.allow
            and any(_covers(identity, grant, target.stack, service) for service in (target.service, *target.aliases))
            for grant in self._grants_of(identity)
        )

    def file_access(self, identity: Identity, where: Target | Name) -> FileAccess:
        """Return which files the user may read and write there: what all the grants for them say together.

        Only those count that name the container user of the first one, as whom the session runs: a narrow grant as root
        and a wide one as somebody else are not a wide one as root. A name has its stack.
        """
        stack, services = _asked(where, None) if isinstance(where, Name) else _asked(Name(where.service), where)
        grants = [
            grant
            for grant in self._grants_of(identity)
            if _allows(grant, _FILES) and any(_covers(identity, grant, stack, service) for service in services)
        ]
        read, write = (
            tuple(
                dict.fromkeys(
                    path
                    for grant in grants
                    if grant.user == grants[0].user and permission in grant.allow
                    for path in grant.paths
                )
            )
            for permission in _FILES
        )
        return FileAccess(read, write)

    def expired(self) -> frozenset[int]:
        """Return the numbers of the expired grants: until this set changes, every decision stays the same."""
        return frozenset(number for number, grant in enumerate(self._grants) if self._has_expired(grant))

    def verdicts(self, user: str, name: Name) -> dict[Permission, Verdict]:
        """Return for each permission the grants that give it, or why none does; the name has its stack.

        What the key's own line forbids is not looked at.
        """
        return {permission: self._verdict(user, name, permission) for permission in get_args(Permission)}

    def _verdict(self, user: str, name: Name, permission: Permission) -> Verdict:
        stack, services = _asked(name, None)
        identity = Identity(user, "", "")
        theirs = {number: grant for number, grant in enumerate(self._grants) if self._names(grant, user)}
        there = {
            number: grant
            for number, grant in theirs.items()
            if any(_covers(identity, grant, stack, service) for service in services)
        }
        giving = [number for number, grant in there.items() if permission in grant.allow]
        good = [number for number in giving if not self._has_expired(there[number])]
        if good and permission in _FILES:
            files = (number for number, grant in there.items() if _allows(grant, _FILES))
            first = next(number for number in files if not self._has_expired(there[number]))
            counting = tuple(number for number in good if there[number].user == there[first].user)
            return Verdict(
                counting, "" if counting else f"not for the container user of {lines([first])}: {lines(good)}"
            )
        if good:
            whole = (at for at, number in enumerate(good) if permission != "exec" or not there[number].command)
            return Verdict(tuple(good[: next(whole, len(good)) + 1]))
        if giving:
            return Verdict(why_not=f"{lines(giving)} {'has' if len(giving) == 1 else 'have'} expired")
        if there:
            return Verdict(why_not=f"not in allow of {lines(there)}")
        place = f"{name.service}@{stack}"
        return Verdict(why_not=f"no grant for {user} is for {place}" if theirs else f"there is no grant for {user}")

    def admit(self, target: Target) -> None:
        """Let only those containers be entered that are not as good as the host, unless their stack says otherwise.

        Raises:
            Refused: the container is privileged or the like.
        """
        if target.hazards and target.stack not in self._privileged:
            raise Refused(
                f"the container of {target.service}@{target.stack} {' and '.join(target.hazards)}",
                "it is entered only where its [[stacks]] entry says allow_privileged = true",
            )

    def may_enter(self, identity: Identity, stack: str, service: str) -> bool:
        """Tell whether any grant lets the user do anything there; for listings."""
        return any(grant.allow and _covers(identity, grant, stack, service) for grant in self._grants_of(identity))

    def authorize_key(self, user: str, stack: str | None, service: str | None) -> None:
        """Let a key be made for a user who holds a grant where it is for; no stack is any that there is a grant for.

        Raises:
            Refused: the user holds none.
        """
        identity = Identity(user, "", "", key_stack=stack, key_service=service)
        bound = stack is not None and service is not None
        if self.may_enter(identity, stack or "", service or "") if bound else self.literal_stacks(identity) != set():
            return
        words = f"on {service or '*'}@{stack}" if stack else "at all"
        raise Refused(
            f"{user} holds no grant {words}", f"add a [[grants]] entry; now {self._explain(Identity(user, '', ''))}"
        )

    def literal_stacks(self, identity: Identity) -> set[str] | None:
        """Name the stacks the user may enter, or None where a wildcard leaves it to what runs."""
        grants = [grant for grant in self._grants_of(identity) if grant.allow]
        if identity.key_stack is not None:
            granted = any(_matches(identity.key_stack, grant.stacks) for grant in grants)
            return {identity.key_stack} if granted else set()
        stacks = {stack for grant in grants for stack in grant.stacks}
        return None if any(wildcard in stack for stack in stacks for wildcard in "*?") else stacks

    def _allows_command(self, grant: GrantSettings, command: str) -> bool:
        return not grant.command or any(self._commands[pattern].fits(command) for pattern in grant.command)

    def _grants_of(self, identity: Identity) -> Iterator[GrantSettings]:
        return (grant for grant in self._grants if self._is_for(grant, identity.user))

    def _is_for(self, grant: GrantSettings, user: str) -> bool:
        return not self._has_expired(grant) and self._names(grant, user)

    def _has_expired(self, grant: GrantSettings) -> bool:
        return grant.expires is not None and self._clock() >= grant.expires.timestamp()

    def _names(self, grant: GrantSettings, user: str) -> bool:
        groups = (self._members.get(group, ()) for group in grant.groups)
        return _matches(user, grant.users) or any(_matches(user, members) for members in groups)

    def _explain(self, identity: Identity) -> str:
        """Say what the user may do instead."""
        allowed: dict[str, None] = {}
        for grant in self._grants_of(identity):
            what = ", ".join(_with_paths(grant, permission) for permission in grant.allow if permission in _VERBS)
            places = (f"{service}@{stack}" for stack in grant.stacks for service in grant.services)
            allowed |= dict.fromkeys(f"{what} in {place}" for place in places if what)
        if not allowed:
            return _ASK
        more = f"; and {len(allowed) - SHOWN} more" if len(allowed) > SHOWN else ""
        bound = f", with this key in {_key_bounds(identity)} only" if identity.key_stack or identity.key_service else ""
        return f"you may {'; '.join(list(allowed)[:SHOWN])}{more}{bound}"


def lines(numbers: Iterable[int]) -> str:
    """Name grants by their places in the configuration."""
    return ", ".join(f"grants[{number}]" for number in numbers)


def may_have_terminal(identity: Identity) -> bool:
    """Tell whether the key's own line lets a pty-req through (`no-pty`, `restrict`)."""
    return identity.may_pty


def _permissions(request: Request) -> tuple[Permission, ...]:
    """Return the permissions of which the request needs one."""
    if request.kind != "subsystem":
        return (request.kind,)
    if request.command != "sftp":
        raise Refused("that subsystem is not served", "files are copied with sftp, scp or rsync")
    return _FILES


def _allows(grant: GrantSettings, permissions: Sequence[Permission]) -> bool:
    return any(permission in grant.allow for permission in permissions)


def _with_paths(grant: GrantSettings, permission: Permission) -> str:
    if permission not in _FILES or grant.paths == EVERYWHERE:
        return permission
    more = ", …" if len(grant.paths) > _PATHS_SHOWN else ""
    return f"{permission} of {', '.join(grant.paths[:_PATHS_SHOWN])}{more}"


def _asked(name: Name, target: Target | None) -> tuple[str, tuple[str, ...]]:
    """Return the stack, and the services that the name may mean."""
    if target is not None:
        return target.stack, (target.service, *target.aliases)
    if name.stack is None:
        raise Refused("no stack was named", "write SERVICE@STACK")
    replica = name.replica()
    return name.stack, (name.service, *([replica[0]] if replica else []))


def _covers(identity: Identity, grant: GrantSettings, stack: str, service: str) -> bool:
    return _key_fits(identity, stack, service) and _matches(stack, grant.stacks) and _matches(service, grant.services)


def _key_fits(identity: Identity, stack: str, service: str) -> bool:
    return identity.key_stack in {None, stack} and identity.key_service in {None, service}


def _explain_commands(patterns: Sequence[str], request: Request) -> str:
    """Return the hint that lists the allowed commands and the characters that a wildcard does not match."""
    hint = f"you may run: {'; '.join(patterns[:SHOWN])}"
    if len(request.command or "") > MAX_COMMAND_CHARACTERS:
        return f"{hint}; a command of more than {MAX_COMMAND_CHARACTERS} characters fits no wildcard"
    if any(WILDCARDS & set(pattern) for pattern in patterns):
        return f"{hint}; * is within one word, without a slash or a - in front"
    return hint


def _key_bounds(identity: Identity) -> str:
    return f"{identity.key_service or '*'}@{identity.key_stack or '*'}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Compare with patterns in which only `*` and `?` are wildcards; a bracket is a bracket."""
    return any(name_matcher(pattern).fits(name) for pattern in patterns)
