"""What travels on a pod's WebSocket: its status read, its sizes and its end of input, and no end that was not told."""

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import ConnectionLost, RuntimeFailed
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Name, Request, Resize, Target, Terminal
from bastion.runtimes import shell
from bastion.runtimes.kubernetes import exec as exec_
from bastion.runtimes.kubernetes.stream import Status, StreamBroken, status_of
from tests.cluster import Cluster
from tests.runtimes.conftest import in_cluster
from tests.runtimes.world import World, pieces, read_until, request, send_all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["ExitCode", "Failure"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status", "details", "causes", "reason", "message"]), inner, max_size=4)
    ),
)


def failure(code: object) -> bytes:
    """Make a status as v5 words it."""
    causes = [{"reason": "ExitCode", "message": code}]
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}).encode()


@pytest.fixture(params=["kubernetes-v5", "kubernetes-v4"])
async def world(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[World]:
    """Give a pod by each protocol."""
    async with in_cluster(cluster, request.param) as found:
        yield found


@pytest.fixture
async def v4(cluster: Cluster) -> AsyncIterator[World]:
    """Give a pod of a cluster before 1.30."""
    async with in_cluster(cluster, "kubernetes-v4") as found:
        yield found


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (b'{"metadata":{},"status":"Success"}', Status(0, "")),
        (failure("1"), Status(1, "")),
        (failure("143"), Status(143, "")),
        (failure("255"), Status(255, "")),
        (
            b'{"status":"Failure","reason":"InternalError","message":"not \\u001b[31mfound"}',
            Status(None, r"not \x1b[31mfound"),
        ),
        (b'{"status":"Failure","details":{"causes":[7,{"message":"x"}]}}', Status(None, "")),
    ],
)
def test_status(frame: bytes, status: Status) -> None:
    """The status is what the causes say; without one there is none, and the words are escaped."""
    assert status_of(frame) == status


@pytest.mark.parametrize(
    "frame",
    [None, b"", b"{", b"[]", b"{}", b'{"status":"Maybe"}', b"[" * 100000, b"\xff"]
    + [failure(code) for code in ("0", "256", "-1", "1e2", "٣", "", "0x1", 7, None, "9" * 5000)],
)
def test_no_status(frame: bytes | None) -> None:
    """What is no status is never one, least of all 0."""
    with pytest.raises(StreamBroken):
        status_of(frame)


@given(told=JSON)
def test_any_status(told: object) -> None:
    """Whatever the cluster says is a status of one byte, none, or broken."""
    try:
        code = status_of(json.dumps(told).encode()).code
    except StreamBroken:
        return
    assert code is None or 0 <= code <= 255
    assert code != 0 or (isinstance(told, dict) and told["status"] == "Success")


def test_start_sets_what_the_engine_does_not() -> None:
    """Variables and the command reach the program byte for byte; none is ever text of the script."""
    hostile = "a 'b' \"c\" $d `e` \\f; exit 9 #\nline\t "
    asked = Request(
        uid="u" * 32,
        name=Name("web"),
        kind="exec",
        command="x",
        environment={
            "LC_ALL": hostile,
            "EMPTY": "",
            "LINES2": "--",
            "UID": "0",
            "BASHOPTS": "x",
            "no-name": "x",
            "A;B": "x",
            "$(exit 9)": "x",
            "BASTION_SESSION": "forged",
        },
    )
    for chosen in ("sh", "bash"):
        line = shell.started(chosen, asked, ("env", "-0"), "/usr")
        done = subprocess.run(line, capture_output=True, check=True)
        found = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
        assert (found["LC_ALL"], found["EMPTY"], found["LINES2"], found["PWD"]) == (hostile, "", "--", "/usr")
        assert found["BASTION_SESSION"] == "u" * 32
        assert not {"no-name", "A;B", "$(exit 9)"} & set(found)
        line = shell.started(chosen, asked, ("printf", "<%s>", hostile, "--", ""), "/no/such/folder")
        assert subprocess.run(line, capture_output=True, check=True).stdout.decode() == f"<{hostile}><--><>"


async def test_sizes_without_a_terminal(world: World) -> None:
    """Sizes for a program without a terminal go nowhere: v5 would never read its input again."""
    async with world.runtime.exec(world.target, request("read line; echo got $line")) as program:
        await send_all(program, [Resize(80, 24), Resize(81, 25), Resize(82, 26), Data(STDIN, b"it\n")])
        assert await read_until(program, b"got it")


@pytest.mark.parametrize("seconds", [1, 4])
async def test_a_held_output(world: World, seconds: int) -> None:
    """A child that holds the output for a moment delays the status, which is the program's."""
    assert (await world.command(f"sleep {seconds} & exit 3")).exit.status == 3


async def test_a_child_that_speaks_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child says behind its program's end arrives, as long as it does not pause for long."""
    monkeypatch.setattr(exec_, "_QUIET", 30.0)
    done = await world.command("(sleep 1; echo late; sleep 1; echo later) & echo early; exit 3")
    assert (done.out, done.exit.status) == (b"early\nlate\nlater\n", 3)


@pytest.mark.parametrize("terminal", [None, Terminal("xterm", 80, 24)], ids=["pipes", "terminal"])
async def test_a_connection_that_is_cut(world: World, cluster: Cluster, terminal: Terminal | None) -> None:
    """A connection cut in the middle of the output is an error and no status, and the program is ended."""
    cluster_is_v4 = not world.half_close
    await world.command(":")
    cluster.switch(cut_after=100_000, protocol="v4" if cluster_is_v4 else None)
    read = 0

    async def session() -> None:
        nonlocal read
        text = "head -c 200000 /dev/zero; sleep 7511"
        async with world.runtime.exec(world.target, request(text, terminal=terminal)) as program:
            async for event in program:
                assert isinstance(event, Data)
                read += len(event.payload)
            await program.wait()

    try:
        with pytest.raises(ConnectionLost) as lost:
            await session()
    finally:
        cluster.switch(**({"protocol": "v4"} if cluster_is_v4 else {}))
    assert "the connection to the cluster was lost" in lost.value.public
    assert 0 < read <= 100_000
    assert await world.left("7511") == []


async def test_a_close_without_a_status(world: World, cluster: Cluster) -> None:
    """A stream that ends politely and says no status is an error, never 0."""
    await world.command(":")
    cluster.switch(no_status=True, protocol=None if world.half_close else "v4")
    try:
        with pytest.raises(ConnectionLost) as lost:
            await world.command("echo done")
    finally:
        cluster.switch(**({} if world.half_close else {"protocol": "v4"}))
    assert "the connection to the cluster was lost" in lost.value.public


async def test_the_words_for_a_lost_end_of_input(v4: World) -> None:
    """By v4 the end of input cannot be passed on: who waits for it is told so on standard error, once."""
    async with v4.runtime.exec(v4.target, request("cat; echo never")) as program:
        await send_all(program, [*pieces(b"abc\n"), Eof(), Eof()])
        stream = aiter(program)
        first, second = await anext(stream), await anext(stream)
        assert first == Data(STDOUT, b"abc\n")
        assert isinstance(second, Data)
        assert second.stream == STDERR
        assert second.payload.startswith(b"bastion: hint: this cluster (before Kubernetes 1.30)")
        assert second.payload.count(b"\n") == 1


@pytest.mark.parametrize("command", ["sleep 0.2; exit 4", "sleep 2; exit 4"])
async def test_no_words_at_a_terminal(v4: World, command: str) -> None:
    """At a terminal the end of input is ^D, and needs no words."""
    done = await v4.run(request(command, terminal=Terminal("xterm", 80, 24)))
    assert (done.err, done.exit.status) == (b"", 4)
    assert b"hint" not in done.out


async def test_a_user_for_a_pod(v4: World) -> None:
    """A user that the configuration chose is refused in words: a pod's programs run as its container's own."""
    with pytest.raises(RuntimeFailed) as refused:
        async with v4.runtime.exec(_as_user(v4), request("id")):
            raise AssertionError("it ran")
    assert "own user" in refused.value.public


def _as_user(world: World) -> Target:
    return replace(world.target, user="1000")
