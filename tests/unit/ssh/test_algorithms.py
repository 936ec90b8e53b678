"""What is offered before anybody has logged in: the algorithms of docs/security.md, and no others (RFC 4253 §7.1)."""

import asyncio
import struct

import asyncssh
import pytest
from asyncssh.packet import SSHPacket

from tests.unit.ssh.house import House

KEXINIT = 20
COOKIE_BYTES = 16
CIPHERS = [b"aes256-gcm@openssh.com", b"aes128-gcm@openssh.com"]
MACS = [b"hmac-sha2-256-etm@openssh.com"]
STRICT = b"kex-strict-s-v00@openssh.com"


async def test_nothing_else_is_offered(house: House) -> None:
    """A10, A11, A12: hybrid key exchange first, no finite-field one; AES-GCM only; strict; no compression."""
    reader, writer = await asyncio.open_connection(*house.address)
    writer.write(b"SSH-2.0-stranger\r\n")
    async with asyncio.timeout(20):
        assert await reader.readline() == b"SSH-2.0-bastion\r\n"
        length, padding = struct.unpack(">IB", await reader.readexactly(5))
        packet = SSHPacket((await reader.readexactly(length - 1))[: length - 1 - padding])
    writer.close()
    assert packet.get_byte() == KEXINIT
    packet.get_bytes(COOKIE_BYTES)
    kex, host_keys, *of_each_direction = [packet.get_namelist() for _ in range(10)]
    assert [name for name in kex if not name.startswith((b"kex-strict", b"ext-info"))] == [
        b"mlkem768x25519-sha256", b"curve25519-sha256", b"curve25519-sha256@libssh.org",
    ]  # fmt: skip
    assert STRICT in kex
    assert host_keys == [b"ssh-ed25519"]
    assert of_each_direction == [CIPHERS, CIPHERS, MACS, MACS, [b"none"], [b"none"], [], []]


@pytest.mark.parametrize("kex", ["mlkem768x25519-sha256", "curve25519-sha256"])
async def test_either_key_exchange_logs_in(house: House, kex: str) -> None:
    """A12: a client that has the hybrid only logs in, and one that is older, too."""
    async with await house.connect(kex_algs=[kex]) as connection:
        assert connection.get_extra_info("send_cipher") in {name.decode() for name in CIPHERS}


@pytest.mark.parametrize(
    "only",
    [
        {"encryption_algs": ["chacha20-poly1305@openssh.com"]},
        {"encryption_algs": ["aes256-ctr"]},
        {"encryption_algs": ["aes128-cbc"]},
        {"kex_algs": ["diffie-hellman-group14-sha256"]},
        {"kex_algs": ["ecdh-sha2-nistp256"]},
        {"compression_algs": ["zlib@openssh.com"]},
    ],
    ids=lambda only: "".join(only[next(iter(only))]),
)
async def test_what_is_weak_does_not_come_to_terms(house: House, only: dict[str, list[str]]) -> None:
    """A10, A11: a client that has nothing better gets no connection."""
    with pytest.raises(asyncssh.KeyExchangeFailed):
        await house.connect(**only)
