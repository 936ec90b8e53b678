"""The list of what is revoked: keys by fingerprint or whole, certificates by key id or authority and serial."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bastion.keyring.authorized_keys import decode_key, fingerprint
from bastion.keyring.certificates import UserCertificate
from bastion.keyring.options import InvalidLineError
from bastion.keyring.store import Contents

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
HIGHEST_SERIAL = 2**64 - 1
_SERIAL = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Revoked:
    """What opens nothing any more; serials are each under the fingerprint of the authority that gave them."""

    keys: frozenset[str] = frozenset()
    serials: frozenset[tuple[str, int]] = frozenset()
    key_ids: frozenset[str] = frozenset()

    def __or__(self, other: "Revoked") -> "Revoked":
        return Revoked(self.keys | other.keys, self.serials | other.serials, self.key_ids | other.key_ids)

    def has_certificate(self, certificate: UserCertificate) -> bool:
        """Tell whether it is revoked by its id, its serial, its key or the key of its authority."""
        authority = certificate.authority_fingerprint
        return (
            normal(certificate.key_id) in self.key_ids
            or (authority, certificate.serial) in self.serials
            or not self.keys.isdisjoint({authority, certificate.key_fingerprint})
        )


NOTHING = Revoked()


def normal(key_id: str) -> str:
    """Return a key id as a line of the list can hold it: blanks of any kind and number are one space."""
    return " ".join(key_id.split())


def read_revoked(contents: Contents, before: Revoked, problems: list[str]) -> tuple[Revoked, bool]:
    """Read the list, and tell whether it is in doubt: then nobody may be let in, and `before` stays revoked."""
    if contents.missing:
        if before != NOTHING:
            problems.append(f"{contents.missing}: is gone; nobody is let in until it is back")
        return before, before != NOTHING
    if contents.doubt:
        problems.append(contents.doubt)
        return before, True
    keys, serials, key_ids, closed = set[str](), set[tuple[str, int]](), set[str](), False
    for line in contents.revoked:
        try:
            found = read_line(line.text)
            keys |= found.keys
            serials |= found.serials
            key_ids |= found.key_ids
        except InvalidLineError as error:
            closed = True
            problems.append(f"{line}: {error}; nobody is let in until it is mended")
            if line.text.startswith(b"SSHKRL"):
                break
    revoked = Revoked(frozenset(keys), frozenset(serials), frozenset(key_ids))
    return (revoked | before if closed else revoked), closed


def read_line(line: bytes) -> Revoked:
    """Read one line; what stands behind a fingerprint, a key or a serial is a comment.

    Raises:
        InvalidLineError: it is no such line.
    """
    if line.startswith(b"SSHKRL"):
        raise InvalidLineError("is a revocation list in OpenSSH's binary form, which is not read: write it as lines")
    try:
        words: Sequence[str] = line.decode().split()
    except UnicodeDecodeError:
        raise InvalidLineError("is not UTF-8") from None
    if not words or words[0].startswith("#"):
        return NOTHING
    if FINGERPRINT.fullmatch(words[0]):
        return Revoked(keys=frozenset({words[0]}))
    if len(words) > 1 and words[0] == "id":
        return Revoked(key_ids=frozenset({" ".join(words[1:])}))
    if words[0] == "serial":
        if len(words) < 3 or not FINGERPRINT.fullmatch(words[1]) or not _SERIAL.fullmatch(words[2]):  # noqa: PLR2004 - the words of such a line
            raise InvalidLineError("is not serial SHA256:... NUMBER")
        if int(words[2]) > HIGHEST_SERIAL:
            raise InvalidLineError("has a serial that no certificate can have")
        return Revoked(serials=frozenset({(words[1], int(words[2]))}))
    if len(words) > 1:
        return Revoked(keys=frozenset({fingerprint(decode_key(words[0], words[1]))}))
    raise InvalidLineError("is neither a SHA256 fingerprint, a public key, a serial nor an id")
