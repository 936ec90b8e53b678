"""The regular expression of a service's, stack's or container's name; targets.py has the grammar of a user name."""

from typing import Final

NAME_PART: Final = "[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
"""A regular expression: the names that Docker, Compose, Swarm and Kubernetes allow, at most 253 bytes, ASCII."""
