"""The reserve of the transcripts' volume: how much it is, and what is refused when no more is left."""

import os
from pathlib import Path

import pytest

from bastion.config.values import size_in_words
from bastion.errors import RecordingFailed
from bastion.transcripts.volume import DEFAULT_RESERVE_BYTES, Volume, measure

EVERYTHING = 2**62


def test_the_default_reserve_is_a_share_of_a_small_volume(tmp_path: Path) -> None:
    """It is 1 GiB, or 5 % where that is less; one that is configured is taken as it is."""
    volume = os.statvfs(tmp_path)
    assert measure(tmp_path, None).reserve == min(DEFAULT_RESERVE_BYTES, int(volume.f_blocks * volume.f_frsize * 0.05))
    assert measure(tmp_path, 4096).reserve == 4096
    assert not measure(tmp_path, 0).is_low


def test_D1_only_the_reserve_is_left(tmp_path: Path) -> None:
    """A new session is refused in words, and readiness with the same; the numbers are in it."""
    volume = Volume(tmp_path, EVERYTHING)
    volume.refuse_unless_ready()
    for refuse in (volume.admit, volume.refuse_unless_ready):
        with pytest.raises(RecordingFailed, match=r"has only its reserve left: \S+ GiB free, \S+ GiB in reserve"):
            refuse()


def test_a_volume_that_cannot_be_looked_at_is_no_room(tmp_path: Path) -> None:
    """It is refused with the reason, and admitted again when it is back."""
    folder = tmp_path / "mount"
    volume = Volume(folder, 0)
    with pytest.raises(RecordingFailed, match="cannot be looked at: No such file or directory"):
        volume.admit()
    folder.mkdir()
    volume.admit()
    volume.refuse_unless_ready()


def test_sizes_are_written_in_the_largest_unit() -> None:
    """With one digit at most behind the point."""
    assert [size_in_words(size) for size in (0, 1023, 1024, 1536, 5 * 2**20, 3 * 2**39)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "5 MiB", "1536 GiB",
    ]  # fmt: skip
