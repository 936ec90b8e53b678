"""What counts as a proof of a key: the name, the key, the algorithm and the touch that a signature must be of."""

import asyncssh
import pytest
from asyncssh.packet import String

import bastion.ssh
from bastion.errors import ConfigurationError
from bastion.keyring import Admission
from bastion.model import Identity
from bastion.ssh.proof import is_proof
from tests.authenticator import PRESENT, VERIFIED, SecurityKey

SESSION = b"session id of thirty-two bytes.."
NAME = "web@mystack"
KINDS = ["ssh-ed25519", "ecdsa-sha2-nistp256"]


def admission(key: asyncssh.SSHKey | SecurityKey, *, touch: bool = True, verify: bool = False) -> Admission:
    return Admission(Identity("alice", "", ""), key.public_data, touch, verify)


def request(key_data: bytes, algorithm: bytes, name: str = NAME) -> bytes:
    return (
        b"\x32"
        + b"".join(map(String, (name, "ssh-connection", "publickey")))
        + b"\1"
        + String(algorithm)
        + String(key_data)
    )


def proves(
    key: asyncssh.SSHKey | SecurityKey,
    accepted: Admission,
    *,
    declared: bytes = b"",
    signed_with: bytes = b"",
    name: str = NAME,
    key_data: bytes = b"",
    session: bytes = SESSION,
) -> bool:
    message = request(key_data or key.public_data, declared or key.algorithm, name)
    signature = key.sign(String(session) + message, signed_with or declared or key.algorithm)
    return is_proof(
        accepted, username=NAME, session_id=SESSION, key_data=key.public_data, message=message, signature=signature
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("flags", "touch", "verify", "good"),
    [
        (PRESENT, True, False, True),
        (PRESENT | VERIFIED, True, True, True),
        (0, True, False, False),
        (VERIFIED, True, False, False),
        (0, False, False, True),
        (PRESENT, True, True, False),
        (VERIFIED, False, True, True),
        (0, False, True, False),
    ],
)
def test_security_key_is_touched_and_verified_where_required(
    kind: str, flags: int, *, touch: bool, verify: bool, good: bool
) -> None:
    """Without the presence flag a signature needs `no-touch-required`, and with `verify-required` the other flag."""
    key = SecurityKey(kind, flags)
    assert proves(key, admission(key, touch=touch, verify=verify)) is good


@pytest.mark.parametrize("kind", KINDS)
def test_flags_are_covered_by_the_signature(kind: str) -> None:
    """A presence flag put in after the signing is found out."""
    key = SecurityKey(kind, 0)
    message = request(key.public_data, key.algorithm)
    signature = bytearray(key.sign(String(SESSION) + message, key.algorithm))
    signature[-5] = PRESENT
    assert not is_proof(
        admission(key), username=NAME, session_id=SESSION, key_data=key.public_data, message=message,
        signature=bytes(signature),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "signed_with", "good"),
    [
        (b"rsa-sha2-256", b"rsa-sha2-256", True),
        (b"rsa-sha2-512", b"rsa-sha2-512", True),
        (b"ssh-rsa", b"ssh-rsa", False),
        (b"rsa-sha2-512", b"ssh-rsa", False),
        (b"ssh-rsa", b"rsa-sha2-512", False),
        (b"rsa-sha2-256", b"rsa-sha2-512", False),
        (b"ssh-ed25519", b"rsa-sha2-512", False),
        (b"rsa-sha2-512-cert-v01@openssh.com", b"rsa-sha2-512", False),
    ],
)
def test_algorithm_is_one_all_through(declared: bytes, signed_with: bytes, *, good: bool) -> None:
    """A5: what is declared, what signed and what the key is must agree, and SHA-1 is never good."""
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    assert proves(key, admission(key), declared=declared, signed_with=signed_with) is good


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "db@mystack"},
        {"name": "web＠mystack"},
        {"key_data": String("ssh-ed25519") + String(bytes(32))},
        {"session": b"another session"},
    ],
    ids=str,
)
def test_signature_is_of_this_request(changed: dict[str, object]) -> None:
    """A signature over another name, another key or another session proves nothing."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    assert proves(key, admission(key))
    assert not proves(key, admission(key), **changed)  # type: ignore[arg-type] # one of proves' own words


@pytest.mark.parametrize(
    ("version", "safe"), [("2.24.0", False), ("2.9.99", False), ("2.24.1", True), ("3.0rc1", True)]
)
def test_old_library_serves_nobody(monkeypatch: pytest.MonkeyPatch, version: str, *, safe: bool) -> None:
    """A4: with an asyncssh that has the race of names the server does not start, and says what to install."""
    monkeypatch.setattr(asyncssh, "__version__", version)
    if safe:
        bastion.ssh._check_library()  # noqa: SLF001 - what listen does first
        return
    with pytest.raises(ConfigurationError, match=f"asyncssh {version} is not safe") as caught:
        bastion.ssh._check_library()  # noqa: SLF001
    assert "2.24.1" in caught.value.hint


@pytest.mark.parametrize("signature", [b"", b"\0\0\0\x0b", String("ssh-ed25519"), String("ssh-ed25519") + String(b"")])
def test_signature_that_is_none_proves_nothing(signature: bytes) -> None:
    """Cut, empty and missing signatures are no proof and no failure."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    message = request(key.public_data, key.algorithm)
    for text in (message, message[:-1], b""):
        assert not is_proof(
            admission(key), username=NAME, session_id=SESSION, key_data=key.public_data, message=text,
            signature=signature,
        )  # fmt: skip
