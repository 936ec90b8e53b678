"""Fixtures of the transcripts' tests."""

from pathlib import Path

import pytest

from bastion.transcripts import Transcripts
from tests.unit.transcripts.recorded_place import Opener, Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make an auditor and a signing key."""
    return make_place(tmp_path)


@pytest.fixture
def opener(place: Place) -> Opener:
    """Return what makes a `Transcripts` of the place."""

    def make(**options: object) -> Transcripts:
        settings: dict[str, object] = {
            "directory": place.directory,
            "signing_key": place.signing_key,
            "node": "n1",
            "recipients": place.recipients(),
        }
        return Transcripts(**settings | options)  # type: ignore[arg-type] # any option a test likes

    return make
