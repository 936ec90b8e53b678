"""What ssh-audit says of the server: no failure, no warning but one that is known, nothing of Terrapin."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

import asyncssh

from tests.unit.ssh.house import House

NOT_POST_QUANTUM: Final = "does not provide protection against post-quantum attacks"
ALLOWED_WARNINGS: Final = {
    # For OpenSSH before 9.9, which knows no mlkem768x25519-sha256; a newer client chooses that one.
    ("curve25519-sha256", NOT_POST_QUANTUM),
    ("curve25519-sha256@libssh.org", NOT_POST_QUANTUM),
}
KINDS: Final = ("kex", "key", "enc", "mac")
SECONDS: Final = 30


async def audit(host: str, port: int) -> dict[str, Any]:
    """Return the report of ssh-audit as it prints it with --json; its connection-rate test is left out."""
    program = Path(sys.executable).with_name("ssh-audit")
    process = await asyncio.create_subprocess_exec(
        str(program), "--json", "--skip-rate-test", "--port", str(port), host,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(SECONDS):
        output, errors = await process.communicate()
    assert output, errors
    report: dict[str, Any] = json.loads(output)
    return report


def notes(report: dict[str, Any], level: str) -> set[tuple[str, str]]:
    """Return the (algorithm, note) pairs of one level: fail or warn."""
    entries = [entry for kind in KINDS for entry in report[kind]]
    return {(entry["algorithm"], note) for entry in entries for note in entry["notes"].get(level, [])}


async def test_A10_A11_audit_finds_nothing_new(house: House) -> None:
    """No *fail*, the *warn* list as it was, no known hole, and no note of Terrapin (CVE-2023-48795)."""
    report = await audit(*house.address)
    assert all(report[kind] for kind in KINDS)
    assert notes(report, "fail") == set()
    assert notes(report, "warn") == ALLOWED_WARNINGS
    assert report["cves"] == []
    assert report["additional_notes"] == []
    assert "kex-strict-s-v00@openssh.com" in {entry["algorithm"] for entry in report["kex"]}


async def test_A10_audit_sees_a_weak_server() -> None:
    """The report of a server with a weak key exchange and MAC names both: an empty list above is no accident."""
    async with asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[asyncssh.generate_private_key("ssh-rsa", key_size=2048)],
        kex_algs=["diffie-hellman-group14-sha1"], encryption_algs=["aes256-cbc"], mac_algs=["hmac-sha1"],
    ) as server:  # fmt: skip
        report = await audit(*server.get_addresses()[0])
    assert {algorithm for algorithm, _ in notes(report, "fail")} >= {"diffie-hellman-group14-sha1", "hmac-sha1"}
