"""All sections together, and what they say only together: which engine a stack is on, and what contradicts what."""

from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bastion.config.entries import GrantSettings, GroupSettings, StackSettings
from bastion.config.sections import (
    ApiSettings,
    AuditSettings,
    DockerSettings,
    KeysSettings,
    KubernetesSettings,
    LogSettings,
    SessionsSettings,
    SshSettings,
)

KUBERNETES = "kubernetes:"  # before the context, in the name of an engine
PREFIX = "BASTION_"


class Settings(BaseSettings):
    """All of the configuration; relative paths are resolved against the file's folder by `load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
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
