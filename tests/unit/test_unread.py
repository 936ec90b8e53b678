"""Files that cannot be read, beside those of the keyring, are not taken for files that are gone (threats E1)."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bastion.api.tokens import Tokens
from bastion.app import reloading
from bastion.config import Settings, load, locate
from bastion.errors import ConfigurationError, RuntimeUnreachable
from bastion.keyring import Keyring
from bastion.runtimes.kubernetes.login import log_in
from bastion.sessions.nodes import Node, NodeWatch, is_running, this_process
from bastion.transcripts.signing import Signer, generate_signing_key
from tests.unit.no_descriptors import none_left
from tests.unit.test_keyring_unread import break_file, wait

GRACE_SECONDS = 0.5


@pytest.mark.parametrize("is_new", [False, True])
def test_tokens_that_cannot_be_read_count_for_a_time(tmp_path: Path, *, is_new: bool) -> None:
    """The tokens read last are good for the grace, then none is, until the file can be read again."""
    Keyring(tmp_path).init()
    tokens = Tokens(tmp_path, time.time, grace=GRACE_SECONDS)
    text = Tokens(tmp_path, time.time).issue("first", ["admin"], seconds=3600)
    if not is_new:
        assert tokens.find(text) is not None
    mend = break_file(tokens.path)
    assert (tokens.find(text) is None) is is_new
    assert "input/output error" in tokens.problem
    wait(lambda: tokens.find(text) is None)
    mend()
    assert tokens.find(text) is not None
    assert tokens.problem == ""
    tokens.path.unlink()
    assert tokens.find(text) is None


def test_a_process_that_cannot_be_looked_at_has_not_ended() -> None:
    """Without a descriptor for /proc nothing is known of a node's process, and its sessions stay."""
    process = this_process()
    with subprocess.Popen(["true"]) as child:
        child.wait()
    watch = NodeWatch("here")
    with none_left():
        assert is_running(process) is None
        assert watch.dead([Node("own", "here", process, 7, 0.0)]) == []
    assert is_running(process)
    assert is_running(f"{process.rsplit(' ', 2)[0]} {child.pid} 1") is False


async def test_a_configuration_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that comes while nothing can be opened is taken over afterwards, though the file does not change."""
    monkeypatch.setattr(reloading, "CHECK_SECONDS", 0.05)
    path = tmp_path / "bastion.toml"
    path.write_text("[sessions]\nper_user = 3\n")
    reload = reloading.Reload(path)
    taken: list[Settings] = []
    watching = asyncio.create_task(reload.watch(load(path), taken.append))
    path.write_text("[sessions]\nper_user = 4\n")
    async with asyncio.timeout(10):
        with none_left(), capture_logs() as lines:
            while not any(line["event"] == "configuration not taken over" for line in lines):
                await asyncio.sleep(0.01)
        assert taken == []
        while not taken:
            await asyncio.sleep(0.01)
    assert taken[0].sessions.per_user == 4
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_a_configuration_that_cannot_be_looked_at_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file of the search path counts even when it cannot be read: the next would be another bastion's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASTION_CONFIG", raising=False)
    path = Path("bastion.toml")
    path.symlink_to(path)
    assert locate(None) == path
    with pytest.raises(ConfigurationError, match="symbolic links"):
        load(path)


async def test_a_kubeconfig_that_cannot_be_looked_at_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bastion does not fall back to its pod's own service account, which may do other things."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / ".kube").mkdir()
    config = tmp_path / ".kube" / "config"
    config.symlink_to(config)
    with pytest.raises(RuntimeUnreachable, match="cannot be read"):
        await log_in(None, None)


def test_a_signing_key_that_cannot_be_looked_at_goes_on_signing(tmp_path: Path) -> None:
    """The key in memory signs on; a file that is gone or open to others is a verdict."""
    path = tmp_path / "signing"
    generate_signing_key(path)
    signer = Signer(path)
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(path)
    signer.check()
    with pytest.raises(ConfigurationError, match="no signing key"):
        Signer(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match="no signing key"):
        signer.check()
    aside.rename(path)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to others"):
        signer.check()
