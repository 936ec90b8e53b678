"""The encrypted record of sessions: written by `Transcripts`, read, verified and played by the functions beside it."""

from bastion.transcripts.file_listing import list_operations
from bastion.transcripts.ledger import Ledger
from bastion.transcripts.playing import play
from bastion.transcripts.reading import Transcript, find, lines, list_transcripts
from bastion.transcripts.recipients import generate_identity
from bastion.transcripts.recorder import Recorder
from bastion.transcripts.recording import Transcripts
from bastion.transcripts.signing import Signer, generate_signing_key
from bastion.transcripts.verifying import Finding, verify, verify_one

__all__ = [
    "Finding",
    "Ledger",
    "Recorder",
    "Signer",
    "Transcript",
    "Transcripts",
    "find",
    "generate_identity",
    "generate_signing_key",
    "lines",
    "list_operations",
    "list_transcripts",
    "play",
    "verify",
    "verify_one",
]
