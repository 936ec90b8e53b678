"""The API's tokens: shown once, kept as hashes, read again on change, expiring by a clock that never goes back."""

import json
import stat
from pathlib import Path

import pytest

from bastion.api.tokens import LONGEST, Tokens
from bastion.errors import ConfigurationError
from bastion.keyring.clock import Clock

DAY = 86400.0


class Wall:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def tokens(tmp_path: Path, wall: Wall) -> Tokens:
    return Tokens(tmp_path, Clock(tmp_path / "clock", wall).now)


def test_a_token_is_256_random_bits_and_only_its_hash_is_kept(tokens: Tokens) -> None:
    """Two tokens differ, each is found by itself alone, and the file, mode 0600, has neither."""
    first = tokens.issue("first", ["sessions:read"], seconds=DAY)
    second = tokens.issue("second", ["admin"], seconds=DAY)
    assert first != second
    assert len(first.removeprefix("bastion_")) == 43
    found = tokens.find(first)
    assert found is not None
    assert (found.name, found.scopes, found.user) == ("first", ("sessions:read",), None)
    assert first not in tokens.path.read_text()
    assert first.removeprefix("bastion_") not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert [json.loads(line)["name"] for line in tokens.path.read_text().splitlines()] == ["first", "second"]


@pytest.mark.parametrize("text", ["", "bastion_", "x" * 43, "bastion_" + "x" * 43, "\udcff", "x" * (LONGEST + 1)])
def test_what_is_no_token_is_not_found(tokens: Tokens, text: str) -> None:
    """Whatever else is sent, it is nobody's."""
    tokens.issue("first", ["admin"], seconds=DAY)
    assert tokens.find(text) is None


def test_a_revoked_token_is_none_at_once_for_others_who_read_the_file(tokens: Tokens, tmp_path: Path) -> None:
    """Another reader of the key home knows of tokens issued and revoked meanwhile."""
    other = Tokens(tmp_path, lambda: 1_800_000_000.0)
    text = tokens.issue("first", ["admin"], seconds=DAY)
    found = other.find(text)
    assert found is not None
    assert other.is_good(found)
    tokens.revoke("first")
    assert other.find(text) is None
    assert not other.is_good(found)


def test_a_clock_set_back_revives_no_token(tokens: Tokens, wall: Wall) -> None:
    """A token that has expired stays so, whatever the wall clock says then."""
    text = tokens.issue("first", ["admin"], seconds=DAY)
    assert tokens.find(text) is not None
    wall.time += DAY + 1
    assert tokens.find(text) is None
    wall.time -= 2 * DAY
    assert tokens.find(text) is None


@pytest.mark.parametrize("damage", ["mode", "line", "wide"])
def test_a_file_that_is_not_as_it_must_be_lets_nobody_in(tokens: Tokens, damage: str) -> None:
    """One that others can read, with a line that is none, or with more for a user than a user may, lets nobody in."""
    text = tokens.issue("first", ["admin"], seconds=DAY)
    if damage == "mode":
        tokens.path.chmod(0o644)
        tokens.path.touch()
    elif damage == "wide":
        line = tokens.path.read_text().replace('"user":null', '"user":"alice"')
        tokens.path.write_text(line)
    else:
        with tokens.path.open("a") as file:
            file.write('{"name": "x"}\n')
    assert tokens.find(text) is None
    assert str(tokens.path) in tokens.problem
    with pytest.raises(ConfigurationError):
        tokens.list()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (("../x", ["admin"], None, DAY), "is no name"),
        (("X", ["admin"], None, DAY), "is no name"),
        (("a", ["root"], None, DAY), "there is no scope"),
        (("a", [], None, DAY), "without a scope"),
        (("a", ["admin"], "alice", DAY), "not for a user's token"),
        (("a", ["audit:read"], "alice", DAY), "not for a user's token"),
        (("a", ["sessions:read"], "a b", DAY), "is no name"),
        (("a", ["admin"], None, 0), "cannot expire before"),
        (("taken", ["admin"], None, DAY), "there is a token taken"),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    tokens: Tokens, wanted: tuple[str, list[str], str | None, float], words: str
) -> None:
    """Names, scopes, users and times that cannot be are refused in words, and nothing is written."""
    tokens.issue("taken", ["admin"], seconds=DAY)
    before = tokens.path.read_bytes()
    name, scopes, user, seconds = wanted
    with pytest.raises(ConfigurationError, match=words):
        tokens.issue(name, scopes, seconds=seconds, user=user)
    assert tokens.path.read_bytes() == before


def test_revoking_what_is_not_there_is_refused(tokens: Tokens) -> None:
    """A name that no token has is an error."""
    with pytest.raises(ConfigurationError, match="there is no token"):
        tokens.revoke("nobody")
