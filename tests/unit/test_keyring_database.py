"""Keys in the sessions' database: the same keyring, shared by nodes, copied from files and back, missed when away."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bastion.config import Settings
from bastion.errors import ConfigurationError, DatabaseFailed
from bastion.keyring import Keyring, NotAdmitted, copy_keys, open_keyring
from tests.postgresql import Postgresql, postgresql
from tests.unit.keyring_home import ADDRESS, blob, generate, holder, known

Node = Callable[..., Keyring]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/bastion.db"
    return str(request.getfixturevalue("server").url())


def settings_of(home: Path, url: str, grace: float = 60) -> Settings:
    keys = {"home": home, "store": "database", "grace": grace}
    return Settings.model_validate({"keys": keys, "sessions": {"database": url}})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Give a way to start nodes, each with a key home of its own."""
    started: list[Keyring] = []

    def start(url: str, grace: float = 60) -> Keyring:
        keyring = open_keyring(settings_of(tmp_path / f"keys{len(started)}", url, grace))
        started.append(keyring)
        keyring.init(authority=True)
        keyring.load()
        return keyring

    yield start
    for keyring in started:
        keyring.close()


def wait(seconds: float, done: Callable[[], object]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.05)
    return bool(result)


def test_nodes_share_keys_and_revocations(node: Node, url: str, tmp_path: Path) -> None:
    """A key that one node issues or adds opens the other at its next reading, and no more once either revokes it."""
    one, two = node(url), node(url)
    issued = one.issue("alice", stack="mystack")
    own = generate(tmp_path, "-t", "ed25519", "-C", "bob's own")
    one.add("bob", own)
    assert two.refresh()
    assert (holder(two, issued.public_line), holder(two, own)) == ("alice", "bob")
    identity = known(two, issued)
    assert [(key.user, key.state, str(key.path)) for key in two.list()] == [
        ("alice", "good", "database"),
        ("bob", "good", "database"),
    ]
    assert not list((one.home / "users").iterdir())
    assert one.revoke(issued.fingerprint) == [issued.fingerprint]
    assert two.refresh()
    assert two.objection(identity) == "the key was revoked"
    assert len(two.revoke("bob")) == 1
    assert one.refresh()
    assert (holder(one, issued.public_line), holder(one, own)) == (None, None)


def test_refusals_are_those_of_files(node: Node, url: str, tmp_path: Path) -> None:
    """A key that is there, revoked, weak or unreadable is refused in words, and so is a name that nobody can have."""
    one, two = node(url), node(url)
    line = generate(tmp_path, "-t", "ed25519")
    one.add("alice", line)
    with pytest.raises(ConfigurationError, match="is already in database:1"):
        two.add("bob", line)
    with pytest.raises(ConfigurationError, match="has no such key"):
        two.revoke("bob")
    two.revoke("alice")
    with pytest.raises(ConfigurationError, match="was revoked"):
        one.add("alice", line)
    for name in ("../alice", "Alice", "'; DROP TABLE user_keys; --"):
        with pytest.raises(ConfigurationError, match="no name of a user"):
            one.add(name, line)
    with pytest.raises(ConfigurationError, match="the line is longer"):
        one.add("alice", line + "x" * 9000)
    with pytest.raises(ConfigurationError, match="longer than"):
        one.revoke_id("x" * 20000)


def test_certificates_are_revoked_by_id_and_serial(node: Node, url: str) -> None:
    """A certificate of a node's own authority opens nothing there once another has revoked its id or its serial."""
    one, two = node(url), node(url)
    by_id, by_serial, good = (one.certify(user) for user in ("alice", "bob", "carol"))
    for issued in (by_id, by_serial, good):
        one.admit(blob(issued.public_line), ADDRESS)
    two.revoke_id("alice")
    two.revoke_serial(by_serial.serial, by_serial.authority)
    assert one.refresh()
    for issued in (by_id, by_serial):
        with pytest.raises(NotAdmitted, match="was revoked"):
            one.admit(blob(issued.public_line), ADDRESS)
    assert one.admit(blob(good.public_line), ADDRESS).identity.user == "carol"


def test_the_files_list_revokes_too(node: Node, url: str) -> None:
    """What somebody writes into `revoked` of the key home is revoked on that node; in doubt it lets nobody in."""
    one = node(url)
    first, second = one.issue("alice"), one.issue("bob")
    one.refresh()
    with (one.home / "revoked").open("a") as revoked:
        revoked.write(f"{first.fingerprint}\n")
    assert one.refresh()
    assert (holder(one, first.public_line), holder(one, second.public_line)) == (None, "bob")
    with (one.home / "revoked").open("a") as revoked:
        revoked.write("nonsense\n")
    assert one.refresh()
    assert holder(one, second.public_line) is None


def test_two_that_add_one_key_at_once(node: Node, url: str, tmp_path: Path) -> None:
    """Of nodes that add the same key for two users at once one is refused, and the key is one line."""
    nodes = [node(url), node(url)]
    line = generate(tmp_path, "-t", "ed25519")
    refused: list[str] = []

    def add(keyring: Keyring, user: str) -> None:
        try:
            keyring.add(user, line)
        except ConfigurationError as error:
            refused.append(error.public)

    threads = [threading.Thread(target=add, args=pair) for pair in zip(nodes, ("alice", "bob"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 1
    assert len(nodes[0].list()) == 1


def test_keys_are_copied_to_the_database_and_back(node: Node, url: str, tmp_path: Path) -> None:
    """`import` takes good keys and revocations once and leaves the rest with words; `export` brings them to files."""
    files = Keyring(tmp_path / "files")
    files.init()
    files.load()
    issued, gone = files.issue("alice", stack="mystack"), files.issue("bob")
    files.revoke(gone.fingerprint)
    files.revoke_id("carol web@mystack")
    with (files.home / "users" / "alice.pub").open("a") as lines:
        lines.write("# a comment\nnonsense\n")
    settings = settings_of(files.home, url)
    copied = copy_keys(settings, to_database=True)
    assert copied.keys == [("alice", issued.fingerprint)]
    assert copied.revoked == [gone.fingerprint, "id carol web@mystack"]
    assert [problem.partition(": ")[0] for problem in copied.problems] == [f"{files.home}/users/alice.pub:3"]
    again = copy_keys(settings, to_database=True)
    assert (again.keys, again.revoked) == ([], [])
    one = node(url)
    assert holder(one, issued.public_line) == "alice"
    added = one.issue("dave")
    with pytest.raises(ConfigurationError, match="was revoked"):
        one.add("bob", gone.public_line)
    empty = tmp_path / "empty"
    Keyring(empty).init()
    back = copy_keys(settings_of(empty, url), to_database=False)
    assert back.keys == [("alice", issued.fingerprint), ("dave", added.fingerprint)]
    there = Keyring(empty)
    there.load()
    assert (holder(there, issued.public_line), holder(there, gone.public_line)) == ("alice", None)
    assert [key.stack for key in there.list()] == ["mystack", None]
    assert copy_keys(settings_of(empty, url), to_database=False).keys == []


def test_without_its_database_a_node_goes_by_what_it_knows_for_a_time(node: Node, server: Postgresql) -> None:
    """Until the grace is over the last keys count, then nobody new is let in; who is in stays, and all comes back."""
    one = node(server.url(), grace=3)
    issued = one.issue("alice")
    identity = known(one, issued)
    server.stop()
    try:
        assert one.refresh()
        assert "the last keys count for 3 s" in one.problems[-1]
        assert holder(one, issued.public_line) == "alice"
        with pytest.raises(DatabaseFailed):
            one.issue("bob")
        with pytest.raises(DatabaseFailed):
            one.list()
        assert wait(20, lambda: holder(one, issued.public_line) is None)
        with pytest.raises(NotAdmitted, match="not known which keys are revoked"):
            one.admit(blob(issued.public_line), ADDRESS)
        assert one.refresh()
        assert "nobody new is let in" in one.problems[-1]
        assert one.objection(identity) is None
    finally:
        server.start()
    assert wait(20, lambda: one.refresh() and holder(one, issued.public_line) == "alice")
    assert one.problems == []


def test_a_broken_line_of_the_database_is_named(node: Node, tmp_path: Path) -> None:
    """A line that was written past us lets nobody in and is named; one of the revocations closes the door."""
    path = tmp_path / "bastion.db"
    one = node(f"sqlite:///{path}")
    issued = one.issue("alice")
    for table, words in (("user_keys", "database:2: "), ("revocations", "nobody is let in until it is mended")):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            if table == "user_keys":
                connection.execute("INSERT INTO user_keys (user, line) VALUES ('bob', 'nonsense \x1b[31m')")
            else:
                connection.execute("INSERT INTO revocations (line) VALUES ('nonsense')")
            connection.execute("UPDATE key_changes SET count = count + 1")
        assert one.refresh()
        assert any(words in problem for problem in one.problems)
        assert (holder(one, issued.public_line) == "alice") is (table == "user_keys")


def test_listing_takes_no_change_from_the_next_reading(node: Node, keyring: Keyring, tmp_path: Path) -> None:
    """What `list` has seen first is still news to `refresh`, in files and in the database."""
    for own in (keyring, node(f"sqlite:///{tmp_path}/bastion.db")):
        while own.refresh():
            pass
        issued = own.issue("alice")
        assert [key.fingerprint for key in own.list()] == [issued.fingerprint]
        assert holder(own, issued.public_line) is None
        assert own.refresh()
        assert holder(own, issued.public_line) == "alice"
