"""The failure modes that a test can switch on in the stand-in."""

from dataclasses import dataclass, field
from typing import Final

HARNESS: Final = "bastion-tests-harness"  # the User-Agent of the tests' own hands, which no switch binds


@dataclass
class Switches:
    """What is switched on; a new one is a cluster without any trouble.

    Attributes:
        version: the server's version; before 1.30 it knows no v5 of exec, before 1.35 exec needs `get` alone.
        protocol: "v4": no v5 of exec is offered, whatever the version.
        cut_after: bytes of output after which an exec's connection is reset.
        no_status: an exec closes politely without its status.
        output_end_closes_input: stdin of an exec ends with its stdout or its stderr, as containerd 1.6.20 and 2.4 do.
        freeze_on_delete: streams of a deleted pod stay open and silent.
        forbid: (verb, resource) that nobody may, such as ("create", "pods/exec").
        rights: (verb, resource) that the token's user may; None is everything.
        not_ready: names of pods that are not ready.
        token_expired: new requests get 401; open streams go on.
        slow: seconds before a REST request is answered.
    """

    version: str = "1.36"
    protocol: str | None = None
    cut_after: int | None = None
    no_status: bool = False
    output_end_closes_input: bool = True
    freeze_on_delete: bool = False
    forbid: list[tuple[str, str]] = field(default_factory=list)
    rights: list[tuple[str, str]] | None = None
    not_ready: list[str] = field(default_factory=list)
    token_expired: bool = False
    slow: float = 0.0

    def minor(self) -> int:
        """Return the minor version, 36 of 1.36."""
        return int(self.version.split(".")[1])

    def has_v5(self) -> bool:
        """Tell whether exec is offered by v5."""
        return self.protocol != "v4" and self.minor() >= 30
