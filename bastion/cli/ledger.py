"""A command's line in the ledger, beside the running server's."""

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bastion.config import Settings
    from bastion.keyring import Keyring


def write_ledger(settings: "Settings", keyring: "Keyring", event: str, **facts: object) -> None:
    """Append one line to the ledger of the configured transcript folder, which is made when it is not there.

    Raises:
        ConfigurationError: the signing key is not as it must be.
        RecordingFailed: the volume did not take the line.
    """
    from bastion.transcripts.ledger import FILE, Ledger
    from bastion.transcripts.signing import Signer

    folder = settings.audit.directory
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Ledger(folder / FILE, Signer(keyring.signing_key), socket.gethostname()).write(event, facts)
