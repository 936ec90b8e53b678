"""The attacks on the record of the running server: forged, invented, replaced, unlinked (threats E2 and E8)."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.e2e.server import Bastion, uid_of

PROMPT = rb"[#$] "
SUFFIX = ".cast.age"
INVENTED = "0123456789abcdef"


def _verdicts(server: Bastion) -> dict[str, str]:
    """Return what `transcripts verify` says, by uid; it must exit 1 exactly when something is not sound."""
    done = server.cli("transcripts", "verify", "--json", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["sound"] else 1)
    return {finding["uid"]: finding["verdict"] for finding in report["findings"]}


def _encrypt(server: Bastion, path: Path, text: str) -> None:
    """Write a transcript of our own with stock tools: all it takes is the auditor's public key."""
    recipient = (server.keys / "auditors" / "auditor.pub").read_text().split()[0]
    header = {"version": 3, "term": {"cols": 80, "rows": 24}, "bastion": {"tty": False}}
    lines = f"{json.dumps(header)}\n{json.dumps([0, 'o', text])}\n"
    packed = subprocess.run(["gzip"], input=lines.encode(), capture_output=True, check=True).stdout
    sealed = subprocess.run(["age", "-r", recipient], input=packed, capture_output=True, check=True).stdout
    path.unlink(missing_ok=True)
    path.write_bytes(sealed)


def _crash_with_a_session(server: Bastion) -> str:
    """Kill the server while a shell is open and its record is on a checkpoint; return the shell's uid."""
    shell = server.terminal()
    uid = uid_of(shell)
    shell.expect(PROMPT)
    ledger = server.transcripts / "ledger.jsonl"
    until = time.monotonic() + 20
    while f'"{uid}":{{"age"' not in ledger.read_text():
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.05)
    server.kill()
    shell.expect(pexpect.EOF)
    return uid


def test_E2_forged_and_invented_transcripts_are_named_and_a_real_crash_is_sealed(own: Bastion) -> None:
    """A closed one replaced, one invented, one that a crash left replaced, beside one that a crash really left."""
    own.start()
    own.ssh("echo what was really done")
    closed = own.finished(own.last_uid())
    honest = _crash_with_a_session(own)
    own.start()
    replaced = _crash_with_a_session(own)
    folder = closed.parent
    assert _verdicts(own)[replaced] == "unclean"

    _encrypt(own, closed, "nothing was done\r\n")
    closed.with_name(closed.name.replace(SUFFIX, ".sig")).unlink()
    _encrypt(own, folder / f"{INVENTED}{SUFFIX}", "bob did it\r\n")
    (open_file,) = own.transcripts.rglob(f"{replaced}{SUFFIX}")
    _encrypt(own, open_file, "nothing either\r\n")

    own.start()
    uid = closed.name.removesuffix(SUFFIX)
    assert _verdicts(own) == {uid: "forged", INVENTED: "forged", replaced: "forged", honest: "unclean"}
    assert {path.stem for path in own.transcripts.rglob("*.sig")} == {honest}
    named = {line["uid"]: line["verdict"] for line in own.events("transcript-not-sealed")}
    assert named == {uid: "forged", INVENTED: "forged", replaced: "forged"}
    own.ssh("echo the bastion goes on")
    assert _verdicts(own)[own.last_uid()] == "good"

    # An auditor reads it all the same, and is told.
    shown = own.cli("transcripts", "export", INVENTED, "--identity", str(own.auditor), check=False)
    assert "bob did it" in shown.stdout
    assert shown.returncode == 1
    assert f"bastion: error: {INVENTED}: forged: " in shown.stderr
    told = own.cli("transcripts", "export", honest, "--identity", str(own.auditor))
    assert "is proven up to byte" in told.stderr
    assert json.loads(own.cli("transcripts", "show", honest, "--json").stdout)["proven"].keys() >= {f"{honest}{SUFFIX}"}


def test_E2_a_folder_that_others_may_write_in_is_no_start(own: Bastion) -> None:
    """`serve` and `check` refuse it with the command that mends it; then the server starts."""
    own.transcripts.mkdir(exist_ok=True)
    own.transcripts.chmod(0o775)
    for command in ("serve", "check"):
        done = own.cli(command, check=False)
        assert done.returncode == 1
        assert f"{own.transcripts} can be written by group id" in done.stderr
        assert f"bastion: hint: chmod -R go-w {own.transcripts}" in done.stderr
    subprocess.run(["chmod", "-R", "go-w", str(own.transcripts)], check=True)
    own.start()
    assert own.ssh("echo recorded").stdout == b"recorded\n"


def _replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


@pytest.mark.parametrize("tamper", [Path.unlink, _replace], ids=["unlinked", "replaced"])
@pytest.mark.parametrize("name", ["cast.age", "0.wal"])
def test_E8_a_live_sessions_file_that_is_taken_away_ends_it(
    bastion: Bastion, name: str, tamper: Callable[[Path], object]
) -> None:
    """An idle shell ends with 254 and says why; another one goes on."""
    shell, other = bastion.terminal(), bastion.terminal()
    uid = uid_of(shell)
    for each in (shell, other):
        each.expect(PROMPT)
    (path,) = bastion.transcripts.rglob(f"{uid}.{name}")
    tamper(path)
    shell.expect(rb"bastion: error: the record was (removed|replaced) under us")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 254
    other.sendline(b"exit 7")
    other.expect(pexpect.EOF)
    other.close()
    assert other.exitstatus == 7


def test_E8_a_ledger_that_is_taken_away_ends_every_session(own: Bastion) -> None:
    """Sessions end with 254, new ones are refused and readiness says why, until the server is started again."""
    own.start()
    shell = own.terminal()
    shell.expect(PROMPT)
    (own.transcripts / "ledger.jsonl").unlink()
    shell.expect(rb"bastion: error: the ledger was deleted")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 254
    refused = own.ssh("true")
    assert refused.returncode == 254
    assert b"until its restart" in refused.stderr
    ready = subprocess.run(
        ["curl", "-s", "--unix-socket", str(own.folder / "api.sock"), "http://bastion/readyz"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert b"the ledger was deleted" in ready.stdout
    (stopped,) = own.events("recording-stopped")
    assert "the ledger was deleted" in stopped["reason"]
    own.stop()
    own.start()
    assert own.ssh("echo again").stdout == b"again\n"
