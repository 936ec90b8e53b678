"""A command reaches the container's shell byte for byte, or is refused in words (threats C3)."""

import json
import os
import subprocess
from base64 import b64decode

import asyncssh
import pytest

from tests.e2e.server import Bastion

LONG = 128 * 1024 - 1  # the most bytes that Linux takes as one argument
SHOW = b"cat /proc/$$/cmdline; : '"  # a command that prints its shell's own arguments
EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte != ord("'"))
PAYLOADS = {
    "every byte": EVERY_BYTE,
    "newlines at the end": b"\xe9' \n\n: '\xe9",
    "shell words": b"$HOME `id` $(id) ; & | \\ %s %d \\n \x81\x88\xe3",
    "cut-off characters": b"\xe2\x9c|\xc3|\xf0\x9f\x98|\xed\xa0\x80|\xc0\xaf",
}


@pytest.mark.everywhere
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_C3_a_command_of_any_bytes_arrives_whole(bastion: Bastion, service: str, payload: bytes) -> None:
    """Bytes that are not UTF-8, quotes, newlines and substitutions are the shell's one argument behind -c."""
    command = SHOW + payload + b"'\n\n"
    done = bastion.ssh(os.fsdecode(command), name=f"{service}@mystack")
    assert (done.returncode, done.stderr) == (0, b"")
    _, _, rest = done.stdout.partition(b"\0-c\0")
    assert rest == command + b"\0"


@pytest.mark.parametrize("filler", [b"x", b"\xe9"])
async def test_C3_the_longest_command_arrives_whole(bastion: Bastion, filler: bytes) -> None:
    """128 KiB less a byte, the most that Linux takes as one argument, arrive; one more, or a NUL, is refused."""
    command = SHOW + filler * (LONG - len(SHOW) - 1) + b"'"
    async with asyncssh.connect(
        "127.0.0.1", bastion.port, username="web@mystack", known_hosts=str(bastion.known_hosts), config=None,
        client_keys=[str(bastion.folder / "alice.key")], agent_path=None,
    ) as connection:  # fmt: skip
        done = await connection.run(command, encoding=None)
        assert bytes(done.stdout or b"").partition(b"\0-c\0")[2] == command + b"\0"  # type: ignore[arg-type]
        for refused in (command + b" ", b"echo a\0b\xff"):
            done = await connection.run(refused, encoding=None)
            assert (done.exit_status, done.stdout) == (255, b"")
            words = bytes(done.stderr or b"")  # type: ignore[arg-type]
            assert b"bastion: error: the command has " in words
            assert b"(session " in words


def test_C3_a_subsystem_and_a_term_of_any_bytes_are_answered_in_words(bastion: Bastion) -> None:
    """What asyncssh itself would refuse without a word, or end the connection for, gets an answer."""
    done = bastion.ssh("-s", os.fsdecode(b"sft\xe9p"))
    assert done.returncode == 252
    assert b"bastion: error: that subsystem is not served (session " in done.stderr
    environment = {**os.environb, b"TERM": b"xterm-\xe9"}
    command = bastion.command("echo $TERM", options=["-tt"])
    ran = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert ran.stdout.strip() == b"dumb"


def test_C3_a_command_that_is_not_utf_8_is_on_record(bastion: Bastion) -> None:
    """The transcript has it exactly and as text; the log, the list of sessions and the database stay readable."""
    command = b"printf '\xe9\xff' | od -An -tx1; exit 5"
    done = bastion.ssh(os.fsdecode(command))
    assert (done.stdout.split(), done.returncode) == ([b"e9", b"ff"], 5)
    uid = bastion.last_uid()
    header = bastion.read(uid)[0]
    text = command.decode(errors="replace")
    assert b64decode(header["bastion"]["command_base64"]) == command
    assert (header["command"], header["bastion"]["command"]) == (text, text)
    listed = json.loads(bastion.cli("sessions", "list", "--ended", "--json").stdout)["sessions"]
    assert next(session for session in listed if session["uid"] == uid)["command"] == text
    assert uid in bastion.cli("transcripts", "show", uid, "--identity", str(bastion.auditor)).stdout
    assert not bastion.events("internal error")
