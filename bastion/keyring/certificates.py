"""An OpenSSH user certificate (PROTOCOL.certkeys) is taken apart into what its authority says of which key."""

import contextlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bastion.keyring.authorized_keys import fingerprint
from bastion.keyring.options import AddressRule, InvalidLineError, check_name, read_addresses

SIZE_LIMIT = 64 * 1024  # bytes
SUFFIX = b"-cert-v01@openssh.com"
FOR_EVER = 2**64 - 1
STACK, SERVICE = "stack@bastion", "service@bastion"  # critical options of our own: what the certificate opens
_USER = 1  # the certificate's type; 2 is a host's
_MOST_PRINCIPALS = 256  # as in OpenSSH
_LONGEST_COMMAND = 8192
_PLAIN = {  # of each type the type of the certified key, and how many fields that has
    b"ssh-ed25519" + SUFFIX: (b"ssh-ed25519", 1),
    b"ecdsa-sha2-nistp256" + SUFFIX: (b"ecdsa-sha2-nistp256", 2),
    b"ssh-rsa" + SUFFIX: (b"ssh-rsa", 2),
    b"sk-ssh-ed25519" + SUFFIX: (b"sk-ssh-ed25519@openssh.com", 2),
    b"sk-ecdsa-sha2-nistp256" + SUFFIX: (b"sk-ecdsa-sha2-nistp256@openssh.com", 3),
}
_CRITICAL = frozenset({"force-command", "source-address", "verify-required", STACK, SERVICE})


class InvalidCertificateError(ValueError):
    """It is no certificate that we take; the message says why, in words for the operator."""


@dataclass(frozen=True, slots=True)
class UserCertificate:
    """A certificate as it was shown; its signature has not been looked at.

    `key` and `authority` are public keys in SSH wire format, `signed` is what `signature` is over; `valid_after` and
    `valid_before` are in seconds since the epoch, the second `FOR_EVER` where there is no end.
    """

    blob: bytes
    key_type: str
    key: bytes
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    sources: tuple[AddressRule, ...]
    force_command: str | None
    verify_required: bool
    stack: str | None
    service: str | None
    extensions: frozenset[str]
    authority: bytes
    signed: bytes
    signature: bytes

    @property
    def key_fingerprint(self) -> str:
        """The SHA256 fingerprint of the certified key."""
        return fingerprint(self.key)

    @property
    def authority_fingerprint(self) -> str:
        """The SHA256 fingerprint of the key that signed it."""
        return fingerprint(self.authority)


class Packet:
    """Reads the fields of SSH's wire format (RFC 4251 §5) one after the other."""

    def __init__(self, contents: bytes) -> None:
        self.contents = contents
        self.position = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            InvalidCertificateError: there are not as many.
        """
        start, self.position = self.position, self.position + size
        if self.position > len(self.contents):
            raise InvalidCertificateError("is cut short")
        return self.contents[start : self.position]

    def number(self, size: int) -> int:
        """Return the next number, of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        """Return the next string."""
        return self.take(self.number(4))

    def strings(self) -> Iterator[bytes]:
        """Give every string that is left."""
        while self.position < len(self.contents):
            yield self.string()

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            InvalidCertificateError: something is.
        """
        if self.position != len(self.contents):
            raise InvalidCertificateError("has something behind its end")


def string(value: bytes) -> bytes:
    """Return a string in SSH's wire format."""
    return struct.pack(">I", len(value)) + value


def is_certificate(blob: bytes) -> bool:
    """Tell whether this says of itself that it is a certificate, of whatever kind."""
    try:
        key_type = Packet(blob).string()
    except InvalidCertificateError:
        return False
    return b"-cert-v" in key_type


def parse(blob: bytes) -> UserCertificate:
    """Take a certificate apart.

    Raises:
        InvalidCertificateError: it is malformed, no user's, or has a critical option that is not known here.
    """
    if len(blob) > SIZE_LIMIT:
        raise InvalidCertificateError(f"is longer than {SIZE_LIMIT} bytes")
    packet = Packet(blob)
    plain_type, count = _PLAIN.get(packet.string(), (b"", 0))
    if not plain_type:
        raise InvalidCertificateError("is of a type that is not accepted")
    packet.string()  # the nonce
    key = string(plain_type) + b"".join(string(packet.string()) for _ in range(count))
    serial, kind = packet.number(8), packet.number(4)
    if kind != _USER:
        raise InvalidCertificateError("is no user's certificate")
    key_id = _text(packet.string(), "key id")
    principals = tuple(_text(name, "principal") for name in Packet(packet.string()).strings())
    if len(principals) > _MOST_PRINCIPALS:
        raise InvalidCertificateError(f"names more than {_MOST_PRINCIPALS} principals")
    valid_after, valid_before = packet.number(8), packet.number(8)
    critical = _pairs(packet.string())
    if unknown := critical.keys() - _CRITICAL:
        raise InvalidCertificateError(f"has a critical option that is not known: {min(unknown)[:64]!a}")
    extensions = _pairs(packet.string())
    packet.string()  # reserved
    authority = packet.string()
    signed = blob[: packet.position]
    signature = packet.string()
    packet.end()
    return UserCertificate(
        blob=blob,
        key_type=plain_type.decode(),
        key=key,
        serial=serial,
        key_id=key_id,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        sources=_sources(critical),
        force_command=_value(critical, "force-command", _LONGEST_COMMAND),
        verify_required=_flag(critical, "verify-required"),
        stack=_name(critical, STACK),
        service=_name(critical, SERVICE),
        extensions=frozenset(name for name in extensions if not extensions[name]),
        authority=authority,
        signed=signed,
        signature=signature,
    )


def fingerprint_of(blob: bytes) -> str:
    """Return the SHA256 fingerprint of a key, or of a certificate's key, in the form of `ssh-keygen -l`."""
    if is_certificate(blob):
        with contextlib.suppress(InvalidCertificateError):
            return parse(blob).key_fingerprint
    return fingerprint(blob)


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidCertificateError(f"has a {what} that is not UTF-8") from None


def _pairs(contents: bytes) -> Mapping[str, bytes]:
    """Read names and data; a name that comes twice would leave open which counts."""
    packet, found = Packet(contents), {}
    for field in packet.strings():
        name = _text(field, "option")
        if name in found:
            raise InvalidCertificateError(f"has the option {name[:64]!a} twice")
        found[name] = packet.string()
    return found


def _flag(options: Mapping[str, bytes], name: str) -> bool:
    if options.get(name):
        raise InvalidCertificateError(f"has a value for {name}")
    return name in options


def _value(options: Mapping[str, bytes], name: str, limit: int) -> str | None:
    if name not in options:
        return None
    packet = Packet(options[name])
    value = _text(packet.string(), name)
    packet.end()
    if not value or len(value) > limit or "\0" in value:
        raise InvalidCertificateError(f"has a value of {name} that is none")
    return value


def _name(options: Mapping[str, bytes], name: str) -> str | None:
    value = _value(options, name, 253)
    try:
        return None if value is None else check_name(value, name)
    except InvalidLineError as error:
        raise InvalidCertificateError(str(error)) from None


def _sources(options: Mapping[str, bytes]) -> tuple[AddressRule, ...]:
    value = _value(options, "source-address", _LONGEST_COMMAND)
    if value is None:
        return ()
    words = "has a source-address that is no list of addresses and networks"
    if any(character in value for character in "!*?"):  # from= has these, source-address has not
        raise InvalidCertificateError(words)
    try:
        return read_addresses(value)
    except InvalidLineError:
        raise InvalidCertificateError(words) from None
