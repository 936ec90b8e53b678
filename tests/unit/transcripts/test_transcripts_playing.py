"""Playing shows what was on the screen and lets nothing through that answers back, reaches outside it, or hurts."""

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.errors import TranscriptError
from bastion.model import STDOUT, Data, Exit
from bastion.transcripts import play
from bastion.transcripts.playing import Stripper
from tests.unit.transcripts.recorded_place import Opener, Place, record

HEADER = json.dumps({"version": 3, "bastion": {"tty": True}})
ALLOWED = re.compile(
    r"\x1b\[(?:[0-9;:]*[@A-HIJKLMPSTXZ`adefgmr]|(?:\?7|\?25|\?47|\?1047|\?1048|\?1049|4)(?:;(?:\?7|\?25|7|25|47|1047|1048|1049|4))*[hl])"
    r"|\x1b[78DEHM=>]|\x1b[()*+][AB0]|[\b\t\n\v\f\r\x0e\x0f]|[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
PIECES = st.one_of(
    st.sampled_from(
        [
            "\x1b",
            "\x1b[",
            "\x1b]",
            "\x1bP",
            "\x1b_",
            "\x9b",
            "\x9d",
            "\x07",
            "\x1b\\",
            "?",
            "52;c;",
            "6n",
            "c",
            ";",
            "1",
            "h",
            "m",
        ]
    ),
    st.text(max_size=3),
    st.integers(0, 0xFF).map(chr),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_nothing_but_the_allow_list_comes_out(pieces: list[str]) -> None:
    """Whatever goes in, and however it is cut into events, only text and allowed sequences come out."""
    stripper = Stripper()
    shown = "".join(stripper.feed(piece) for piece in pieces)
    assert ALLOWED.sub("", shown) == ""
    assert shown == Stripper().feed("".join(pieces))


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b]52;c;ZWNobyBoaQ==\x07",
        "\x1b]0;title\x1b\\",
        "\x1b]8;;http://x\x1b\\",
        "\x1bP$q m\x1b\\",
        "\x1b_G\x1b\\",
        "\x1b^x\x1b\\",
        "\x1bX\x1b\\",
        "\x1b[6n",
        "\x1b[c",
        "\x1b[>c",
        "\x1b[?1000h",
        "\x1b[?2004h",
        "\x1b[21t",
        "\x1b[5i",
        "\x1bZ",
        "\x1bc",
        "\x1b[999999999b",
        "\x1b[99999A",
        "\x9b6n",
        "\x9d52;c;x\x9c",
        "\x05",
        "\x07",
        "\x00",
        "\x7f",
        "\u202e",
        "\x1b[>4;2m",
        "\x1b[1;2;3;4;5T",
        "\x1b[!p",
        "\x1b#8",
        "\x1b]52;c;x\x18",
    ],
)
def test_each_hostile_sequence_is_dropped_whole(hostile: str) -> None:
    """Clipboard, title, link, query, mouse, print, reset and the like leave nothing; the text around them stays."""
    assert Stripper().feed(f"a{hostile}b") == "ab"
    stripper = Stripper()
    assert "".join(map(stripper.feed, f"a{hostile}b")) == "ab"


def test_what_a_full_screen_program_writes_is_shown() -> None:
    """Colours, movements, the other screen and line drawing pass unchanged."""
    screen = "\x1b[?1049h\x1b[2J\x1b[1;1H\x1b[38;5;12mblue\x1b[0m\x1b(0lqk\x1b(B\x1b[?25l\r\n✓\x1b7\x1b8\x1b[K"
    assert Stripper().feed(screen) == screen


async def test_a_recorded_session_plays(place: Place, opener: Opener) -> None:
    """What was recorded is what is shown; raw leaves the escape sequences in."""
    transcripts = opener()
    await transcripts.start()
    await record(
        transcripts, Data(STDOUT, b"\x1b[1mhi\x1b]0;ti"), Data(STDOUT, b"tle\x07 there\r\n"), Exit(0), tty=True
    )
    await transcripts.close()
    out, raw = io.StringIO(), io.StringIO()
    play(place.read(), out, 0)
    play(place.read(), raw, 0, raw=True)
    assert out.getvalue().startswith("\x1b[1mhi there\r\n")
    assert raw.getvalue() == "\x1b[1mhi\x1b]0;title\x07 there\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["x"],
        ["[]"],
        [HEADER, "{}"],
        [HEADER, "[1]"],
        [HEADER, '[-1,"o","x"]'],
        [HEADER, "[" * 9999],
        ['{"version":2}'],
    ],
)
def test_what_is_no_asciicast_is_an_error(lines: list[str]) -> None:
    """Lines of another form end in our own error."""
    with pytest.raises(TranscriptError):
        play(lines, io.StringIO(), 0)
