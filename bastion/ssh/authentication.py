"""The login of one connection: names and keys are judged here, and the key that signed says who it is."""

import asyncssh
import structlog

from bastion.errors import BastionError
from bastion.keyring import Admission, Keyring, NotAdmitted
from bastion.ssh.asyncssh_patches import answer_all_names_alike
from bastion.ssh.proof import is_proof
from bastion.ssh.refused_logins import LoginAttempts, Reason
from bastion.targets import parse

MAX_PROBES = 20
MAX_BAD_SIGNATURES = 10

log = structlog.get_logger(__name__)


class Authentication:
    """Takes the place of asyncssh's verification of keys.

    asyncssh 2.24.1 names neither the key that signed nor refuses weak signatures, and would have a certificate's
    principal be the user name. A test pins the signature of the step that is replaced.
    """

    def __init__(self, connection: asyncssh.SSHServerConnection, keyring: Keyring, address: str) -> None:
        self.attempts = LoginAttempts()
        self._connection = connection
        self._keyring = keyring
        self._address = address
        self._verified: tuple[str, bytes, Admission | None] | None = None
        self._probes = 0
        self._bad_signatures = 0
        answer_all_names_alike(connection, self._note_name)
        connection.validate_public_key = self._verify_key  # type: ignore[method-assign,assignment] # passed by position

    def complete(self) -> tuple[str, Admission] | None:
        """Return the user name and whom the key that signed admits; None when it does so no longer, or none signed."""
        username, key_data, accepted = self._verified or ("", b"", None)
        again = self._admission(username, key_data)
        if isinstance(again, str) or again != accepted or self._connection.get_extra_info("username") != username:
            self.attempts.fail(key_data, again if isinstance(again, str) else "unknown-key")
            return None
        return username, again

    def _note_name(self, name: bytes) -> None:
        self.attempts.name = name

    async def _verify_key(self, username: str, key_data: bytes, message: bytes, signature: bytes) -> bool:
        """Count attempts, and note the key whose signature is good."""
        admission = self._admission(username, key_data)
        if message:
            if isinstance(admission, Admission) and not is_proof(
                admission,
                username=username,
                session_id=self._connection._session_id,  # noqa: SLF001 - no public name
                key_data=key_data,
                message=message,
                signature=signature,
            ):
                admission = "bad-signature"
            self._bad_signatures += isinstance(admission, str)
        else:
            self._probes += 1
        if isinstance(admission, str):
            self.attempts.fail(key_data, admission)
        if self._bad_signatures > MAX_BAD_SIGNATURES or self._probes > MAX_PROBES:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )
        if isinstance(admission, str):
            return False
        if message and self._verified is None:
            self._verified = username, key_data, admission
        return True

    def _admission(self, username: str, key_data: bytes) -> Admission | Reason:
        """Return whom the key may log in, or why nobody; the name must fit the grammar."""
        try:
            parse(username)
            return self._keyring.admit(key_data, self._address)
        except BastionError:
            return "malformed-name"
        except NotAdmitted as refusal:
            if (certificate := refusal.certificate) is not None:  # by a trusted authority, so that somebody may wonder
                log.info(
                    "certificate refused",
                    key_fingerprint=certificate.key_fingerprint,
                    key_id=certificate.key_id,
                    serial=certificate.serial,
                    client_address=self._address,
                    reason=str(refusal),
                )
            return refusal.objection
