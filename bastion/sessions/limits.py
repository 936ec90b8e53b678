"""How many sessions a service, a user and a grant may have at a time, and the words of a refusal."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Final

from bastion.config import GrantSettings, SessionsSettings
from bastion.config.values import size_in_words
from bastion.errors import LimitReached
from bastion.model import Session

_NAMED: Final = 10  # holders in a hint


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many sessions there may be at a time; `grant` is a grant's key, `per_grant` its bound, where it has one.

    `user_quota` bounds the bytes of a user's transcripts; 0 is no bound.
    """

    per_service: int
    per_user: int
    per_user_per_service: int
    grant: str | None = None
    per_grant: int | None = None
    user_quota: int = 0

    @classmethod
    def of(cls, limits: SessionsSettings, grant: GrantSettings | None, user_quota: int = 0) -> "Bounds":
        """Return what the configuration and the grant say."""
        bounded = grant is not None and grant.max_sessions is not None
        return cls(
            limits.per_service,
            limits.per_user,
            limits.share_of_service,
            grant_key(grant) if grant is not None and bounded else None,
            grant.max_sessions if grant is not None else None,
            user_quota,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """The places that are taken: of one service by user, of one user, and by one grant.

    `transcript_bytes` are those of the user that count against the quota.
    """

    service: Counter[str]
    user: int
    grant: int
    transcript_bytes: int = 0


def grant_key(grant: GrantSettings) -> str:
    """Return what tells this grant from others on every node: a digest of what it says, defaults left out."""
    said = json.dumps(grant.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def refuse_if_full(session: Session, bounds: Bounds, held: Held) -> None:
    """Let the session take a place if there is one.

    Raises:
        LimitReached: the service, the user or the grant has as many sessions as it may, or the user's quota of
            transcript bytes is used up.
    """
    limit = bounds.per_service
    if held.service.total() >= limit:
        names = ", ".join(f"{user} ({count})" for user, count in held.service.most_common(_NAMED))
        raise LimitReached(
            f"{session.service_name}@{session.stack} has {limit} sessions, and {limit} is its limit",
            f"held by {names}; try again when one has ended",
        )
    limit = bounds.per_user_per_service
    if held.service[session.user] >= limit:
        raise LimitReached(
            f"{session.user} has {limit} sessions of {session.service_name}@{session.stack}, and {limit} is one user's"
            " share of a service",
            "end one of them first",
        )
    limit = bounds.per_user
    if held.user >= limit:
        raise LimitReached(f"{session.user} has {limit} sessions, and {limit} is the limit", "end one of them first")
    if bounds.per_grant is not None and held.grant >= bounds.per_grant:
        raise LimitReached(
            f"your grant is good for {bounds.per_grant} sessions at a time, and they are taken",
            "end one of them first",
        )
    if bounds.user_quota and held.transcript_bytes >= bounds.user_quota:
        raise LimitReached(*quota_message(session.user, bounds.user_quota))


def quota_message(user: str, quota: int) -> tuple[str, str]:
    """Return the message and the hint for a user whose quota of transcript bytes is used up."""
    return (
        f"the transcripts of {user} of the last 24 hours have reached their quota of {size_in_words(quota)}",
        "connect again when they are a day old, or ask whoever runs this bastion for a larger [audit] user_quota",
    )
