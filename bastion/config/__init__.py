"""One TOML file, and the environment over it, become frozen models; what is unknown or wrong is named by its path."""

from bastion.config.entries import GrantSettings, GroupSettings, StackSettings
from bastion.config.reading import load, locate
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
from bastion.config.settings import KUBERNETES, Settings
from bastion.config.startups import NO_PENALTIES, IpNetwork, MaxStartups, PenaltyRules
from bastion.config.values import EVERYWHERE, Permission, Seconds

__all__ = [
    "EVERYWHERE",
    "KUBERNETES",
    "NO_PENALTIES",
    "ApiSettings",
    "AuditSettings",
    "DockerSettings",
    "GrantSettings",
    "GroupSettings",
    "IpNetwork",
    "KeysSettings",
    "KubernetesSettings",
    "LogSettings",
    "MaxStartups",
    "PenaltyRules",
    "Permission",
    "Seconds",
    "SessionsSettings",
    "Settings",
    "SshSettings",
    "StackSettings",
    "load",
    "locate",
]
