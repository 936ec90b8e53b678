"""The frames of an exec's stream, however they are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.model import STDERR, STDOUT
from bastion.runtimes.docker.stream import Frames, StreamBroken

FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=300)), max_size=12)


@settings(deadline=None)
@given(frames=FRAMES, cuts=st.lists(st.integers(1, 40), min_size=1))
def test_any_cut_gives_the_same(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Wherever the network cuts the stream, the same bytes come of each stream, in the same order."""
    wire = b"".join(bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4) + payload for stream, payload in frames)
    parser = Frames()
    found: list[tuple[int, int]] = []
    turn = 0
    while wire:
        piece, wire = wire[: cuts[turn % len(cuts)]], wire[cuts[turn % len(cuts)] :]
        found += [(data.stream, byte) for data in parser.feed(piece) for byte in data.payload]
        turn += 1
    assert found == [(stream, byte) for stream, payload in frames for byte in payload]
    assert parser.between


@pytest.mark.parametrize("wire", [b"HTTP/1.1 500 Oops", b"\x03\0\0\0\0\0\0\x04oops", b"\x01\0\0\x01\0\0\0\x01a"])
def test_no_frames(wire: bytes) -> None:
    """What is no frame of output is an error, never output."""
    with pytest.raises(StreamBroken):
        Frames().feed(wire)


@pytest.mark.parametrize("length", [1, 7, 8, 11])
def test_half_a_frame(length: int) -> None:
    """A stream that ends within a frame is known to be cut."""
    parser = Frames()
    parser.feed((b"\x01\0\0\0\0\0\0\x04oops")[:length])
    assert not parser.between
