"""When a key stops being good: at its time, to the second, and whatever is done to the clock (threats A16)."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bastion.keyring import Keyring
from tests.unit.keyring_home import Wall, generate, holder, known, write


@pytest.mark.parametrize(("seconds", "expected"), [(-1, "alice"), (1, None)])
def test_key_expires_at_its_time(
    keyring: Keyring, tmp_path: Path, wall: Wall, seconds: int, expected: str | None
) -> None:
    """A key is good up to its expiry-time and no longer, to the second."""
    line = generate(tmp_path, "-t", "ed25519")
    wall.offset = 4e8
    expiry = datetime.fromtimestamp(int(wall()) + 1000, UTC)
    write(keyring, "alice", f'expiry-time="{expiry:%Y%m%d%H%M%S}Z" {line}')
    keyring.refresh()
    wall.offset = expiry.timestamp() + seconds - time.time()
    assert holder(keyring, line) == expected


def test_clock_set_back_revives_nothing(keyring: Keyring, wall: Wall) -> None:
    """Set back by a day, the clock lets no expired key in, neither in this process nor in the next; it is reported."""
    issued = keyring.issue("alice", expires=timedelta(hours=1))
    identity = known(keyring, issued)
    wall.offset = 7200
    keyring.refresh()
    assert keyring.objection(identity) == "the key expired"
    wall.offset = -86400
    keyring.refresh()
    assert holder(keyring, issued.public_line) is None
    assert "minutes behind" in " ".join(keyring.problems)
    again = Keyring(keyring.home, wall=wall)
    again.load()
    assert holder(again, issued.public_line) is None
    assert [listed.state for listed in again.list()] == ["expired"]
    assert "minutes behind" in " ".join(again.problems)


def test_clock_file_that_is_no_number_is_reported(keyring: Keyring) -> None:
    """A damaged clock file keeps nobody out and is named."""
    issued = keyring.issue("alice")
    (keyring.home / "clock").write_text("yesterday")
    again = Keyring(keyring.home)
    again.load()
    assert holder(again, issued.public_line) == "alice"
    assert "clock" in " ".join(again.problems)
