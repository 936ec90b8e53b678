"""The trace that a refused login leaves: a line in the log, a number by reason, and counts in the ledger."""

from dataclasses import dataclass, field
from typing import Final, Literal

import asyncssh
import structlog
from asyncssh.packet import PacketDecodeError, SSHPacket

from bastion.admission import Refusal, source_of
from bastion.keyring import KeyObjection, fingerprint_of
from bastion.log import shorten
from bastion.metrics import Metrics
from bastion.refusals import Note
from bastion.tally import Tally

Reason = Literal[
    KeyObjection, "bad-signature", "malformed-name", "no-key", "no-attempt", "grace", "evicted", "algorithms",
    "protocol", "penalty", "handshake-rate", "max-startups", "descriptors",
]  # fmt: skip

# In this order: of several reasons on one connection, such as those of an agent's keys, the first is named.
WORDS: Final[dict[Reason, str]] = {
    "malformed-name": "name is malformed",
    "bad-signature": "bad signature",
    "revoked": "revoked",
    "expired": "expired",
    "not-yet-valid": "not valid yet",
    "address": "from= does not allow this address",
    "certificate": "certificate not accepted",
    "keys-unreadable": "it is not known which keys are revoked",
    "unknown-key": "unknown key",
    "evicted": "had to go for another connection",
    "algorithms": "no common algorithm",
    "protocol": "broke the protocol",
    "grace": "login grace used up",
    "no-key": "no key offered",
    "no-attempt": "left before a login",
    "penalty": "penalty",
    "handshake-rate": "too many handshakes a second",
    "max-startups": "too many wait to log in",
    "descriptors": "too many connections",
}

MAX_KEYS: Final = 8  # named in one line; an agent may have more
MAX_NAME_BYTES: Final = 320  # of a name in one line
MAX_VERSION_BYTES: Final = 255  # of a client's version (RFC 4253 §4.2)
MAX_DETAIL_BYTES: Final = 200
BROKEN_PROTOCOL: Final = (
    asyncssh.ProtocolError, asyncssh.ProtocolNotSupported, asyncssh.MACError, asyncssh.CompressionError,
    asyncssh.ServiceNotAvailable,
)  # fmt: skip
LINES_PER_SOURCE: Final = 10  # a minute; what is more is counted
LINES: Final = 300  # a minute, of all sources together
MAX_SOURCES: Final = 256  # with a count of their own in a minute

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LoginAttempts:
    """What one connection tried before it was logged in."""

    name: bytes | None = None
    keys: dict[str, None] = field(default_factory=dict)
    more_keys: int = 0
    reasons: set[Reason] = field(default_factory=set)

    def fail(self, key_data: bytes, reason: Reason) -> None:
        """Note a key that was refused."""
        self.reasons.add(reason)
        key = f"{_type_of(key_data)} {fingerprint_of(key_data)}"
        if key in self.keys:
            return
        if len(self.keys) < MAX_KEYS:
            self.keys[key] = None
        else:
            self.more_keys += 1

    @property
    def reason(self) -> Reason | None:
        """The most telling reason that a key was refused for, None when none was."""
        return next((reason for reason in WORDS if reason in self.reasons), None)

    def facts(self) -> dict[str, object]:
        """Return the name and the keys as they were sent, made harmless."""
        facts: dict[str, object] = {}
        if self.name is not None:
            name = self.name[: MAX_NAME_BYTES + 1].decode(errors="backslashreplace")
            facts["name"] = shorten(name, MAX_NAME_BYTES)
        if self.keys:
            facts["keys"] = list(self.keys)
        if self.more_keys:
            facts["more_keys"] = self.more_keys
        return facts


class RefusedLogins:
    """Writes down refused logins, bounded: a few lines of each source, then counts; counts only in the ledger."""

    def __init__(self, metrics: Metrics, note: Note) -> None:
        self._metrics = metrics
        self._note = note
        self._lines = Tally(max_groups=MAX_SOURCES, max_singles=LINES)
        self._ledger = Tally()

    def record(self, address: str, reason: Reason, **facts: object) -> None:
        """Write down one connection that did not log in.

        One that left without a word is counted only: that is how load balancers see whether a port is open.
        """
        words, source = WORDS[reason], source_of(address)
        self._metrics.login_failed(reason)
        self._ledger.add("logins refused", {"reason": words}, singly=0, addresses=source)
        if reason == "no-attempt" and not facts:
            return
        if self._lines.add("logins refused", {"client_address": source}, singly=LINES_PER_SOURCE, reasons=words):
            # The first two in this order: docs/operations.md has a filter of fail2ban that begins with them.
            log.info("login refused", client_address=address, reason=words, **facts)

    def turned_away(self, address: str, refusal: Refusal) -> None:
        """Write down one connection that was refused when it arrived."""
        self.record(address, refusal.reason)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the counts of the minutes that are over, or all."""
        for event, facts in self._lines.due(everything=everything):
            log.info(event, **facts)
        for event, facts in self._ledger.due(everything=everything):
            await self._note(event, **facts)


def reason_of(error: Exception | None) -> tuple[Reason | None, str]:
    """Return why a connection broke before any login was tried, and the words of the library or of the client for it.

    None where the client said good-bye in words of its own, as after a host key that it does not trust.
    """
    if not isinstance(error, asyncssh.DisconnectError) or isinstance(error, asyncssh.ConnectionLost):
        return None, ""
    detail = shorten(error.reason, MAX_DETAIL_BYTES)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return "algorithms", detail
    return ("protocol" if isinstance(error, BROKEN_PROTOCOL) else None), detail


def _type_of(key_data: bytes) -> str:
    try:
        return shorten(SSHPacket(key_data).get_string().decode(errors="backslashreplace"), 64)
    except PacketDecodeError:
        return "malformed"
