"""The sections that there may be many of: stacks, groups of users, and what is granted to whom."""

import re
from typing import Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from bastion.command_patterns import CommandPattern
from bastion.config.values import EVERYWHERE, HOST_AND_PORTS, Permission, Section, Words, is_ipv6


class StackSettings(Section):
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


class GroupSettings(Section):
    """Users under one name, for grants."""

    name: str = Field(min_length=1)
    users: Words


class GrantSettings(Section):
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

    @field_validator("command")
    @classmethod
    def _command_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                CommandPattern(pattern)
            except ValueError as error:
                raise ValueError(f"{pattern[:80]!r} {error}") from None
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
            match = HOST_AND_PORTS.fullmatch(place)
            if match is None or (match[2] != "*" and int(match[2]) >= 2**16):
                raise ValueError("must be HOST:PORT or HOST:*, an address of IPv6 in brackets")
            if match[1] is not None and not is_ipv6(match[1]):
                raise ValueError(f"is no address of IPv6: {match[1]}")
        return value
