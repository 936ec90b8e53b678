"""Grants that name commands, attacked on the running server (threats E3, E4)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.file_clients import scp
from tests.e2e.places import Place
from tests.e2e.server import Bastion
from tests.e2e.test_certificates import Authority, generate

REFUSED = 252
GRANTS = """
[[grants]]
users = ["alice"]
stacks = ["*"]
[[grants]]
users = ["bob"]
stacks = ["mystack"]
allow = ["exec"]
command = ["rsync * * * * * *", "tail -n * /app/log/*", "tar *", "scp -f *"]
"""


@pytest.fixture(scope="module")
def bounded(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """Give a bastion where bob may run a few commands only; the web service has the log that they are about."""
    server = Bastion(tmp_path_factory.mktemp("bounded"), place.sections, grants=GRANTS)
    server.add("bob")
    authority = Authority(server, generate(server.folder / "ca"))
    (server.keys / "ca" / "test.pub").write_text(Path(f"{authority.key}.pub").read_text())
    authority.sign("forced", "-I", "x", "-n", "bob", "-O", "force-command=tail -n 5 /etc/shadow /app/log/web.log")
    server.start()
    made = server.ssh(
        "mkdir -p /app/log/old; echo started >/app/log/web.log; cp /app/log/web.log /app/log/old; rm -f /app/ran"
    )
    assert made.returncode == 0, made.stderr
    yield server
    assert server.stop() == 0


def test_E3_a_long_command_freezes_nobody(bounded: Bastion) -> None:
    """2,000 blanks against a pattern of six wildcards are refused, and another user's command runs meanwhile."""
    attack = subprocess.Popen(
        bounded.command("rsync" + " " * 2000 + ";", user="bob"), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert attack.wait(60) == REFUSED
        assert bounded.ssh("echo in").stdout == b"in\n"
    finally:
        attack.kill()
        attack.wait()


def test_E4_the_command_that_is_meant_runs(bounded: Bastion) -> None:
    """What the pattern was written for runs as before, quoted or not."""
    for command in ("tail -n 5 /app/log/web.log", "tail -n 5 '/app/log/web.log'"):
        done = bounded.ssh(command, user="bob")
        assert (done.returncode, done.stdout) == (0, b"started\n"), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "tail -n 5 /etc/shadow /app/log/web.log",
        "tail -n 5 /app/log/../../etc/shadow",
        "tail -n 5 /app/log/old/web.log",
        "tail -n -v /app/log/web.log",
        "tar cf /dev/null /app/log/web.log --checkpoint=1 --checkpoint-action=exec=/app/log/old/../../x",
        "tar --checkpoint-action=exec=id",
        "scp -f /etc/shadow",
        "tail -n 5 /app/log/web.log\n",
    ],
)
def test_E4_the_command_that_reads_more_is_refused(bounded: Bastion, command: str) -> None:
    """A wildcard stands for no further word, no option and no way up; nothing of the container is shown."""
    done = bounded.ssh(command, user="bob")
    assert done.returncode == REFUSED, done
    assert done.stdout == b""
    assert b"no grant lets bob run that command" in done.stderr
    assert b"you may run: rsync" in done.stderr


def test_E4_no_other_road_leads_round_the_patterns(bounded: Bastion, tmp_path: Path) -> None:
    """A certificate's forced command and both of scp's protocols are judged as what is typed is."""
    forced = bounded.ssh("tail -n 5 /app/log/web.log", user="forced")
    assert (forced.returncode, forced.stdout) == (REFUSED, b"")
    for options in ((), ("-O",)):
        copied = scp(
            bounded, "web@mystack@127.0.0.1:/etc/shadow", str(tmp_path / "shadow"), user="bob", options=options
        )
        assert copied.returncode != 0
        assert not (tmp_path / "shadow").exists()
