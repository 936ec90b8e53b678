"""F1, F3, F5, F8, F9, F12: crashes, restarts, cuts, drains, reloads and hand-overs under load."""

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncssh

from bastion.transcripts import lines
from bench.load.clients import Echoes, connect, echoing
from bench.load.figures import Figure, milliseconds
from bench.load.place import DOCKER, SESSIONS, UNLIMITED, make, running
from tests.e2e.server import Bastion
from tests.engine import Engine
from tests.postgresql import postgresql
from tests.unit.transcripts.recorded_place import stream

KILLS: Final = 6
WRITERS: Final = 3
SEAL_SECONDS: Final = 20.0
DRAINED: Final = 100
RELOADS: Final = 100
COUNT_UP: Final = "i=0; while :; do echo $i; i=$((i+1)); done"


async def kills(folder: Path) -> list[Figure]:
    """Kill the bastion with SIGKILL at random points under output, start it again, and look for what clients saw."""
    server = make(folder)
    lost = unsealed = 0
    starts: list[float] = []
    seals: list[float] = []
    for _ in range(KILLS):
        server.start()
        known = _records(server)
        clients = [
            subprocess.Popen(
                server.command(COUNT_UP), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for _ in range(WRITERS)
        ]  # fmt: skip
        reading = [asyncio.create_task(asyncio.to_thread(client.communicate)) for client in clients]
        async with asyncio.timeout(30):
            while len(_records(server) - known) < WRITERS:
                await asyncio.sleep(0.02)
        await asyncio.sleep(random.uniform(0, 1))  # noqa: S311 - the point of the kill
        server.kill()
        seen = sorted([(await one)[0] for one in reading], key=len)
        began = time.monotonic()
        server.start()
        starts.append(time.monotonic() - began)
        uids = sorted(_records(server) - known)
        while (open_uids := {uid for uid in uids if not list(server.transcripts.rglob(f"{uid}.sig"))}) and (
            time.monotonic() - began < SEAL_SECONDS
        ):
            await asyncio.sleep(0.05)
        unsealed += len(open_uids)
        seals.append(time.monotonic() - began)
        records = [await asyncio.to_thread(_output, server, uid) for uid in uids]
        lost += sum(not any(record.startswith(one) for record in records) for one in seen)
        server.stop()
    measured = (
        f"{KILLS} kills, {KILLS * WRITERS} sessions: {lost} with output in no transcript, {unsealed} not sealed; "
        f"accepting after at most {max(starts):.1f} s, sealed after {max(seals):.1f} s"
    )
    met = not lost and not unsealed and max(starts) <= 5 and max(seals) <= 10 + max(starts)
    promise = "kill -9 at random points: nothing shown is missing from the record; accepting ≤ 5 s, sealed ≤ 10 s"
    return [Figure("F1 kill -9", promise, measured, met)]


def _records(server: Bastion) -> set[str]:
    return {path.name.partition(".")[0] for path in server.transcripts.rglob("*.cast.age")}


def _output(server: Bastion, uid: str) -> bytes:
    given: list[str] = []
    with contextlib.suppress(Exception):
        given.extend(lines(server.transcripts, uid, server.auditor))
    return stream(given, 1) if given else b""


async def engine_restart(folder: Path, engine: Engine) -> list[Figure]:
    """Stop dockerd under ten sessions and start it again."""
    server = make(folder, sections=f'[docker]\nhost = "{engine.host}"\n{SESSIONS}', program=DOCKER)
    engine.remove("mystack-web-1")
    engine.start("mystack-web-1", engine.image_debian, service="web")
    clients: list[subprocess.Popen[bytes]] = []
    try:
        with running(server):
            clients += [
                subprocess.Popen(
                    server.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                for _ in range(10)
            ]  # fmt: skip
            async with asyncio.timeout(60):
                while len(server.sessions()) < len(clients):
                    await asyncio.sleep(0.1)
            began = time.monotonic()
            await asyncio.to_thread(engine.kill)
            async with asyncio.timeout(60):
                statuses = [await asyncio.to_thread(client.wait) for client in clients]
            ended = time.monotonic() - began
            await asyncio.to_thread(engine.start_engine)
            await asyncio.to_thread(engine.docker, "start", "mystack-web-1")
            began = time.monotonic()
            async with asyncio.timeout(60):
                while (await asyncio.to_thread(server.ssh, "true")).returncode != 0:
                    await asyncio.sleep(0.1)
            again = time.monotonic() - began
    finally:
        for client in clients:
            client.kill()
            client.communicate()
        engine.remove("mystack-web-1")
    measured = (
        f"10 sessions ended after {ended:.1f} s with {sorted(set(statuses))}; a new one {again:.1f} s after the engine"
    )
    promise = "sessions end ≤ 5 s with 255 and a message; a new one ≤ 5 s after the engine is back"
    return [Figure("F3 engine restart", promise, measured, ended <= 5 and set(statuses) == {255} and again <= 5)]


@asynccontextmanager
async def _proxy(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Forward connections until the event is set; from then on hold everything back, without a word to either side."""
    cut = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if cut.is_set():
                    await asyncio.Event().wait()
                writer.write(data)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, here))
        await asyncio.gather(pump(reader, here), pump(there, writer))

    listener = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], cut
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()


async def network_cut(folder: Path) -> list[Figure]:
    """Hold back every packet of a session with the default keepalive, and wait until the server ends it."""
    server = make(folder)
    with running(server):
        async with _proxy(server.port) as (port, cut):
            command = [str(port) if word == str(server.port) else word for word in server.command("cat")]
            command[1:1] = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
                async with asyncio.timeout(30):
                    while not server.sessions():
                        await asyncio.sleep(0.1)
                cut.set()
                began = time.monotonic()
                while not server.events("session") and time.monotonic() - began < 150:
                    await asyncio.sleep(0.5)
                took = time.monotonic() - began
                client.kill()
        ended = server.events("session")
    measured = f"ended after {took:.0f} s: {ended[0]['reason']}" if ended else f"not ended after {took:.0f} s"
    promise = "a cut without a word (keepalive = 30 s): ended ≤ 120 s, transcript closed"
    return [Figure("F5 silent network cut", promise, measured, bool(ended) and took <= 120)]


async def drain(folder: Path) -> list[Figure]:
    """Stop the bastion with SIGTERM under a hundred sessions."""
    server = make(folder, {**UNLIMITED, "drain_timeout": '"3s"'})
    with running(server):
        echoes = Echoes(server)
        await echoes.open(DRAINED)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        while _accepts(server.port) and time.monotonic() - began < 5:
            await asyncio.sleep(0.005)
        closed = time.monotonic() - began
        working = asyncio.create_task(echoes.run(1, 0.5))
        warnings = await asyncio.gather(
            *(asyncio.wait_for(process.stderr.readuntil(b"shutting down in"), 10) for _, process in echoes.sessions),
            return_exceptions=True,
        )
        warned = sum(isinstance(one, bytes) for one in warnings)
        await working
        statuses = [(await asyncio.wait_for(process.wait(), 30)).exit_status for _, process in echoes.sessions]
        status = await asyncio.to_thread(server.wait, 60)
        took = time.monotonic() - began
        signed = len(list(server.transcripts.rglob("*.sig")))
    measured = (
        f"listener closed after {closed * 1000:.0f} ms, {warned} of {DRAINED} warned, {len(echoes.faults)} faults in "
        f"the drain, {statuses.count(253)} ended with 253, {signed} records signed, exit {status} after {took:.1f} s"
    )
    met = closed <= 0.1 and warned == signed == statuses.count(253) == DRAINED and status == 0 and not echoes.faults
    promise = "SIGTERM: no new connection after 100 ms, every session warned and ended with its reason, exit 0"
    return [Figure("F8 drain (3 s)", promise, measured, met)]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def reloads(folder: Path) -> list[Figure]:
    """Read the configuration again a hundred times, every second time a wrong one, while sessions echo."""
    server = make(folder)
    with running(server):
        good = server.config.read_text()
        async with echoing(server, 20) as echoes:
            for number in range(RELOADS):
                text = f"{good}\n# {number}\n" if number % 2 else f"{good}\n[nonsense]\n"
                fresh = server.config.with_suffix(".new")
                fresh.write_text(text)
                fresh.rename(server.config)
                server.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.1)
            await asyncio.sleep(1.5)
        taken = len(server.events("configuration read again"))
        refused = len(server.events("configuration not taken over"))
    measured = (
        f"{taken} taken, {refused} refused; {len(echoes.faults)} sessions lost; echo {milliseconds(echoes.delays)}"
    )
    met = not echoes.faults and taken >= RELOADS * 0.4 and refused >= RELOADS * 0.4
    return [Figure("F9 reload × 100", "no session lost; a wrong file refused and the old one kept", measured, met)]


async def hand_over(folder: Path) -> list[Figure]:
    """Replace one of two nodes that share a PostgreSQL while clients log in, which try the other when one refuses."""
    delays: list[float] = []
    refused = 0
    with postgresql() as database, contextlib.ExitStack() as stack:
        sections = SESSIONS + f'database = "{database.url()}"\n'
        nodes = [make(folder / name, {**UNLIMITED, "drain_timeout": '"5s"'}, sections=sections) for name in ("a", "b")]
        (nodes[1].keys / "users" / "alice.pub").write_bytes((nodes[0].keys / "users" / "alice.pub").read_bytes())
        (nodes[1].folder / "alice.key").write_bytes((nodes[0].folder / "alice.key").read_bytes())
        for node in nodes:
            stack.enter_context(running(node))

        async def log_in() -> None:
            nonlocal refused
            began = time.perf_counter()
            for node in nodes:
                with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                    async with asyncio.timeout(30), await connect(node) as connection:
                        if (await connection.run("exit 7", check=False)).exit_status == 7:
                            delays.append(time.perf_counter() - began)
                            return
            refused += 1

        async with asyncio.TaskGroup() as group:
            held = await connect(nodes[0])
            process = await held.create_process("echo begun; sleep 2; echo done", encoding=None)
            await process.stdout.readline()
            for number in range(100):
                if number == 30:
                    nodes[0].send_signal(signal.SIGTERM)
                group.create_task(log_in())
                await asyncio.sleep(0.1)
        done = await asyncio.wait_for(process.wait(), 30)
        status = await asyncio.to_thread(nodes[0].wait, 30)
    finished = done.exit_status == 0
    measured = (
        f"100 logins, {refused} refused by both, {milliseconds(delays)}; a command that ran "
        f"{'finished with 0' if finished else 'was cut'}; the node left with {status}"
    )
    promise = "upgrade with two nodes on one PostgreSQL: 0 logins refused, commands finish (clients try the next node)"
    return [Figure("F12 hand-over", promise, measured, refused == 0 and finished and status == 0)]
