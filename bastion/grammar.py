"""The pattern of one name of a service, a stack or a container; targets.py has the grammar of a whole user name."""

from typing import Final

NAME_PART: Final = "[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
"""A regular expression: what Docker, Compose, Swarm and Kubernetes allow, at most 253 bytes, ASCII."""
