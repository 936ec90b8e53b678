"""L1, L2, L3, L5: many sessions, many logins, much data, many key exchanges."""

import asyncio
import base64
import hashlib
import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from bastion.transcripts import lines
from bench.load.clients import Echoes, connect, logins
from bench.load.figures import Figure, milliseconds, percentile
from bench.load.place import DOCKER, NAME, SESSIONS, make, processor_seconds, resident_mib, running
from tests.e2e.server import Bastion
from tests.engine import Engine
from tests.fuzz.world import server_counts
from tests.unit.transcripts.recorded_place import stream

MANY: Final = 1000
ON_DOCKER: Final = 50
KEY_SECONDS: Final = 2.0
CHURN_A_SECOND: Final = 50
CHURN_AT_ONCE: Final = 50
STREAMS: Final = 4
STREAM_MIB: Final = 48
SOAK_SESSIONS: Final = 20
SOAK_SECONDS: Final = 30.0
REKEY_BYTES: Final = 2**20


async def many_sessions(folder: Path) -> list[Figure]:
    """Open 1,000 sessions at terminals on local processes and have each echo a key every two seconds."""
    server = make(folder)
    with running(server):
        idle = resident_mib(server.pid)
        echoes = Echoes(server)
        began = time.monotonic()
        await echoes.open(MANY)
        opened = time.monotonic() - began
        await echoes.run(5, KEY_SECONDS)  # the first echoes fall into the last logins' shadow
        echoes.delays.clear()
        await echoes.run(20, KEY_SECONDS)
        resident = resident_mib(server.pid)
        rate = len(echoes.delays) / 20
        await echoes.close()
    measured = (
        f"{len(echoes.sessions)} established in {opened:.0f} s; {rate:.0f} echoes a second: "
        f"{milliseconds(echoes.delays)}; "
        f"{len(echoes.faults)} lost; RSS {resident:.0f} MiB (idle {idle:.0f})"
    )
    met = (
        len(echoes.sessions) == MANY and percentile(echoes.delays, 99) <= 0.1 and resident <= 300 and not echoes.faults
    )
    promise = "1,000 sessions at terminals on 2 cores: all established, echo p99 ≤ 100 ms, RSS ≤ 300 MiB, 0 bytes lost"
    return [Figure("L1 local processes", promise, measured, met)]


async def sessions_on_docker(folder: Path, engine: Engine) -> list[Figure]:
    """Open 50 sessions in one container of a real engine."""
    server = make(folder, sections=f'[docker]\nhost = "{engine.host}"\n{SESSIONS}', program=DOCKER)
    engine.remove("mystack-web-1")
    engine.start("mystack-web-1", engine.image_debian, service="web")
    try:
        with running(server):
            echoes = Echoes(server)
            began = time.monotonic()
            await echoes.open(ON_DOCKER)
            opened = time.monotonic() - began
            await echoes.run(15, 0.5)
            await echoes.close()
    finally:
        engine.remove("mystack-web-1")
    measured = f"established in {opened:.0f} s; {milliseconds(echoes.delays)}; {len(echoes.faults)} lost"
    met = percentile(echoes.delays, 99) <= 0.1 and not echoes.faults
    return [Figure("L1 Docker Engine", "50 sessions: echo p99 ≤ 100 ms, 0 bytes lost", measured, met)]


async def login_rate(folder: Path) -> list[Figure]:
    """Log in and out as fast as it goes, client and server on the same cores."""
    server = make(folder)
    with running(server):
        await logins(server, 2)
        before, began = processor_seconds(server.pid), time.monotonic()
        delays, failures = await logins(server, 10)
        took, used = time.monotonic() - began, processor_seconds(server.pid) - before
    rate = len(delays) / took
    each = used * 1000 / max(len(delays), 1)
    measured = f"{rate:.0f} a second by 8 clients ({each:.1f} ms of the server's processor each): "
    measured += f"{milliseconds(delays)}; {failures} failed"
    met = rate >= 50 and percentile(delays, 99) <= 0.3 and failures == 0
    return [Figure("L2 logins", "≥ 50 logins a second, p99 ≤ 300 ms, 0 failed", measured, met)]


async def churn(folder: Path, minutes: float) -> list[Figure]:
    """Connect, run a command and leave, 50 times a second; then hold what the server has against the first sixth."""
    server = make(folder)
    seconds = minutes * 60
    delays: list[float] = []
    faults: list[str] = []

    async def one() -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(30), await connect(server) as connection:
                done = await connection.run("exit 7", check=False)
            if done.exit_status != 7:
                faults.append(f"exit {done.exit_status}")
        except (OSError, asyncssh.Error, TimeoutError) as error:
            faults.append(f"{type(error).__name__}: {error}")
        delays.append(time.perf_counter() - began)

    async def drive(seconds: float) -> None:
        began, count = time.monotonic(), 0
        limit = asyncio.Semaphore(CHURN_AT_ONCE)

        async def run() -> None:
            try:
                await one()
            finally:
                limit.release()

        async with asyncio.TaskGroup() as group:
            while (elapsed := time.monotonic() - began) < seconds:
                while count < elapsed * CHURN_A_SECOND and time.monotonic() - began < seconds:
                    await limit.acquire()
                    group.create_task(run())
                    count += 1
                await asyncio.sleep(0.005)

    with running(server):
        await drive(seconds / 6)
        early = await asyncio.to_thread(server_counts, server)
        await drive(seconds * 5 / 6)
        late = await asyncio.to_thread(server_counts, server)
    growth = late.resident_kib / early.resident_kib - 1
    measured = (
        f"{len(delays)} in {minutes:g} min ({len(delays) / seconds:.0f} a second), {len(faults)} failed; "
        f"{milliseconds(delays)}; RSS {early.resident_kib // 1024} → {late.resident_kib // 1024} MiB ({growth:+.1%}), "
        f"descriptors {early.descriptors} → {late.descriptors}, tasks {early.tasks} → {late.tasks}"
    )
    met = (
        not faults and percentile(delays, 99) <= 0.3 and growth <= 0.05
        and late.descriptors <= early.descriptors * 1.05 + 1 and late.tasks <= early.tasks * 1.05 + 1
        and len(delays) >= 0.95 * CHURN_A_SECOND * seconds
    )  # fmt: skip
    promise = "50 a second connect, run, exit: 0 failures, p99 ≤ 300 ms; memory, descriptors and tasks within 5 % of "
    promise += "those after a sixth of the time"
    return [Figure("L2 churn", promise, measured, met)]


async def throughput(folder: Path) -> list[Figure]:
    """Copy files out of four sessions at a time by the stock ssh, and hold the bytes against the transcripts."""
    server = make(folder)
    _open_to_all(folder)
    random = os.urandom(STREAM_MIB * 2**20)
    with running(server):
        text = await _copy_out(server, base64.encodebytes(random)[: len(random)])
        binary = await _copy_out(server, random)
    promise = "≥ 100 MiB of text for each second of the server's processor, recorded; client = transcript by SHA-256"
    measured = f"text {text.words}; random bytes, the record's worst case: {binary.words}"
    return [Figure("L3", promise, measured, text.equal and binary.equal and text.mib_a_processor_second >= 100)]


@dataclass(frozen=True)
class _Copied:
    mib_a_second: float
    mib_a_processor_second: float
    equal: bool

    @property
    def words(self) -> str:
        equal = "equal" if self.equal else "NOT EQUAL"
        return f"{self.mib_a_second:.0f} MiB/s, {self.mib_a_processor_second:.0f} a second of processor, {equal}"


async def _copy_out(server: Bastion, content: bytes) -> _Copied:
    source = server.folder / "content"
    source.write_bytes(content)
    source.chmod(0o644)
    expected = hashlib.sha256(content).hexdigest()
    known = len(server.events("session"))
    before, began = processor_seconds(server.pid), time.monotonic()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                subprocess.Popen(
                    ["sh", "-c", '"$@" | sha256sum', "sh", *server.command(f"exec cat {source}", name=NAME)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                )
            )
            for _ in range(STREAMS)
        ]  # fmt: skip
        sums = [(await asyncio.to_thread(client.communicate))[0].split()[:1] for client in clients]
    took, used = time.monotonic() - began, processor_seconds(server.pid) - before
    uids = [str(line["uid"]) for line in (await _ended(server, known + STREAMS))[known:]]
    recorded = [await asyncio.to_thread(_recorded_sum, server, uid) for uid in uids]
    total = STREAMS * STREAM_MIB
    equal = all(one == [expected.encode()] for one in sums) and recorded == [expected] * STREAMS
    return _Copied(total / took, total / used, equal)


async def soak(folder: Path) -> list[Figure]:
    """Send random blocks through `cat` and back with a key exchange each MiB."""
    server = make(folder)
    faults: list[str] = []
    moved = 0

    async def one(until: float) -> None:
        nonlocal moved
        try:
            async with await connect(server, rekey_bytes=REKEY_BYTES) as connection:
                process = await connection.create_process("exec cat", encoding=None)
                while time.monotonic() < until:
                    block = os.urandom(64 * 1024)
                    process.stdin.write(block)
                    async with asyncio.timeout(60):
                        if await process.stdout.readexactly(len(block)) != block:
                            faults.append("a block came back changed")
                    moved += len(block)
        except (OSError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError) as error:
            faults.append(f"{type(error).__name__}: {error}")

    with running(server):
        until = time.monotonic() + SOAK_SECONDS
        await asyncio.gather(*(one(until) for _ in range(SOAK_SESSIONS)))
    exchanges = 2 * moved // REKEY_BYTES
    measured = f"{SOAK_SESSIONS} sessions, {SOAK_SECONDS:.0f} s, {moved // 2**20} MiB each way, about "
    measured += f"{exchanges} key exchanges: "
    measured += f"{len(faults)} faults {' '.join(sorted(set(faults))[:2])}"
    promise = "sessions with a key exchange each MiB: 0 disconnects, 0 mismatches (bounded here; a night by hand)"
    return [Figure("L5", promise, measured, not faults and moved > 0)]


def _open_to_all(folder: Path) -> None:
    """Let the local programs' user, nobody, reach a file of the folder."""
    for one in (folder, *folder.parents):
        if one.stat().st_uid == os.geteuid() and one != Path("/"):
            one.chmod(one.stat().st_mode | 0o011)


async def _ended(server: Bastion, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        while len(lines := server.events("session")) < count:
            await asyncio.sleep(0.1)
    return lines


def _recorded_sum(server: Bastion, uid: str) -> str:
    server.finished(uid, 60)
    return hashlib.sha256(stream(list(lines(server.transcripts, uid, server.auditor)), 1)).hexdigest()
