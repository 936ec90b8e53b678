"""The words everything else is said in: who asks, for what, where it runs, and what flows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
FIRST_FILE: Final = 3  # an opened file has two streams from here on: an odd one for what is read, then one for writing
_REPLICA_DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes on one stream: 0 what the client typed or piped in, 1 standard output, 2 standard error."""

    stream: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Eof:
    """The client will send nothing more; the program's standard input ends here (RFC 4254 §5.3)."""


@dataclass(frozen=True, slots=True)
class Resize:
    """The terminal's new size in characters (RFC 4254 §6.7)."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the program, by its name without SIG (RFC 4254 §6.9)."""

    name: str


Event = Data | Eof | Resize | Signal


@dataclass(frozen=True, slots=True)
class Exit:
    """How the program ended: its status 0…255, and the signal's name only where the runtime says one ended it."""

    status: int
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class FileOperation:
    """What was done with a file of the container, for the record: never delivered to anybody.

    `operation` is open, read, write, list, remove, remove-directory, make-directory, rename, symlink, link or change;
    where access was denied, also stat, read-link, real-path and space. `path` is the real path in the container, or
    what was asked for where it was not looked up; `other` the new path or the link's target. `result` is "ok" or why
    not, in words. `read` and `write` come when an opened file is closed: `size` bytes passed, out of the container or
    into it, `sha256` is over them in their order, and `stream` is the number under which the contents, as `Data`, were
    put on record. An open's `stream` is that of what will be read; what will be written has the next number. `note`
    says what else is to be known, such as that the bytes did not pass in the file's order.
    """

    operation: str
    path: bytes
    result: str = "ok"
    other: bytes | None = None
    size: int | None = None
    sha256: str | None = None
    stream: int | None = None
    note: str = ""


class Sink(Protocol):
    """Where events go: a channel or an exec."""

    async def send(self, event: Event) -> None:
        """Deliver one event, and wait while the other end takes no more."""
        ...


class Source(Protocol):
    """Where events come from: a channel or an exec."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Give events in order until there are no more."""
        ...


class Channel(Source, Sink, Protocol):
    """One SSH channel, as the relay and the files see it. Its iteration ends when the client has gone."""

    def say(self, line: str) -> None:
        """Show the client one line of the bastion's own, on standard error."""
        ...


Recorded = Event | Exit | FileOperation
"""What can be put on record."""

Record = Callable[[Recorded], Awaitable[None]]
"""Takes one event; returns when it is on record, and raises when it cannot be."""


@dataclass(frozen=True, slots=True)
class FileAccess:
    """Which files may be read and written: patterns that a real path in the container has to fit one of.

    `**` stands for anything, `*` and `?` for what holds no slash; a pattern that ends in `/**` fits the folder itself
    too. `/**` is everything, no pattern nothing. `files.access` compares.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether everything may be read and written."""
        return "/**" in self.read and "/**" in self.write


@dataclass(frozen=True, slots=True)
class Name:
    """What a user wrote in `service[.N][+container]@stack`, taken apart.

    `service` is as written, a trailing `.N` included: only a look-up can tell a replica from a name with a dot in it.
    """

    service: str
    container: str | None = None
    stack: str | None = None

    def replica(self) -> tuple[str, int] | None:
        """Read a trailing `.N` as the N-th replica of what stands before it; None when it cannot be read so."""
        service, _, number = self.service.rpartition(".")
        is_number = number.isascii() and number.isdecimal() and len(number) <= _REPLICA_DIGITS
        has_leading_zero = number.startswith("0") and number != "0"  # a StatefulSet counts from 0
        return (service, int(number)) if service and is_number and not has_leading_zero else None


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a pty-req asked for (RFC 4254 §6.2): TERM, and the size in characters."""

    term: str
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """The SSH certificate that named a person: its wire form, and what its authority wrote for the records.

    `authority` is the SHA256 fingerprint of the key that signed it.
    """

    blob: bytes = field(repr=False)
    key_id: str
    serial: int
    authority: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end: set once, from the key whose signature verified.

    The fields from `key_stack` on are the bounds that the key's own line in the key home puts on it, and its
    certificate where it has one; `force_command` is what runs in place of whatever was asked for.
    """

    user: str
    key_fingerprint: str
    client_address: str
    key_stack: str | None = None
    key_service: str | None = None
    may_pty: bool = True
    may_forward: bool = True
    permit_open: tuple[str, ...] = ()
    may_agent: bool = True
    force_command: str | None = None
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One channel request: a shell, a command or a subsystem, for one name. The request's uid becomes the session's.

    `client` is the version string of the client, unverified. In `command`, surrogates stand for bytes that are not
    UTF-8 (PEP 383).
    """

    uid: str
    name: Name
    kind: Literal["shell", "exec", "subsystem"]
    command: str | None = None
    terminal: Terminal | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    client: str = ""

    @property
    def command_bytes(self) -> bytes | None:
        """The command's bytes exactly as the client sent them."""
        return None if self.command is None else self.command.encode("utf-8", "surrogateescape")

    @property
    def command_text(self) -> str | None:
        """The command as text for people, databases and JSON: U+FFFD replaces bytes that are not UTF-8."""
        return None if (exact := self.command_bytes) is None else exact.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Target:
    """One running container, bound by its id: a container recreated under the same name is another target.

    - `hazards`: the reasons why a shell in the container is a shell on the host ("is privileged", …).
    - `user`, `shell`: the configuration's choice; None leaves the choice to the container.
    - `aliases`: other names of the service, which a grant may use.
    - `containers`: the names that may follow a `+`.
    - `toolbox`: whether a container without a shell may be entered by a container with a shell beside it.
    - `number`: the replica's number by Compose, Swarm or its StatefulSet; None if replicas are not numbered.

    A name without a number means the replica with the lowest `preference` (0 ready or healthy, 1 starting,
    2 unhealthy, 3 paused), then the newest by `created` (seconds since the epoch), then the first by name.
    """

    runtime: str
    stack: str
    service: str
    container_id: str
    container_name: str
    image: str = ""
    image_digest: str = ""
    namespace: str | None = None
    deployment_name: str | None = None
    pod_name: str | None = None
    hazards: tuple[str, ...] = ()
    user: str | None = None
    shell: str | None = None
    aliases: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    created: float = 0.0
    number: int | None = None
    preference: int = 0
    toolbox: bool = True


State = Literal["creating", "provisioning", "active", "terminated"]


def now() -> datetime:
    """Return the present, in UTC."""
    return datetime.now(UTC)


class Session(BaseModel):
    """One connection to a container of a service, in the words of Cloud 66's Session and ours (design: what it is).

    Each of the times is when it came into the state of that name; `ended_at` is there when it is terminated.
    `reserved_as` is the uid of the reservation whose place it took over.
    """

    model_config = ConfigDict(frozen=True)

    uid: str
    title: str
    service_name: str
    namespace: str | None
    command: str | None
    deployment_name: str | None
    pod_name: str | None
    container_name: str | None
    stack: str
    user: str
    state: State
    created_at: datetime
    provisioning_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_status: int | None = None
    reason: str | None = None
    client_address: str
    key_fingerprint: str
    node: str
    reserved_as: str | None = None
