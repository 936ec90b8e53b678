"""Who can open new transcripts follows keys/auditors and [audit] recipients while the server runs (threats D8)."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.server import Bastion


def _age_key(path: Path) -> str:
    """Make an identity at `path`; return its recipient."""
    subprocess.run(["age-keygen", "-o", str(path)], capture_output=True, check=True)
    return subprocess.run(["age-keygen", "-y", str(path)], capture_output=True, text=True, check=True).stdout.strip()


def _opens(identity: Path, transcript: Path) -> bool:
    done = subprocess.run(["age", "-d", "-i", str(identity), str(transcript)], capture_output=True, check=False)
    return done.returncode == 0


def _until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def _session(bastion: Bastion) -> Path:
    """Run one command; return its finished transcript."""
    assert bastion.ssh("true").returncode == 0
    return bastion.finished(bastion.last_uid())


def _changes(bastion: Bastion) -> list[dict[str, Any]]:
    """Return the ledger's lines about recipients."""
    lines = map(json.loads, (bastion.transcripts / "ledger.jsonl").read_bytes().splitlines())
    return [line for line in lines if line["event"] == "recipients changed"]


def _rotate(bastion: Bastion, recipient: str) -> None:
    """Have one auditor's key alone in the folder, and wait until it counts."""
    (bastion.keys / "auditors" / "auditor.pub").write_text(f"# since today\n{recipient}\n")
    os.kill(bastion.pid, signal.SIGHUP)
    _until(lambda: _changes(bastion)[-1:] != [] and recipient in _changes(bastion)[-1]["added"])


def test_D8_each_epoch_opens_with_its_own_key_only(own: Bastion, tmp_path: Path) -> None:
    """Three rotations at run time: each transcript opens with the key of its opening; a running session keeps its."""
    identities = [own.auditor, *(tmp_path / f"key{number}" for number in range(3))]
    fresh = [_age_key(identity) for identity in identities[1:]]
    own.start()
    transcripts = [_session(own)]
    with subprocess.Popen(own.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"here\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"here\n"
        old = next(path for path in own.transcripts.rglob("*.cast.age") if path != transcripts[0])
        _rotate(own, fresh[0])
        running.stdin.close()
        assert running.wait(20) == 0
    own.finished(own.last_uid())
    transcripts.append(_session(own))
    for recipient in fresh[1:]:
        _rotate(own, recipient)
        transcripts.append(_session(own))
    for epoch, transcript in enumerate(transcripts):
        assert [_opens(identity, transcript) for identity in identities] == [key == epoch for key in range(4)]
    assert [_opens(identity, old) for identity in identities[:2]] == [True, False]
    before = [change["before"] for change in _changes(own)]
    assert before[1:] == [change["after"] for change in _changes(own)][:-1]
    assert own.cli("transcripts", "verify").returncode == 0


def test_D8_an_added_key_counts_without_being_asked_for(own: Bastion, tmp_path: Path) -> None:
    """A key in the folder, or in [audit] recipients, opens what begins a few seconds later; `check` counts it too."""
    own.start()
    late, configured = tmp_path / "late", tmp_path / "configured"
    (own.keys / "auditors" / "late.pub").write_text(_age_key(late) + "\n")
    _until(lambda: len(_changes(own)) == 1)
    text = own.config.read_text().replace("[audit]\n", f'[audit]\nrecipients = ["{_age_key(configured)}"]\n')
    own.config.with_suffix(".new").write_text(text)
    own.config.with_suffix(".new").rename(own.config)
    _until(lambda: len(_changes(own)) == 2)
    transcript = _session(own)
    assert all(_opens(identity, transcript) for identity in (own.auditor, late, configured))
    assert "3 can open transcripts" in own.cli("check", check=False).stdout
    assert own.events("configuration read again")[-1]["at_the_next_start"] == []


def test_D8_what_cannot_be_used_changes_nothing(own: Bastion, tmp_path: Path) -> None:
    """A folder that is gone, empty or open to others, or a file that is no list, leaves the last keys and is logged."""
    own.start()
    folder, aside, other = own.keys / "auditors", tmp_path / "aside", tmp_path / "other"
    recipient = _age_key(other)

    def spoil(file: str, text: str, mode: int = 0o700) -> None:
        (folder / file).write_text(text)
        folder.chmod(mode)

    faults: list[Callable[[], object]] = [
        lambda: spoil("new.pub", other.read_text()),
        lambda: spoil("auditor.pub", recipient[:-5]),
        lambda: spoil("new.pub", recipient, 0o777),
        (folder / "auditor.pub").unlink,
        lambda: folder.rename(tmp_path / "gone"),
    ]
    for number, fault in enumerate(faults, 1):
        shutil.copytree(folder, aside)
        fault()
        os.kill(own.pid, signal.SIGHUP)
        _until(lambda: len(own.events("auditors' keys not taken over")) == number)  # noqa: B023 - called in this round
        assert _opens(own.auditor, _session(own))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    assert not _changes(own)
    _rotate(own, recipient)
    transcript = _session(own)
    assert _opens(other, transcript)
    assert not _opens(own.auditor, transcript)
