"""The sections of the configuration that there is one of: what each option is, and what it may be."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from bastion.config.startups import MaxStartups, Networks, Penalties, PenaltyRules, Startups
from bastion.config.values import HOST_AND_PORT, Bytes, Seconds, Section, Words, is_loopback, one_or_more


class SshSettings(Section):
    """The SSH face: where it listens and what it bears from a client."""

    listen: Words = ("127.0.0.1:2222",)
    login_grace: Seconds = 30
    max_startups: Startups = Field(default=MaxStartups(50, 30, 200), description="connections not logged in yet")
    max_startups_per_source: int = Field(default=10, ge=1)
    max_handshakes: float = Field(default=100, ge=0, description="a second, from everywhere; 0 is no limit")
    max_handshakes_per_source: float = Field(default=20, ge=0, description="a second, from one source; 0 is no limit")
    penalties: Penalties = PenaltyRules()
    penalty_exempt: Networks = (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("::1"))
    max_connections_per_user: int = Field(default=50, ge=1, description="connections that have logged in")
    max_connections_per_source: int = Field(default=200, ge=1)
    unused_connection_timeout: Seconds = Field(default=60, description="without a channel; 0 is never")
    max_channels: int = Field(default=10, ge=1, description="sessions on one connection")
    keepalive: Seconds = 30
    drain_timeout: Seconds = Field(default=30, description="how long sessions go on after SIGTERM; 0 ends them at once")
    notice: bool = True


class KeysSettings(Section):
    """The key home: host/, users/, auditors/, revoked and signing/ lie in it."""

    home: Path = Path("keys")
    store: Literal["files", "database"] = Field(default="files", description="of users' keys and of what is revoked")
    grace: Seconds = Field(default=60, le=60, description="how long the last keys count without the database")


class SessionsSettings(Section):
    """How many sessions at a time, and how long."""

    per_service: int = Field(default=15, ge=1)
    per_user: int = Field(default=30, ge=1)
    per_user_per_service: int | None = Field(default=None, ge=1, description="none is two thirds of per_service")
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

    @property
    def share_of_service(self) -> int:
        """How many sessions of one service one user may have: as configured, else two thirds, rounded up."""
        return self.per_user_per_service or -(-2 * self.per_service // 3)


class AuditSettings(Section):
    """Where transcripts go, who can read them, and how much of what is kept."""

    directory: Path = Path("transcripts")
    recipients: Words = ()
    input: Literal["all", "no-tty", "none"] = "no-tty"
    stream_limit: Bytes = 64 * 2**20
    user_quota: Bytes = Field(default=10 * 2**30, description="of one user's transcripts of 24 hours; 0 is none")
    reserve: Bytes | None = Field(default=None, description="of the volume; None: 1 GiB, or 5 % where that is less")


class ApiSettings(Section):
    """The HTTP API."""

    listen: Annotated[Words, NoDecode, BeforeValidator(one_or_more)] = ("unix:/run/bastion/api.sock",)
    certificate: Path | None = Field(default=None, description="PEM, with its chain; read again when it changes")
    private_key: Path | None = Field(default=None, description="PEM, of the certificate")

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            match = HOST_AND_PORT.fullmatch(address)
            if not address.startswith("unix:/") and (match is None or int(match[3]) >= 2**16):
                raise ValueError("must be unix:/PATH or HOST:PORT, or a list of them")
        if sum(address.startswith("unix:") for address in value) > 1:
            raise ValueError("has more than one unix:/PATH")
        return value

    @model_validator(mode="after")
    def _secret(self) -> "ApiSettings":
        if self.certificate is None and (open_ := [one for one in self.endpoints if not is_loopback(one[0])]):
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
        matches = (HOST_AND_PORT.fullmatch(address) for address in self.listen)
        return [(match[1] or match[2], int(match[3])) for match in matches if match]


class DockerSettings(Section):
    """The Docker Engine: unix:///PATH or tcp://HOST:PORT."""

    host: str = "unix:///var/run/docker.sock"
    pause_timeout: Seconds = Field(default=10, description="how long sessions wait for the unpause of their container")


class KubernetesSettings(Section):
    """The Kubernetes cluster: a context of a kubeconfig, or the one whose pod the bastion runs in."""

    kubeconfig: Path | None = Field(default=None, description="None: $KUBECONFIG, ~/.kube/config, or the pod's")
    context: str | None = Field(default=None, min_length=1, description="None: the kubeconfig's current one")


class LogSettings(Section):
    """The server's own log, on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
