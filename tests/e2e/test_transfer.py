"""Bytes by the hundred MiB: complete, in order, both ways, and never piled up in the bastion."""

import asyncio
import hashlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import pytest

from tests.e2e.server import Bastion

pytestmark = pytest.mark.everywhere

MIB = 2**20


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4096


def _pull(bastion: Bastion, command: str, options: Sequence[str]) -> str:
    digest = hashlib.sha256()
    with subprocess.Popen(
        bastion.command(command, options=options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        while piece := client.stdout.read(MIB):
            digest.update(piece)
    assert client.returncode == 0
    return digest.hexdigest()


def _push(bastion: Bastion, file: Path, command: str, options: Sequence[str]) -> None:
    with file.open("rb") as source:
        subprocess.run(bastion.command(command, options=options), stdin=source, check=True, timeout=100)


@pytest.mark.half_close
@pytest.mark.parametrize(("size", "options"), [(256, []), (32, ["-o", "RekeyLimit=1M"])], ids=["256MiB", "rekeying"])
def test_random_bytes_arrive_equal_both_ways(bastion: Bastion, tmp_path: Path, size: int, options: list[str]) -> None:
    """Random bytes in through `cat >` and out through `cat` have the same SHA-256, also over many key exchanges."""
    file = tmp_path / "random"
    subprocess.run(["dd", "if=/dev/urandom", f"of={file}", "bs=1M", f"count={size}", "status=none"], check=True)
    with file.open("rb") as content:
        expected = hashlib.file_digest(content, "sha256").hexdigest()
    remote = f"/tmp/f{size}"
    try:
        _push(bastion, file, f"cat > {remote}", options)
        assert bastion.ssh(f"sha256sum {remote}").stdout.split()[0].decode() == expected
        assert _pull(bastion, f"cat {remote}", options) == expected
    finally:
        bastion.ssh(f"rm -f {remote}")


def test_a_slow_reader_gets_everything(bastion: Bastion) -> None:
    """Output read slowly, after the command could long have ended, is complete."""
    size = 24 * MIB
    with subprocess.Popen(
        bastion.command(f"head -c {size} /dev/zero; echo end"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        time.sleep(2)
        assert len(client.stdout.read()) == size + 4
    assert client.returncode == 0


def test_other_channels_go_on_beside_a_silent_one(bastion: Bastion, tmp_path: Path) -> None:
    """A command that says nothing holds up no other command of its connection."""
    control = str(tmp_path / "control")
    silent = subprocess.Popen(
        bastion.command("sleep 100", options=["-M", "-S", control]), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while not Path(control).exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert bastion.ssh("echo beside", options=["-S", control], timeout=60).stdout == b"beside\n"
    finally:
        silent.terminate()
        silent.wait()


async def _connect(bastion: Bastion) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1",
        bastion.port,
        username="web@mystack",
        known_hosts=str(bastion.known_hosts),
        config=None,
        client_keys=[str(bastion.folder / "alice.key")],
        agent_path=None,
    )


def _ignore(_data: bytes, _datatype: asyncssh.DataType = None) -> None:
    return


class _Sink(asyncssh.SSHClientSession[bytes]):
    def __init__(self) -> None:
        self.received = 0

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.received += len(data)


@pytest.mark.parametrize("stall", ["stops reading", "never ends a key exchange"])
async def test_a_client_that_takes_nothing_costs_little_memory(own: Bastion, stall: str) -> None:
    """With a 4 GiB window and endless output, a client that stops reading or rekeying holds the container back."""
    own.start()
    connection = await _connect(own)
    sink = _Sink()
    await connection.create_session(lambda: sink, "cat /dev/zero", encoding=None, window=2**32 - 1, max_pktsize=32768)
    while sink.received < 4 * MIB:
        await asyncio.sleep(0.05)
    if stall == "stops reading":
        assert isinstance(connection._transport, asyncio.Transport)  # noqa: SLF001  # it has no public name
        connection._transport.pause_reading()  # noqa: SLF001
    else:
        connection.data_received = _ignore  # type: ignore[method-assign,assignment]
        connection._send_kexinit()  # noqa: SLF001  # a rekey begun, and nothing that would end it is read
    await asyncio.sleep(1)
    before = resident(own.pid)
    await asyncio.sleep(5)
    assert resident(own.pid) - before < 4 * MIB
    connection.abort()


async def test_a_client_that_ignores_its_window_is_cut(own: Bastion) -> None:
    """Input that a program does not read is held back; a client that sends on past the window is disconnected."""
    own.start()
    connection = await _connect(own)
    channel, _ = await connection.create_session(_Sink, "sleep 1000", encoding=None)
    channel._send_window = 2**40  # noqa: SLF001  # what a hostile client would do
    before = resident(own.pid)
    try:
        for _ in range(512):
            channel.write(b"x" * MIB)
            await asyncio.sleep(0.01)
            if connection.is_closed():
                break
    except OSError:
        pass
    await asyncio.wait_for(connection.wait_closed(), 20)
    assert resident(own.pid) - before < 16 * MIB
