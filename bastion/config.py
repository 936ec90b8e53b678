"""One TOML file, and the environment over it, become frozen models; what is unknown or wrong is named by its path."""

import contextlib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from bastion.errors import ConfigurationError

KUBERNETES = "kubernetes:"  # before the context, in the name of an engine

SEARCH_PATH = (Path("bastion.toml"), Path("/etc/bastion/bastion.toml"))

_PREFIX = "BASTION_"
_TOML_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_type": "must be a string",
    "path_type": "must be a string",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "timezone_aware": "needs a time zone, such as 2026-12-31T18:00:00Z",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _quantity(units: Mapping[str, float], word: str, example: str) -> Callable[[object], object]:
    pattern = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})")

    def read(value: object) -> object:
        if isinstance(value, bool):
            raise ValueError(f"must be a {word} such as {example}")  # noqa: TRY004 - pydantic collects ValueErrors only
        if not isinstance(value, str):
            return value
        match = pattern.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"is no {word}; write a number and one of {', '.join(units)}")
        return float(match[1]) * units[match[2]]

    return read


Seconds = Annotated[
    float,
    BeforeValidator(_quantity(_UNITS, "time", '"30s"'), json_schema_input_type=str),
    Field(ge=0, allow_inf_nan=False),
]
Bytes = Annotated[int, BeforeValidator(_quantity(_SIZES, "size", '"64MiB"'), json_schema_input_type=str), Field(ge=0)]
Words = tuple[Annotated[str, Field(min_length=1)], ...]
Permission = Literal["shell", "exec", "files:read", "files:write", "forward", "agent", "toolbox"]

EVERYWHERE = ("/**",)

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253})):(\d{1,5})", re.ASCII)


_HOST_AND_PORTS = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):(\*|[1-9]\d{0,4})", re.ASCII
)


def _one_or_more(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):  # from the environment; an address of IPv6 is no JSON
        with contextlib.suppress(ValueError):
            return tuple(json.loads(value))
    return (value,)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SshSettings(_Section):
    """The SSH face: where it listens and what it bears from a client."""

    listen: Words = ("127.0.0.1:2222",)
    login_grace: Seconds = 30
    max_startups: int = Field(default=100, ge=1, description="connections that have not logged in yet")
    max_startups_per_source: int = Field(default=10, ge=1)
    max_channels: int = Field(default=10, ge=1, description="sessions on one connection")
    keepalive: Seconds = 30
    notice: bool = True


class KeysSettings(_Section):
    """The key home: host/, users/, auditors/, revoked and signing/ lie in it."""

    home: Path = Path("keys")
    store: Literal["files", "database"] = Field(default="files", description="of users' keys and of what is revoked")
    grace: Seconds = Field(default=60, le=60, description="how long the last keys count without the database")


class SessionsSettings(_Section):
    """How many sessions at a time, and how long."""

    per_service: int = Field(default=15, ge=1)
    per_user: int = Field(default=30, ge=1)
    idle_timeout: Seconds = Field(default=900, description="of terminals: nothing typed and nothing shown; 0 is never")
    max_duration: Seconds = Field(default=28800, description="0 is never")
    database: str | None = Field(default=None, description="None: the file bastion.db beside the transcripts")
    history: Seconds = Field(default=90 * 86400, description="how long sessions that ended are kept; 0 is for ever")

    @field_validator("database")
    @classmethod
    def _of_a_kind_we_know(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"sqlite:///.|postgres(ql)?://", value):
            raise ValueError("must be sqlite:///PATH or postgresql://…")
        return value


class AuditSettings(_Section):
    """Where transcripts go, who can read them, and how much of what is kept."""

    directory: Path = Path("transcripts")
    recipients: Words = ()
    input: Literal["all", "no-tty", "none"] = "no-tty"
    stream_limit: Bytes = 64 * 2**20


class ApiSettings(_Section):
    """The HTTP API."""

    listen: Annotated[Words, NoDecode, BeforeValidator(_one_or_more)] = ("unix:/run/bastion/api.sock",)
    certificate: Path | None = Field(default=None, description="PEM, with its chain; read again when it changes")
    private_key: Path | None = Field(default=None, description="PEM, of the certificate")

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            match = _HOST_AND_PORT.fullmatch(address)
            if not address.startswith("unix:/") and (match is None or int(match[3]) >= 2**16):
                raise ValueError("must be unix:/PATH or HOST:PORT, or a list of them")
        if sum(address.startswith("unix:") for address in value) > 1:
            raise ValueError("has more than one unix:/PATH")
        return value

    @model_validator(mode="after")
    def _secret(self) -> "ApiSettings":
        if self.certificate is None and (open_ := [one for one in self.endpoints if not _is_loopback(one[0])]):
            raise ValueError(f"listening on {open_[0][0]} needs certificate and private_key; only loopback does not")
        return self

    @property
    def socket(self) -> Path | None:
        """The unix socket's path, when there is one."""
        found = (Path(one.removeprefix("unix:")) for one in self.listen if one.startswith("unix:"))
        return next(found, None)

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """The (host, port) pairs to listen on."""
        matches = (_HOST_AND_PORT.fullmatch(address) for address in self.listen)
        return [(match[1] or match[2], int(match[3])) for match in matches if match]


class DockerSettings(_Section):
    """The Docker Engine: unix:///PATH or tcp://HOST:PORT."""

    host: str = "unix:///var/run/docker.sock"


class KubernetesSettings(_Section):
    """The Kubernetes cluster: a context of a kubeconfig, or the one whose pod the bastion runs in."""

    kubeconfig: Path | None = Field(default=None, description="None: $KUBECONFIG, ~/.kube/config, or the pod's")
    context: str | None = Field(default=None, min_length=1, description="None: the kubeconfig's current one")


class LogSettings(_Section):
    """The server's own log, on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class StackSettings(_Section):
    """What one stack does differently from the rest."""

    name: str = Field(min_length=1)
    runtime: Literal["docker", "kubernetes"] | None = Field(default=None, description="None: the default engine's")
    host: str | None = Field(default=None, description="a Docker Engine other than [docker] host")
    context: str | None = Field(default=None, min_length=1, description="a context other than [kubernetes] context")
    namespace: str | None = Field(default=None, description="None: the namespace of the stack's name")
    toolbox: str | None = Field(default=None, min_length=1, description="image for containers without a shell")
    archive: bool = Field(default=False, description="files by the engine's archive API, where nothing else works")
    listen: str | None = Field(default=None, description="connections to this local address mean this stack")
    user: str | None = Field(default=None, description="the container user that programs run as")
    shell: str | None = Field(default=None, description="absolute path of the shell in its containers")
    allow_privileged: bool = False

    @field_validator("shell")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return value

    @field_validator("namespace")
    @classmethod
    def _dns_label(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
            raise ValueError("is no namespace: lower-case letters, digits and dashes, at most 63")
        return value

    @model_validator(mode="after")
    def _of_one_runtime(self) -> "StackSettings":
        for_docker = [key for key in ("host", "user") if getattr(self, key) is not None]
        for_kubernetes = [key for key in ("context", "namespace") if getattr(self, key) is not None]
        if self.runtime == "docker" and for_kubernetes:
            raise ValueError(f"{for_kubernetes[0]} is for stacks of kubernetes")
        if self.runtime == "kubernetes" and for_docker:
            raise ValueError(f"{for_docker[0]} is for stacks of docker")
        if self.runtime is None and (for_docker and for_kubernetes):
            raise ValueError(f"{for_docker[0]} is for stacks of docker, {for_kubernetes[0]} for those of kubernetes")
        return self


class GroupSettings(_Section):
    """Users under one name, for grants."""

    name: str = Field(min_length=1)
    users: Words


class GrantSettings(_Section):
    """These users may do this in these services of these stacks; `*` and `?` are wildcards."""

    users: Words = ()
    groups: Words = ()
    stacks: Words
    services: Words = ("*",)
    allow: tuple[Permission, ...] = ("shell", "exec")
    command: Words = Field(default=(), description="the only commands that exec may run")
    paths: Words = Field(default=EVERYWHERE, description="the only files that files:read and files:write are about")
    user: str | None = Field(default=None, description="the container user that programs run as")
    permitopen: Words = Field(default=(), description="what forward may reach besides the container's own loopback")
    expires: AwareDatetime | None = None
    max_sessions: int | None = Field(default=None, ge=1, description="sessions by this grant at a time")
    watch_notice: bool = Field(default=True, description="the user is told when somebody watches the session")

    @model_validator(mode="after")
    def _of_somebody(self) -> "GrantSettings":
        if not self.users and not self.groups:
            raise ValueError("needs users or groups")
        return self

    @field_validator("paths")
    @classmethod
    def _as_real_paths_are(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no real path fits: it would only look like a right."""
        if not value:
            raise ValueError('must not be empty: leave it out, or write ["/app/log/**"]')
        for pattern in value:
            if not pattern.startswith("/"):
                raise ValueError(f"{pattern} must be absolute, such as /app/log/**")
            if "\0" in pattern or (pattern != "/" and {"", ".", ".."} & set(pattern.split("/")[1:])):
                raise ValueError(f"{pattern!r} fits no real path: those have no NUL, no . or .., and no slash too many")
        return value

    @model_validator(mode="after")
    def _bounds_what_it_says(self) -> "GrantSettings":
        if self.command and "shell" in self.allow:
            raise ValueError('command is no bound where a shell is allowed: add allow = ["exec"]')
        if self.paths != EVERYWHERE:
            if not {"files:read", "files:write"} & set(self.allow):
                raise ValueError('paths are those of files: add "files:read" or "files:write" to allow')
            if "shell" in self.allow or ("exec" in self.allow and not self.command):
                raise ValueError("paths are no bound where any command may run: grant shell and exec apart from files")
        if self.permitopen and "forward" not in self.allow:
            raise ValueError('permitopen opens nothing without allow = ["forward"]')
        return self

    @field_validator("permitopen")
    @classmethod
    def _places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for place in value:
            match = _HOST_AND_PORTS.fullmatch(place)
            if match is None or (match[2] != "*" and int(match[2]) >= 2**16):
                raise ValueError("must be HOST:PORT or HOST:*, an address of IPv6 in brackets")
            if match[1] is not None and not _is_ipv6(match[1]):
                raise ValueError(f"is no address of IPv6: {match[1]}")
        return value


class Settings(BaseSettings):
    """All of the configuration; relative paths are resolved against the file's folder by `load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
    )

    ssh: SshSettings = SshSettings()
    keys: KeysSettings = KeysSettings()
    sessions: SessionsSettings = SessionsSettings()
    audit: AuditSettings = AuditSettings()
    api: ApiSettings = ApiSettings()
    docker: DockerSettings = DockerSettings()
    kubernetes: KubernetesSettings | None = None
    log: LogSettings = LogSettings()
    stacks: tuple[StackSettings, ...] = ()
    groups: tuple[GroupSettings, ...] = ()
    grants: tuple[GrantSettings, ...] = ()

    @model_validator(mode="after")
    def _groups_are_there(self) -> "Settings":
        names = {group.name for group in self.groups}
        for number, grant in enumerate(self.grants):
            if strangers := sorted(set(grant.groups) - names):
                raise ValueError(f"grants[{number}].groups: there is no group {strangers[0]}")
        return self

    @field_validator("stacks", "groups")
    @classmethod
    def _each_once(cls, value: tuple[StackSettings | GroupSettings, ...]) -> tuple[StackSettings | GroupSettings, ...]:
        names = [entry.name for entry in value]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"has more than one entry for {', '.join(doubled)}")
        return value

    @model_validator(mode="after")
    def _each_namespace_once(self) -> "Settings":
        """Refuse a second stack for one namespace: its services would have twice the sessions that the limits allow."""
        mapped: dict[tuple[str, str], str] = {}
        for entry in self.stacks:
            place = (self.engine_of(entry.name), entry.namespace or entry.name)
            if place[0].startswith(KUBERNETES) and mapped.setdefault(place, entry.name) != entry.name:
                raise ValueError(f"stacks: {mapped[place]} and {entry.name} are both the namespace {place[1]}")
        return self

    @model_validator(mode="after")
    def _archives_are_of_docker(self) -> "Settings":
        for entry in self.stacks:
            if entry.archive and self.engine_of(entry.name).startswith(KUBERNETES):
                raise ValueError(f"stacks: {entry.name} has archive, which is for stacks of docker")
        return self

    @property
    def database(self) -> str:
        """The URL of the sessions' database; without one of its own it is where the other state is."""
        return self.sessions.database or f"sqlite:///{self.audit.directory.parent / 'bastion.db'}"

    def engine_of(self, stack: str) -> str:
        """Return the engine that a stack is looked for on: a Docker Engine's host, or `kubernetes:CONTEXT`.

        A stack without an entry of its own is looked for on the default engine: the cluster when [kubernetes] is
        configured and [docker] is not, else the Docker Engine.
        """
        entry = next((entry for entry in self.stacks if entry.name == stack), None)
        default = "kubernetes" if self.kubernetes is not None and "docker" not in self.model_fields_set else "docker"
        if entry is None:
            runtime = default
        elif entry.runtime is not None:
            runtime = entry.runtime
        elif entry.context or entry.namespace:
            runtime = "kubernetes"
        else:
            runtime = "docker" if entry.host else default
        if runtime == "docker":
            return (entry and entry.host) or self.docker.host
        context = (entry and entry.context) or (self.kubernetes and self.kubernetes.context) or ""
        return f"{KUBERNETES}{context}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def locate(explicit: Path | None) -> Path | None:
    """Return the configuration file: the one given, $BASTION_CONFIG, or the first of the search path, if there is one.

    Raises:
        ConfigurationError: the file that was asked for does not exist.
    """
    if asked := explicit or (Path(os.environ["BASTION_CONFIG"]) if os.environ.get("BASTION_CONFIG") else None):
        if not asked.is_file():
            raise ConfigurationError(
                f"no configuration file at {asked}", "bastion check --config FILE tells whether one is right"
            )
        return asked
    return next((path for path in SEARCH_PATH if path.is_file()), None)


def load(path: Path | None) -> Settings:
    """Read the file, lay the environment over it, and make every path absolute.

    Raises:
        ConfigurationError: it is unreadable, no TOML, or a key is unknown or wrong; names the key by its path.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # tomllib lets the last two of hostile files through
            raise ConfigurationError(
                f"{path}: {error}", "docs/configuration.md has an example of every section"
            ) from error
    hint = "docs/configuration.md lists every key"
    if strangers := _unknown_variables():
        raise ConfigurationError("; ".join(f"{name}: unknown key" for name in strangers), hint)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problems(error, path)), hint) from error
    except SettingsError as error:
        raise ConfigurationError(
            f"{', '.join(_variables_of(str(error)))}: must be JSON",
            'a list is written as ["a", "b"], a table as {"a": "b"}',
        ) from error
    folder = (path.parent if path else Path()).resolve()
    return settings.model_copy(
        update={
            "keys": settings.keys.model_copy(update={"home": folder / settings.keys.home}),
            "audit": settings.audit.model_copy(update={"directory": folder / settings.audit.directory}),
            "sessions": _absolute_database(settings.sessions, folder),
            "api": settings.api.model_copy(
                update={
                    name: path and folder / path
                    for name in ("certificate", "private_key")
                    for path in [getattr(settings.api, name)]
                }
            ),
            "kubernetes": settings.kubernetes and _absolute_kubeconfig(settings.kubernetes, folder),
        }
    )


def _absolute_database(settings: SessionsSettings, folder: Path) -> SessionsSettings:
    scheme, _, path = (settings.database or "").partition("///")
    return settings.model_copy(update={"database": f"{scheme}///{folder / path}"}) if scheme == "sqlite:" else settings


def _absolute_kubeconfig(settings: KubernetesSettings, folder: Path) -> KubernetesSettings:
    if settings.kubeconfig is None:
        return settings
    return settings.model_copy(update={"kubeconfig": folder / settings.kubeconfig.expanduser()})


def _unknown_variables() -> list[str]:
    """Name the variables of the environment that are meant for a section there is not."""
    sections = "|".join(name.upper() for name in Settings.model_fields)
    return sorted(name for name in os.environ if re.match(rf"{_PREFIX}(?!({sections})__)[A-Z]+__", name.upper()))


def _variables_of(message: str) -> list[str]:
    """Name the variables that are set for the field that pydantic-settings could not parse; it says the field only."""
    match = re.search(r'field "(\w+)"', message)
    start = f"{_PREFIX}{match[1] if match else ''}".upper()
    return sorted(name for name in os.environ if name.upper().startswith(start))


def _problems(error: ValidationError, path: Path | None) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        parts = problem["loc"]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        variable = _PREFIX + "__".join(str(part) for part in parts[:2]).upper()
        where = f"{variable}: " if variable in os.environ else f"{path}: " if path else ""
        lines.append(where + ": ".join(filter(None, (key, _words(problem)))))
    return lines


def _words(problem: ErrorDetails) -> str:
    """Say in TOML's words what pydantic found."""
    context = problem.get("ctx", {})
    kind = problem["type"]
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "literal_error":
        return "must be " + str(context["expected"]).replace("'", '"')
    if kind in _TOML_WORDS:
        return _TOML_WORDS[kind]
    text = problem["msg"].removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]}"
