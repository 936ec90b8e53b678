"""Nothing that a user saw is in `b` events alone: each has a twin that players show (threats E10)."""

import io
import json
import os
import re
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Exit
from bastion.transcripts import play
from bastion.transcripts.asciicast import Lines
from tests.unit.transcripts.recorded_place import Opener, Place, record, run, stream

HEADER = '{"version":3,"bastion":{"tty":false}}'
DOCUMENT = Path(__file__).parents[3] / "docs" / "transcripts.md"
PIECES = st.one_of(
    st.sampled_from([b"\xff", b"\0", b"\xc3", b"\xe2\x9c", b"\xed\xa0\x80", b"hidden", "größer".encode("latin-1")]),
    st.text(max_size=300).map(str.encode),
    st.binary(max_size=8),
)
PACKETS = st.lists(
    st.tuples(st.sampled_from([STDIN, STDOUT, STDERR]), st.lists(PIECES, max_size=5).map(b"".join)), max_size=12
)


def recorded(packets: list[tuple[int, bytes]]) -> list[str]:
    """Return the lines of a session without a terminal."""
    encoder = Lines("all", 2**20, tty=False)
    rows = b"".join(encoder.event(Data(*packet)) for packet in packets if packet[1]) + encoder.event(Exit(0))
    assert rows.count(b"\n") == encoder.count
    return [HEADER, *rows.decode().removesuffix("\n").split("\n")]


@settings(deadline=None, max_examples=60)
@given(PACKETS)
def test_E10_every_binary_event_has_a_visible_twin(packets: list[tuple[int, bytes]]) -> None:
    """Behind each `b` event is an `o` or `i` of the same bytes; each stream comes back with each byte once."""
    lines = recorded(packets)
    events = [json.loads(line) for line in lines[1:]]
    for (_, code, data), (_, next_code, next_data) in zip(events, [*events[1:], [0, "", ""]], strict=True):
        if code == "b":
            label, _, text = data.partition(":")
            assert label in {"0i", "1o", "2o"}
            assert (next_code, next_data) == (label[1], b64decode(text).decode(errors="replace"))
    for number in (STDIN, STDOUT, STDERR):
        assert stream(lines, number) == b"".join(payload for of, payload in packets if of == number)


@settings(deadline=None, max_examples=40)
@given(PACKETS)
def test_E10_players_show_every_character_that_was_seen(packets: list[tuple[int, bytes]]) -> None:
    """Players, which know `o` alone, show all the text of both output streams, in its order."""
    lines = recorded([(STDOUT, payload) for _, payload in packets])
    seen = b"".join(payload for _, payload in packets).decode(errors="ignore")
    shown = "".join(data for _, code, data in map(json.loads, lines[1:]) if code == "o")
    assert [one for one in shown if one != "\ufffd"] == [one for one in seen if one != "\ufffd"]
    play(lines, out := io.StringIO(), 0, raw=True)
    assert out.getvalue() == shown.replace("\r\n", "\n")


@pytest.mark.parametrize(
    "payload",
    [b"a\xff" * 16384, b"\xff" * 32768, b"\xff" + b"\0" * 32766 + b"\xff", os.urandom(32768), b"\xff", b"a\xffa"],
)
def test_E10_a_packet_costs_a_bounded_number_of_bytes(payload: bytes) -> None:
    """Whatever a hostile program writes, its lines are at most 8 times its bytes, and 200 more a packet."""
    encoder = Lines("all", 2**20, tty=True)
    assert len(encoder.event(Data(STDOUT, payload)) + encoder.provisional()) <= 8 * len(payload) + 200


def test_E10_a_sequence_in_a_twin_is_stripped_too() -> None:
    """A clipboard sequence beside invalid bytes reaches no auditor's terminal, also when two twins share it."""
    lines = recorded([(STDOUT, b"\xffa\x1b]52;c;ZWNo\xff"), (STDOUT, b"\xffbyBoaQ==\x07b\xff\n")])
    play(lines, out := io.StringIO(), 0)
    assert out.getvalue() == "\ufffdab\ufffd\n"


def test_E10_what_has_no_twin_is_played_as_if_it_had() -> None:
    """A transcript of before there were twins plays its `b` events of output, not those of input and of files."""
    rows = [HEADER, '[0,"b","1:/wBoaQo="]', '[0,"b","0:/wBubwo="]', '[0,"b","3:bm8="]', '[0,"b","2:ZXJyCg=="]']
    play(rows, out := io.StringIO(), 0)
    assert out.getvalue() == "\ufffdhi\nerr\n"


@pytest.mark.parametrize("want", [STDIN, STDOUT, STDERR])
async def test_the_recipe_gives_each_byte_once(place: Place, opener: Opener, want: int) -> None:
    """The documented jq program gives one stream's exact bytes from stock tools' output."""
    packets = [
        *((STDOUT, packet) for packet in (b"a\xff\0b", b"\xc3", b"\xa9\n", "größer\n".encode("latin-1") * 9)),
        *((STDERR, packet) for packet in (b"err\n", b"\xfe\n", b"\xc3")),
        *((STDIN, packet) for packet in (b"in\n", b"\x80\n")),
    ]
    packets = packets[::2] + packets[1::2]
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, *(Data(*packet) for packet in packets), Eof(), Exit(0))
    await transcripts.close()
    recipe = re.search(r"^    (tail -n \+2 .*?\| base64 -d)$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert recipe is not None
    program = recipe[1]
    if want == STDERR:
        program = program.replace('== "1"', '== "2"').replace('.on == "stdout"', '.on == "stderr"')
    if want == STDIN:
        program = program.replace('rtrimstr("o")) == "1"', 'rtrimstr("i")) == "0"')
        program = program.replace('$code == "o" and .on == "stdout"', '$code == "i"')
    lines = "\n".join(place.stock()) + "\n"
    assert run("sh", "-c", program, content=lines.encode()).stdout == b"".join(
        payload for of, payload in packets if of == want
    )
