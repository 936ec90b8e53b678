"""Verify the one transcript that a command is about against the ledger and the signatures."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from bastion.cli.output import say, show_error
from bastion.errors import BastionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bastion.config import Settings
    from bastion.transcripts import Finding, Transcript


def judge(settings: "Settings", transcript: "Transcript") -> "Finding | None":
    """Return a transcript's finding; without a ledger or public key warn on standard error and return None."""
    from bastion.keyring import Keyring
    from bastion.transcripts import verify_one

    private = Keyring(settings.keys.home).signing_key
    try:
        return verify_one(transcript.path, settings.audit.directory, private.with_name(f"{private.name}.pub"))
    except BastionError as error:
        say(f"{transcript.uid} is not verified: {error.public}")
        return None


@contextmanager
def judged(settings: "Settings", transcript: "Transcript") -> "Iterator[None]":
    """Warn on standard error about unproven parts before the transcript is shown; exit 1 after an unsound one."""
    finding = judge(settings, transcript)
    if finding is not None and finding.verdict == "unclean":
        say(f"{finding.uid} is unclean: {finding.words}")
    unsound = finding is not None and not finding.is_sound
    if finding is not None and unsound:
        show_error(f"{finding.uid}: {finding.verdict}: {finding.words}", "bastion transcripts verify")
    yield
    if unsound:
        raise typer.Exit(1)
