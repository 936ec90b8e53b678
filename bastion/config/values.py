"""The kinds of values that sections are made of: times, sizes, lists of words, permissions, and addresses."""

import contextlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
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
    BeforeValidator(_quantity(UNITS, "time", '"30s"'), json_schema_input_type=str),
    Field(ge=0, allow_inf_nan=False),
]
Bytes = Annotated[int, BeforeValidator(_quantity(_SIZES, "size", '"64MiB"'), json_schema_input_type=str), Field(ge=0)]
Words = tuple[Annotated[str, Field(min_length=1)], ...]
Permission = Literal["shell", "exec", "files:read", "files:write", "forward", "agent", "toolbox"]

EVERYWHERE = ("/**",)

HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253})):(\d{1,5})", re.ASCII)


HOST_AND_PORTS = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}):(\*|[1-9]\d{0,4})", re.ASCII
)


def size_in_words(size: int) -> str:
    """Format a size in the largest unit that does not exceed the size, such as "1.5 GiB"."""
    unit = next((unit for unit in reversed(_SIZES) if size >= _SIZES[unit]), "B")
    return f"{round(size / _SIZES[unit], 1):g} {unit}"


def one_or_more(value: object) -> object:
    """Take one word for a list of it; for a field of `Words`."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):  # from the environment; an address of IPv6 is no JSON
        with contextlib.suppress(ValueError):
            return tuple(json.loads(value))
    return (value,)


def is_loopback(host: str) -> bool:
    """Tell whether a host, by name or address, is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_ipv6(host: str) -> bool:
    """Tell whether it is an address of IPv6."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


class Section(BaseModel):
    """A section of the file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
