"""What the port promises, proved for every runtime."""

import asyncio
import dataclasses
import hashlib
import os
import shlex

import pytest

from bastion.errors import DatabaseFailed, RuntimeFailed
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Resize, Signal, Terminal
from tests.runtimes.world import World, pieces, read_until, request, resident, send_all

MEBIBYTE = 2**20


def at(columns: int = 80, rows: int = 24) -> Terminal:
    return Terminal("xterm-256color", columns, rows)


async def test_streams_apart(world: World) -> None:
    """Standard output and standard error arrive apart, with the exit status."""
    done = await world.command("echo out; echo err >&2; exit 7")
    assert (done.out, done.err, done.exit.status) == (b"out\n", b"err\n", 7)


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 128, 254, 255])
async def test_exit_status(world: World, status: int) -> None:
    """The program's status is the status."""
    assert (await world.command(f"exit {status}")).exit.status == status


async def test_not_found_is_the_shells_own(world: World) -> None:
    """A command that does not exist is told by the shell on standard error, and standard output stays clean."""
    done = await world.command("no-such-command-at-all")
    assert done.exit.status == 127
    assert done.out == b""
    assert b"not found" in done.err


async def test_output_that_looks_like_the_engines_error_is_output(world: World) -> None:
    """A program may print the engine's words and leave with 127: they are its output."""
    done = await world.command("echo 'OCI runtime exec failed: exec failed: x'; exit 127")
    assert done.exit.status == 127
    assert done.out == b"OCI runtime exec failed: exec failed: x\n"


async def test_order_is_kept(world: World) -> None:
    """Twenty thousand lines come in order."""
    done = await world.command("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done")
    assert done.out.split() == [str(number).encode() for number in range(20000)]


async def test_big_output(world: World) -> None:
    """16 MiB of output are the bytes that were written."""
    done = await world.command(
        "head -c 16777216 /dev/urandom >/tmp/big; cat /tmp/big; sha256sum /tmp/big >&2; rm /tmp/big"
    )
    assert len(done.out) == 16 * MEBIBYTE
    assert done.err.split()[0].decode() == hashlib.sha256(done.out).hexdigest()


@pytest.mark.half_close
async def test_big_input(world: World) -> None:
    """16 MiB of input are the bytes that were sent."""
    payload = os.urandom(16 * MEBIBYTE)
    done = await world.command("sha256sum", payload)
    assert done.out.split()[0].decode() == hashlib.sha256(payload).hexdigest()


@pytest.mark.half_close
async def test_both_ways(world: World) -> None:
    """What goes through `cat` comes back whole."""
    payload = os.urandom(4 * MEBIBYTE)
    assert (await world.command("cat", payload)).out == payload


@pytest.mark.half_close
async def test_half_close(world: World) -> None:
    """The end of input ends the input only: `sort` answers behind it."""
    assert (await world.command("sort", b"b\na\n")).out == b"a\nb\n"


@pytest.mark.half_close
async def test_output_after_the_end_of_input(world: World) -> None:
    """A program may run on and write long after its input has ended."""
    done = await world.command("cat >/dev/null; sleep 3; echo late; exit 3")
    assert (done.out, done.exit.status) == (b"late\n", 3)


async def test_output_closed_long_before_the_end(world: World) -> None:
    """A program that closes its output and runs on keeps its exit status."""
    done = await world.command("echo bye; exec >&- 2>&-; sleep 5; exit 3")
    assert (done.out, done.exit.status) == (b"bye\n", 3)


async def test_fast_exit_without_input(world: World) -> None:
    """Nothing is lost of a program that writes much and is gone, with its input closed from the start."""
    done = await world.command("head -c 3000000 /dev/zero; echo end >&2")
    assert (len(done.out), done.err, done.exit.status) == (3000000, b"end\n", 0)


async def test_program_that_stops_reading(world: World) -> None:
    """More input than a program reads is no error."""
    done = await world.command("head -c 3", b"abc" * MEBIBYTE)
    assert (done.out, done.exit.status) == (b"abc", 0)


async def test_child_that_holds_output(world: World) -> None:
    """A child in the background that holds the output does not hold the exit status back for ever."""
    async with asyncio.timeout(60):
        done = await world.command("sleep 7401 & echo hi; exit 4")
    assert (done.out, done.exit.status) == (b"hi\n", 4)
    assert await world.left("7401") == []


async def test_shell_reads_a_script(world: World) -> None:
    """A shell without a terminal runs the script on its standard input."""
    done = await world.run(request(), [Data(STDIN, b"echo one\nexit 5\necho two\n"), Eof()])
    assert (done.out, done.exit.status) == (b"one\n", 5)


@pytest.mark.parametrize(
    "text",
    [
        "a 'b' \"c\" $d `e` \\f; | & < > ( ) * ? ~ # %",
        "one\ntwo\n\nthree",
        "  spaces  ",
        "ünï ✓ \x01\x7f",
        "x" * 100 * 1024,
    ],
    ids=["quotes", "newlines", "spaces", "characters", "100 KiB"],
)
async def test_command_is_one_argument(world: World, text: str) -> None:
    """The user's string reaches the shell as one argument, byte for byte."""
    done = await world.command(f"printf %s {shlex.quote(text)}")
    assert done.out == text.encode()


@pytest.mark.parametrize("text", ["echo \0", "x" * 131072], ids=["NUL", "too long"])
async def test_command_that_cannot_be(world: World, text: str) -> None:
    """A command that cannot be an argument is refused, with what to do instead."""
    with pytest.raises(RuntimeFailed) as refused:
        await world.command(text)
    assert "standard input" in refused.value.hint


async def test_root(world: World) -> None:
    """Where the files are is said in a toolbox only; elsewhere the variable is empty, whatever the client sent."""
    done = await world.run(request('echo "<$BASTION_ROOT>"', environment={"BASTION_ROOT": "/sent"}))
    assert done.out == (b"</proc/1/root>\n" if world.notes else b"<>\n")


async def test_environment(world: World) -> None:
    """The variables that are let through, TERM and the marker arrive; the marker is the session's own."""
    asked = request("env", terminal=at(), environment={"LC_TIME": "C", "BASTION_SESSION": "forged", "BASTION_X": "y z"})
    lines = (await world.run(asked)).out.decode().split("\r\n")
    assert {"LC_TIME=C", "BASTION_X=y z", "TERM=xterm-256color", f"BASTION_SESSION={asked.uid}"} <= set(lines)
    assert not [line for line in lines if "forged" in line]


async def test_terminal_size(world: World) -> None:
    """A program at a terminal finds the size that was asked for at once, and each new one."""
    asked = request("stty size; while read line; do stty size; done", terminal=at(101, 37))
    async with world.runtime.exec(world.target, asked) as program:
        assert b"37 101" in await read_until(program, b"37 101")
        await program.send(Resize(93, 41))
        await program.send(Data(STDIN, b"\n"))
        await read_until(program, b"41 93")
        await program.send(Resize(0, 0))
        await program.send(Data(STDIN, b"\n"))
        await read_until(program, b"41 93")


async def test_terminal_merges_and_ends(world: World) -> None:
    """At a terminal standard error is on the same stream, and the end of input is ^D."""
    done = await world.run(request("test -t 0 && test -t 1 && echo tty; echo err >&2; cat", terminal=at()))
    assert done.err == b""
    assert b"tty\r\n" in done.out
    assert b"err\r\n" in done.out
    assert done.exit.status == 0


async def test_control_p(world: World) -> None:
    """Ctrl-P reaches the program at once, and Ctrl-P Ctrl-Q does not detach."""
    asked = request("stty raw -echo; echo ready; head -c 2 | od -An -tx1; echo; head -c 1 | od -An -tx1", terminal=at())
    async with world.runtime.exec(world.target, asked) as program:
        await read_until(program, b"ready")
        await program.send(Data(STDIN, b"\x10\x11"))
        await read_until(program, b"10 11")
        await program.send(Data(STDIN, b"\x10"))
        await read_until(program, b"10")


async def test_interrupt_by_key(world: World) -> None:
    """Ctrl-C at a terminal interrupts what runs in its foreground."""
    async with world.runtime.exec(
        world.target, request("trap 'echo int; exit 9' INT; echo ready; sleep 7402 & wait", terminal=at())
    ) as program:
        await read_until(program, b"ready")
        await program.send(Data(STDIN, b"\x03"))
        await read_until(program, b"int\r\n")


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "USR1"])
async def test_signal(world: World, name: str) -> None:
    """A signal reaches the program."""
    asked = request(f"trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.1; done")
    async with world.runtime.exec(world.target, asked) as program:
        await read_until(program, b"ready")
        await program.send(Signal(name))
        await read_until(program, b"got")
        async for _ in program:  # the shell may say that its sleep was ended too
            continue
        assert (await program.wait()).status == 3


async def test_unknown_signal(world: World) -> None:
    """A signal that is none is dropped, whatever its name holds."""
    async with world.runtime.exec(world.target, request("read line; echo $line")) as program:
        await program.send(Signal("TERM; touch /tmp/bad"))
        await program.send(Data(STDIN, b"fine\n"))
        await read_until(program, b"fine")


async def test_killed_program(world: World) -> None:
    """A program that is killed has 128 and the signal's number as its status."""
    assert (await world.command("kill -KILL $$")).exit.status == 137


async def test_events_after_the_end(world: World) -> None:
    """What is sent to a program that has ended is dropped."""
    async with world.runtime.exec(world.target, request("echo hi", terminal=at())) as program:
        async for _ in program:
            continue
        await send_all(program, [Data(STDIN, b"x"), Resize(10, 10), Signal("TERM"), Eof(), Eof()])
        assert (await program.wait()).status == 0


async def test_slow_reader(world: World) -> None:
    """A reader that stops holds the program back, and our memory stays flat; then it gets every byte."""
    async with world.runtime.exec(world.target, request("head -c 33554432 /dev/zero; echo done >&2")) as program:
        stream = world.output(program)
        first = await anext(stream)
        before = resident()
        await asyncio.sleep(3)
        assert resident() - before < 4 * MEBIBYTE
        sizes = {STDOUT: len(first.payload), STDERR: 0}
        async for event in stream:
            sizes[event.stream] += len(event.payload)
    assert sizes == {STDOUT: 32 * MEBIBYTE, STDERR: 5}


@pytest.mark.parametrize("size", [1_270_000, 1_420_000])
async def test_slow_reader_of_the_last_bytes(world: World, size: int) -> None:
    """A reader that stops while the program ends still gets the last byte (the engine drops them after 2 s)."""
    async with world.runtime.exec(world.target, request(f"head -c {size} /dev/zero")) as program:
        stream = world.output(program)
        first = await anext(stream)
        await asyncio.sleep(4)
        total = len(first.payload)
        async for event in stream:
            total += len(event.payload)
    assert total == size


@pytest.mark.parametrize("terminal", [None, at()], ids=["pipes", "terminal"])
async def test_nothing_is_left(world: World, terminal: Terminal | None) -> None:
    """Leaving the context ends the program and all it started: background, new sessions, those that ignore signals."""
    word = "7403" if terminal else "7404"
    text = (
        f"sleep {word} & setsid sleep {word} & (trap '' HUP TERM; sh -c 'sleep {word}; sleep {word}') & "
        f"env -i sh -c 'sleep {word}; :' & (setsid sh -c 'sleep {word} & env -i sleep {word}' &) ; "
        f"echo ready; sleep {word}"
    )
    async with world.runtime.exec(world.target, request(text, terminal=terminal)) as program:
        await read_until(program, b"ready")
        async with asyncio.timeout(30):
            while len(await world.left(word)) < 5:
                await asyncio.sleep(0.1)
    assert await world.left(word) == []


async def test_nothing_is_left_of_a_cancelled_session(world: World) -> None:
    """A session that is cancelled while its program starts leaves nothing either."""

    async def session() -> None:
        async with world.runtime.exec(world.target, request("exec sleep 7405")) as program:
            async for _ in program:
                continue

    for pause in (0.01, 0.05, 0.1):
        task = asyncio.create_task(session())
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(1)
    async with asyncio.timeout(30):
        while await world.left("7405"):
            await asyncio.sleep(0.1)


async def test_the_duty_is_on_record_while_the_program_runs(world: World) -> None:
    """It is there before the program runs, and taken off when nothing of it is left."""
    asked = request("echo ready; sleep 7407")
    async with world.runtime.exec(world.target, asked) as program:
        assert [duty.uid for duty in world.duties.added] == [asked.uid]
        await read_until(program, b"ready")
        assert world.duties.finished == []
    assert world.duties.finished == [asked.uid]
    assert world.duties.failures == {}


async def test_no_program_without_its_duty(world: World) -> None:
    """Where the duty cannot be put on record nothing is started."""
    world.duties.refuses = True
    with pytest.raises(DatabaseFailed):
        await world.command("setsid sleep 7408")
    assert await world.left("7408") == []


async def test_reap_ends_what_another_bastion_left(world: World) -> None:
    """What carries the marker of a session that nobody here started is ended, and doing so again is harmless."""
    uid = request().uid
    await world.command(f"(BASTION_SESSION={uid} setsid sleep 7409 >/dev/null 2>&1 </dev/null &); sleep 0.2")
    assert await world.left("7409")
    duty = dataclasses.replace(world.duties.added[-1], uid=uid)
    assert set(await asyncio.gather(world.runtime.reap(duty), world.runtime.reap(duty))) == {"ended"}
    assert await world.left("7409") == []
    assert await world.runtime.reap(duty) == "ended"


async def test_neighbours_are_left_alone(world: World) -> None:
    """Ending one session does not touch another of the same container."""
    async with world.runtime.exec(world.target, request("read line; echo still $line")) as other:
        await world.command("sleep 7406 & exit 0")
        await send_all(other, [*pieces(b"here\n"), Eof()])
        await read_until(other, b"still here")


@pytest.mark.half_close
async def test_many_at_once(world: World) -> None:
    """Twenty sessions at once each get their own."""
    done = await asyncio.gather(*(world.command(f"cat; echo {number}", b"x") for number in range(20)))
    assert [each.out for each in done] == [f"x{number}\n".encode() for number in range(20)]
