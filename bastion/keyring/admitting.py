"""Whom a key or a certificate names, and what bounds it, by one picture of the key home and one moment; no I/O."""

from dataclasses import dataclass, replace
from typing import Literal

from bastion.keyring.certificates import FOR_EVER, UserCertificate
from bastion.keyring.names import USER
from bastion.keyring.options import InvalidLineError, admits
from bastion.keyring.snapshot import Entry, Snapshot
from bastion.keyring.strength import is_signed, judge_certified
from bastion.model import Certificate, Identity

KeyObjection = Literal[
    "unknown-key", "revoked", "expired", "not-yet-valid", "address", "certificate", "keys-unreadable"
]


class NotAdmitted(Exception):
    """The key admits nobody; the message is the reason, for the log only, and `objection` the kind of reason.

    `certificate` is set if the key is a certificate that a trusted authority signed.
    """

    def __init__(self, why: str, objection: KeyObjection, certificate: UserCertificate | None = None) -> None:
        super().__init__(why)
        self.objection = objection
        self.certificate = certificate


@dataclass(frozen=True, slots=True)
class Admission:
    """Who somebody is if they sign with `key` (SSH wire format), and what the signature must then say of its making."""

    identity: Identity
    key: bytes
    touch_required: bool
    verify_required: bool


def admit_key(snapshot: Snapshot, entry: Entry, client_address: str, moment: float) -> Admission:
    """Admit the key of a user's line.

    Raises:
        NotAdmitted: it was revoked, has expired, or is not for this address.
    """
    if entry.key.fingerprint in snapshot.revoked.keys:
        raise NotAdmitted("the key was revoked", "revoked")
    _check_line(entry, "the key", client_address, moment)
    options = entry.key.options
    return Admission(entry.identity(client_address), entry.key.blob, options.touch_required, options.verify_required)


def admit_certificate(
    snapshot: Snapshot, certificate: UserCertificate, client_address: str, moment: float, *, known: bool = False
) -> Admission:
    """Admit the key of a certificate, as the one user that it and the line of its authority agree on.

    `known` leaves out what cannot have changed since it was admitted before: the signature and the key's strength.

    Raises:
        NotAdmitted: its authority is not trusted, it was revoked, is not valid now or here, or names no one user.
    """
    trusted = snapshot.authorities.get(certificate.authority, ())
    if not trusted:
        raise NotAdmitted("the certificate's authority is not trusted", "unknown-key")
    if not known:
        _check_made(certificate, trusted[0])
    return _admit_signed(snapshot, certificate, trusted, client_address, moment)


def _check_made(certificate: UserCertificate, authority: Entry) -> None:
    if not is_signed(certificate, authority.key):
        raise NotAdmitted("the certificate is not signed by the authority that it names", "certificate")
    try:
        judge_certified(certificate)
    except InvalidLineError as error:
        raise NotAdmitted(f"the certificate {error}", "certificate", certificate) from error


def _admit_signed(
    snapshot: Snapshot,
    certificate: UserCertificate,
    trusted: tuple[Entry, ...],
    client_address: str,
    moment: float,
) -> Admission:
    def refuse(why: str, objection: KeyObjection) -> NotAdmitted:
        return NotAdmitted(why, objection, certificate)

    if snapshot.revoked.has_certificate(certificate):
        raise refuse("the certificate was revoked", "revoked")
    if moment < certificate.valid_after:
        raise refuse("the certificate is not valid yet", "not-yet-valid")
    if certificate.valid_before != FOR_EVER and moment >= certificate.valid_before:
        raise refuse("the certificate expired", "expired")
    if certificate.sources and not admits(certificate.sources, client_address):
        raise refuse("the certificate may not be used from this address", "address")
    named = [(user, entry) for entry in trusted for user in _users(certificate, entry)]
    if len(named) != 1:
        why = f"the certificate's principals name {len(named) or 'no'} users, and one is needed"
        raise refuse(why, "certificate")
    [(user, entry)] = named
    try:
        _check_line(entry, "the line of the certificate's authority", client_address, moment)
    except NotAdmitted as error:
        raise refuse(str(error), error.objection) from None
    return _bounded(certificate, entry, user, client_address)


def _bounded(certificate: UserCertificate, entry: Entry, user: str, client_address: str) -> Admission:
    """Return the bounds of the authority's line and the certificate's own together."""
    options = entry.key.options
    bounds = [(options.stack, certificate.stack), (options.service, certificate.service)]
    if any(None not in pair and pair[0] != pair[1] for pair in bounds):
        raise NotAdmitted("the certificate is for another place than its authority's line", "certificate", certificate)
    verify_required = options.verify_required or certificate.verify_required
    if verify_required and not certificate.key_type.startswith("sk-"):
        why = "the certificate demands a PIN or finger, and its key is no security key"
        raise NotAdmitted(why, "certificate", certificate)
    line = entry.identity(client_address)
    (stack, service) = (one or other for one, other in bounds)
    identity = replace(
        line,
        user=user,
        key_fingerprint=certificate.key_fingerprint,
        key_stack=stack,
        key_service=service,
        may_pty=line.may_pty and "permit-pty" in certificate.extensions,
        may_forward=line.may_forward and "permit-port-forwarding" in certificate.extensions,
        may_agent=line.may_agent and "permit-agent-forwarding" in certificate.extensions,
        force_command=certificate.force_command,
        certificate=Certificate(
            certificate.blob, certificate.key_id, certificate.serial, certificate.authority_fingerprint
        ),
    )
    touch_required = options.touch_required or "no-touch-required" not in certificate.extensions
    return Admission(identity, certificate.key, touch_required, verify_required)


def _users(certificate: UserCertificate, entry: Entry) -> set[str]:
    """Name the users that a certificate is for: of a user's own line that user, of ca/ whoever the principals name."""
    principals = set(certificate.principals)
    if entry.user:
        return {entry.user} if principals & set(entry.key.options.principals or (entry.user,)) else set()
    if entry.key.options.principals:
        principals &= set(entry.key.options.principals)
    return {name for name in principals if USER.fullmatch(name)}


def _check_line(entry: Entry, what: str, client_address: str, moment: float) -> None:
    options = entry.key.options
    if options.expires is not None and moment > options.expires:
        raise NotAdmitted(f"{what} expired", "expired")
    if not options.admits(client_address):
        raise NotAdmitted(f"{what} may not be used from this address", "address")
