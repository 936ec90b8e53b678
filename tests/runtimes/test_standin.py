"""The stand-in speaks exec and port-forward as a real cluster does, frame for frame; a real one passes these too."""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import pytest

from tests.cluster import Cluster
from tests.cluster.wire import CLOSED, SUCCESS, V4, V5, Wire, executed, opened, refusal

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker]
both = pytest.mark.parametrize("protocol", [V5, V4], ids=["v5", "v4"])


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Iterator[str]:
    """Give a ready pod with one container, `web`."""
    cluster.deployment("standin")
    yield cluster.pods("standin")[0]
    cluster.delete("Deployment", "standin")


def status_of(frame: tuple[int, bytes]) -> dict[str, Any]:
    """Read a status frame."""
    assert frame[1][:1] == b"\x03", frame
    status: dict[str, Any] = json.loads(frame[1][1:])
    return status


SCRIPT = ["sh", "-c", "echo o; sleep 1; echo e >&2; exit 7"]
EXIT_V5 = (
    b'\x03{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command terminated '
    b'with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}'
)
EXIT_V4 = (
    b'\x03{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: error executing '
    b'command [sh -c echo o; sleep 1; echo e \\u003e\\u00262; exit 7], exit code 7","reason":"NonZeroExitCode",'
    b'"details":{"causes":[{"reason":"ExitCode","message":"7"}]}}'
)
EXIT_PLAIN = (
    b"\x03command terminated with non-zero exit code: error executing command "
    b"[sh -c echo o; sleep 1; echo e >&2; exit 7], exit code 7"
)


@pytest.mark.parametrize(
    ("offered", "chosen", "exit_frame"),
    [
        ([V5], V5, EXIT_V5),
        ([V4], V4, EXIT_V4),
        ([V5, V4], V5, EXIT_V5),
        ([V4, V5], V5, EXIT_V5),
        (["channel.k8s.io"], "channel.k8s.io", EXIT_PLAIN),
        ([], None, EXIT_PLAIN),
    ],
)
async def test_each_subprotocol_has_its_frames(
    cluster: Cluster, pod: str, offered: list[str], chosen: str | None, exit_frame: bytes
) -> None:
    """The first frame is an empty one on stdout; the status comes last, in the words of the version; v5 wins."""
    async with executed(cluster, pod, SCRIPT, offered) as wire:
        assert wire.protocol in ((chosen,) if chosen else (None, ""))
        assert await wire.rest() == [(2, b"\x01"), (2, b"\x01o\n"), (2, b"\x02e\n"), (2, exit_frame), CLOSED]


@pytest.mark.parametrize("offered", ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"])
async def test_base64_frames_are_text(cluster: Cluster, pod: str, offered: str) -> None:
    """A base64 subprotocol writes the channel as a digit and the bytes in base64."""
    async with executed(cluster, pod, SCRIPT, [offered]) as wire:
        frames = await wire.rest()
        assert frames[:3] == [(1, b"1"), (1, b"1bwo="), (1, b"2ZQo=")]


@pytest.mark.parametrize("offered", ["v3.channel.k8s.io", "v2.channel.k8s.io", "bogus"])
async def test_unknown_subprotocols_get_a_bare_403(cluster: Cluster, pod: str, offered: str) -> None:
    """A subprotocol the server does not know is refused in the handshake."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with executed(cluster, pod, SCRIPT, [offered]):
            pass
    assert caught.value.status == 403


@both
async def test_success(cluster: Cluster, pod: str, protocol: str) -> None:
    """A program that ends well gives the short status."""
    async with executed(cluster, pod, ["true"], [protocol]) as wire:
        assert await wire.rest() == [(2, b"\x01"), SUCCESS, CLOSED]


@both
async def test_a_command_that_is_not_there_is_told_after_the_101(cluster: Cluster, pod: str, protocol: str) -> None:
    """There is no ExitCode then, but InternalError with code 500."""
    async with executed(cluster, pod, ["nosuch"], [protocol]) as wire:
        first, last, closed = await wire.rest()
    status = status_of(last)
    (cause,) = status["details"]["causes"]
    assert (first, closed) == ((2, b"\x01"), CLOSED)
    assert (status["reason"], status["code"], set(cause)) == ("InternalError", 500, {"message"})
    assert 'exec: "nosuch": executable file not found in $PATH' in cause["message"]
    assert cause["message"].startswith("Internal error occurred: " * (protocol == V5) + "error executing command in")


@both
async def test_a_signal_is_128_and_its_number(cluster: Cluster, pod: str, protocol: str) -> None:
    """A program that a signal ended has the exit code 128+n."""
    async with executed(cluster, pod, ["sh", "-c", "kill -TERM $$"], [protocol]) as wire:
        assert status_of((await wire.rest())[-2])["details"]["causes"][0]["message"] == "143"


@both
async def test_only_v5_can_end_the_input(cluster: Cluster, pod: str, protocol: str) -> None:
    """`ff 00` is the end of input by v5 and nothing by v4; an empty frame is nothing by both."""
    async with executed(cluster, pod, ["sh", "-c", "cat; echo done"], [protocol], stdin=True) as wire:
        await wire.send(0, b"abc\n")
        await wire.until(b"abc\n")
        await wire.send(0, b"")
        assert await wire.silent()
        await wire.send(255, b"\x00")
        if protocol == V5:
            assert await wire.rest() == [(2, b"\x01done\n"), SUCCESS, CLOSED]
        else:
            assert await wire.silent()


@both
async def test_a_close_frame_is_answered(cluster: Cluster, pod: str, protocol: str) -> None:
    """The server answers a close frame by its own."""
    async with executed(cluster, pod, ["cat"], [protocol], stdin=True) as wire:
        await wire.send(0, b"abc\n")
        await wire.until(b"abc\n")
        await wire.close()


@both
async def test_a_terminal_has_no_size_at_first(cluster: Cluster, pod: str, protocol: str) -> None:
    """A terminal is 0 by 0 until a size is sent; it takes any number of sizes."""
    async with executed(cluster, pod, ["sh"], [protocol], stdin=True, tty=True) as wire:
        await wire.send(0, b"stty size\n")
        assert b"0 0" in await wire.until(b"0 0\r\n")
        for columns, rows in ((111, 33), (77, 22)):
            await wire.resize(columns, rows)
            await wire.send(0, b"stty size\n")
            await wire.until(f"{rows} {columns}\r\n".encode())
        await wire.send(0, b"exit 5\n")
        frames = await wire.rest()
        assert status_of(frames[-2])["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]


@both
async def test_a_terminal_takes_both_outputs_and_no_end_of_input(cluster: Cluster, pod: str, protocol: str) -> None:
    """With tty and stderr asked for, all comes on stdout; `ff 00` does nothing."""
    async with executed(cluster, pod, ["sh", "-c", "echo e >&2; cat"], [protocol], stdin=True, tty=True) as wire:
        assert await wire.until(b"e\r\n") == b"e\r\n"
        await wire.send(255, b"\x00")
        assert await wire.silent()
        await wire.send(0, b"\x04")
        assert (await wire.rest())[-2:] == [SUCCESS, CLOSED]


@both
@pytest.mark.parametrize("sizes", [1, 2])
async def test_a_second_size_without_a_terminal(cluster: Cluster, pod: str, protocol: str, sizes: int) -> None:
    """By v5 the input is never read again after it; by v4, and after the first, it is."""
    async with executed(cluster, pod, ["head", "-n", "1"], [protocol], stdin=True) as wire:
        assert await wire.frame() == (2, b"\x01")
        for _ in range(sizes):
            await wire.resize(80, 24)
        await wire.send(0, b"abc\n")
        if protocol == V5 and sizes == 2:
            assert await wire.silent(2)
        else:
            assert await wire.rest() == [(2, b"\x01abc\n"), SUCCESS, CLOSED]


@both
async def test_pings_are_answered(cluster: Cluster, pod: str, protocol: str) -> None:
    """A ping gets its pong."""
    async with executed(cluster, pod, ["sleep", "20"], [protocol]) as wire:
        await wire.ping(b"hi")
        assert (10, b"hi") in [await wire.frame(), await wire.frame()]


@both
async def test_the_status_waits_for_whoever_holds_the_output(cluster: Cluster, pod: str, protocol: str) -> None:
    """A child in the background keeps the status back until it has ended."""
    script = "(sleep 1; echo late) & echo parent; exit 3"
    async with executed(cluster, pod, ["sh", "-c", script], [protocol]) as wire:
        frames = await wire.rest()
    assert frames[:3] == [(2, b"\x01"), (2, b"\x01parent\n"), (2, b"\x01late\n")]
    assert status_of(frames[3])["details"]["causes"][0]["message"] == "3"


@both
async def test_a_program_without_output_is_waited_for(cluster: Cluster, pod: str, protocol: str) -> None:
    """Output that is closed is not the end."""
    async with executed(cluster, pod, ["sh", "-c", "exec >&- 2>&-; sleep 1; exit 4"], [protocol]) as wire:
        assert status_of((await wire.rest())[1])["details"]["causes"][0]["message"] == "4"


async def test_refusals_before_the_101(cluster: Cluster, pod: str) -> None:
    """No stream and a wrong container are 400, no such pod is 404, POST is 405."""
    command, web = ("command", "true"), ("container", "web")
    assert await refusal(cluster, f"{pod}/exec", [command, web]) == (
        400,
        "you must specify at least 1 of stdin, stdout, stderr",
    )
    code, body = await refusal(cluster, f"{pod}/exec", [command, ("container", "x"), ("stdout", "true")])
    message = f"container x is not valid for pod {pod}"
    expected = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    assert (code, json.loads(body)) == (400, expected | {"reason": "BadRequest", "code": 400})
    code, body = await refusal(cluster, "nopod/exec", [command, web, ("stdout", "true")])
    assert (code, json.loads(body)["message"], body[-1]) == (404, 'pods "nopod" not found', "\n")
    assert json.loads(body)["details"] == {"name": "nopod", "kind": "pods"}
    code, _ = await refusal(cluster, f"{pod}/exec", [command, web, ("stdout", "true")], "POST")
    assert code == 405


@both
async def test_bytes_arrive_whole_in_pieces(cluster: Cluster, pod: str, protocol: str) -> None:
    """Output comes in frames of at most 32 KiB, none is lost."""
    async with executed(cluster, pod, ["sh", "-c", "yes 0123456789 | head -c 33554432"], [protocol]) as wire:
        frames = await wire.rest()
    payload = b"".join(frame[1][1:] for frame in frames if frame[1][:1] == b"\x01")
    whole = (b"0123456789\n" * (33554432 // 11 + 1))[:33554432]
    assert hashlib.sha256(payload).digest() == hashlib.sha256(whole).digest()
    assert max(len(frame[1]) for frame in frames) <= 32 * 1024 + 1


async def test_a_client_that_does_not_read_holds_the_program(cluster: Cluster, pod: str) -> None:
    """What is not read is not written."""
    script = "head -c 67108864 /dev/zero; touch /tmp/written"
    async with executed(cluster, pod, ["sh", "-c", script]) as wire:
        await asyncio.sleep(2)
        assert await asyncio.to_thread(cluster.look, pod, "ls /tmp") == ""
        assert (await wire.rest())[-2] == SUCCESS
    assert "written" in await asyncio.to_thread(cluster.look, pod, "ls /tmp; rm -f /tmp/written")


@both
async def test_a_client_may_go_while_output_comes(cluster: Cluster, pod: str, protocol: str) -> None:
    """A flood on both outputs ends with its connection, and the next exec is served."""
    for _ in range(3):
        async with executed(cluster, pod, ["sh", "-c", "exec timeout 5 sh -c 'yes >&2 & yes'"], [protocol]) as wire:
            await wire.until(b"y\n")
            wire.drop()
    async with executed(cluster, pod, ["true"], [protocol]) as wire:
        assert (await wire.rest())[-2] == SUCCESS
    await asyncio.to_thread(cluster.look, pod, "pkill -x yes; :")


async def test_a_program_that_does_not_read_holds_the_client(cluster: Cluster, pod: str) -> None:
    """What is not taken piles up nowhere but at the sender."""
    async with executed(cluster, pod, ["sleep", "60"], stdin=True) as wire:

        async def flood() -> None:
            while True:
                await wire.send(0, bytes(32 * 1024))

        sending = asyncio.create_task(flood())
        await asyncio.wait({sending}, timeout=2)
        assert not sending.done()
        sending.cancel()
        await asyncio.wait({sending})
        wire.drop()
    await asyncio.to_thread(cluster.look, pod, "pkill -f '[s]leep 60'; :")


async def leave(
    cluster: Cluster, pod: str, wire: Wire, pattern: str, expected: Sequence[str], *, politely: bool
) -> list[str]:
    """Leave an exec and return what of it still runs, a second later or once it is what is expected."""

    async def left() -> list[str]:
        look = f"ps -eo args | grep '{pattern}' | grep -v grep; :"
        return (await asyncio.to_thread(cluster.look, pod, look)).splitlines()

    while not await left():
        await asyncio.sleep(0.1)
    if politely:
        await wire.close()
    else:
        wire.drop()
    for _ in range(20):
        await asyncio.sleep(1)
        if (found := await left()) == expected:
            break
    await asyncio.to_thread(cluster.look, pod, f"pkill -f '[{pattern[0]}]{pattern[1:]}'; :")
    return found


@both
@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "tty"])
@pytest.mark.parametrize("politely", [False, True], ids=["drop", "close"])
async def test_what_is_left_behind(cluster: Cluster, pod: str, protocol: str, *, tty: bool, politely: bool) -> None:
    """V5 leaves all running; by v4 a dropped connection kills the program, and on a terminal its children."""
    expected = ["sh -c sleep 40001; true", "sleep 40001"]
    if protocol == V4 and not politely:
        expected = [] if tty else expected[1:]
    async with executed(cluster, pod, ["sh", "-c", "sleep 40001; true"], [protocol], stdin=True, tty=tty) as wire:
        assert await leave(cluster, pod, wire, "sleep 40001", expected, politely=politely) == expected


@both
@pytest.mark.parametrize("politely", [False, True], ids=["drop", "close"])
async def test_who_reads_gets_the_end_of_input(cluster: Cluster, pod: str, protocol: str, *, politely: bool) -> None:
    """`cat` ends with its connection, however it ends."""
    async with executed(cluster, pod, ["bash", "-c", "cat /dev/stdin -; :"], [protocol], stdin=True) as wire:
        assert await leave(cluster, pod, wire, "cat /dev/stdin", [], politely=politely) == []


@pytest.fixture(scope="module")
def listener(cluster: Cluster) -> Iterator[str]:
    """Give a pod that listens at 7000 and gives back the lines it gets."""
    command = ["nc", "-ll", "-p", "7000", "-e", "cat"]
    cluster.deployment("listener", containers=[{"name": "web", "image": cluster.image_small, "command": command}])
    yield cluster.pods("listener")[0]
    cluster.delete("Deployment", "listener")


async def test_a_port_is_forwarded(cluster: Cluster, listener: str) -> None:
    """Two channels say their port first; then bytes go both ways."""
    async with opened(cluster, f"{listener}/portforward", [("ports", "7000")], [V4]) as wire:
        assert [await wire.frame(), await wire.frame()] == [(2, b"\x00X\x1b"), (2, b"\x01X\x1b")]
        await wire.send(0, b"hi\n")
        assert await wire.frame() == (2, b"\x00hi\n")


async def test_a_closed_port_is_told_on_the_error_channel(cluster: Cluster, listener: str) -> None:
    """The reason is text on channel 1; then the connection is closed."""
    async with opened(cluster, f"{listener}/portforward", [("ports", "9")], [V4]) as wire:
        frames = await wire.rest()
    assert frames[:2] == [(2, b"\x00\x09\x00"), (2, b"\x01\x09\x00")]
    assert frames[2][1].startswith(b"\x01error forwarding port 9 to pod ")
    assert b"connection refused" in frames[2][1]
    assert frames[3] == CLOSED


async def test_port_forward_has_no_v5(cluster: Cluster, listener: str) -> None:
    """Its subprotocol is refused with 403."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with opened(cluster, f"{listener}/portforward", [("ports", "7000")], [V5]):
            pass
    assert caught.value.status == 403
