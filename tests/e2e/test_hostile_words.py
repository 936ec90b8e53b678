"""What a peer sends as words acts on no log, no terminal of an operator's, and no auditor's (threats D10)."""

import asyncio
import json
import sys

import asyncssh
import pexpect

from tests.e2e.server import Bastion

HOSTILE = '\n{"event":"forged"}\r\x1b]52;c;ZWNobyBoaQ==\x07\x1b[6n\u202e\x9b6n'
QUERIES = (b"\x1b[6n", b"\x1b[c", b"\x1b]52", b"\x1b]0;", b"\x1bP", b"\x1b_", b"\x9b", b"\xc2\x9b", b"\xe2\x80\xae")


async def test_D10_no_words_of_a_peer_forge_a_log_line(bastion: Bastion) -> None:
    """Command, subsystem, TERM, signal and variables of any characters, and long ones, leave JSON lines that print."""
    start = bastion.log.stat().st_size
    async with asyncssh.connect(
        "127.0.0.1", bastion.port, username="web@mystack", known_hosts=str(bastion.known_hosts), config=None,
        client_keys=[str(bastion.folder / "alice.key")], agent_path=None,
    ) as connection:  # fmt: skip
        environment = {f"LC_A{HOSTILE}": "x", "LC_B": HOSTILE * 1000}
        for command in (f"true {HOSTILE}", f"false {HOSTILE * 4000}"):
            await connection.run(command, env=environment, term_type=f"xterm{HOSTILE}", check=False)
        await connection.run(subsystem=f"sftp{HOSTILE}", encoding=None, check=False)
        async with connection.create_process("sleep 60") as process:
            process.channel.send_signal(f"TERM{HOSTILE}")
            process.channel.send_signal("KILL")
    async with asyncio.timeout(20):
        while bastion.sessions():
            await asyncio.sleep(0.1)
    added = bastion.log.read_bytes()[start:].decode()
    assert added
    for line in added.removesuffix("\n").split("\n"):
        fact = json.loads(line)
        assert fact["event"] != "forged"
        assert line.isprintable()
        assert len(line) < 16_384


def test_D10_playback_and_watching_lists_act_on_no_terminal(bastion: Bastion) -> None:
    """A session that wrote queries, clipboards and titles, beside invalid bytes too, plays without any of them."""
    script = r"printf '\033]52;c;ZWNo\007\033[6n\033[c\033]0;t\007\033P$qm\033\\\033_x\033\\\302\2336n\342\200\256A'"
    bastion.ssh(script + r"; printf '\377\033[6n\377\033]52;c;Y\007\0B\n'; echo Z")
    uid = bastion.last_uid()
    bastion.finished(uid)
    for words in (("play", "--speed", "0"), ("export",)):
        command = ["-m", "bastion", "transcripts", words[0], uid, *words[1:], "--identity", str(bastion.auditor)]
        terminal: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable, [*command, "--config", str(bastion.config)], timeout=30
        )
        output = terminal.read()
        terminal.close()
        assert b"Z" in output
        assert not [query for query in QUERIES if query in output]
