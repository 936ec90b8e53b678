"""What is recorded comes back, from stock tools and from ours."""

import asyncio
import hashlib
import json
import os
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from bastion.errors import ConfigurationError, RecordingFailed, SessionEnded, TranscriptError
from bastion.model import STDERR, STDIN, STDOUT, Data, Eof, Exit, Resize, Signal
from bastion.transcripts import generate_identity, list_transcripts, verify
from tests.unit.transcripts.recorded_place import (
    TARGET,
    Opener,
    Place,
    fail_loudly,
    record,
    request,
    run,
    session,
    stream,
)


async def test_age_and_zcat_open_a_finished_transcript(place: Place, opener: Opener) -> None:
    """A finished transcript is an age file of gzip members that stock tools and our reader give alike."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Data(STDOUT, b"hello\r\n"), Resize(100, 30), Signal("INT"), Exit(3), tty=True)
    await transcripts.close()
    header, *events = map(json.loads, place.stock())
    assert place.stock() == place.read()
    assert header["version"] == 3
    assert header["term"] == {"cols": 80, "rows": 24, "type": "xterm"}
    assert header["bastion"]["container_name"] == "mystack-web-1"
    assert header["bastion"]["container_id"] == "c0ffee"
    assert [event[1:] for event in events if event[1] in "orx"] == [["o", "hello\r\n"], ["r", "100x30"], ["x", "3"]]
    assert any(event[2] == "signal INT" for event in events)
    assert [path.name for path in place.path().parent.iterdir() if path.suffix != ".age"] == ["s1.sig"]
    assert [(found.uid, found.state) for found in list_transcripts(place.directory)] == [("s1", "complete")]


async def test_an_ssh_key_opens_what_is_encrypted_to_it(place: Place, opener: Opener) -> None:
    """An auditor's ssh-ed25519 key opens a transcript beside an age key, with age, pyrage and our reader."""
    key = place.root / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    transcripts = opener(recipients=[place.recipient, key.with_suffix(".pub").read_text()])
    await transcripts.start()
    await record(transcripts, Data(STDOUT, b"hello\n"), Exit(0))
    await transcripts.close()
    ours = place.read()
    assert place.stock(identity=key) == ours
    place.identity = key
    assert place.read() == ours
    opened = pyrage.decrypt(place.path().read_bytes(), [pyrage.ssh.Identity.from_buffer(key.read_bytes())])
    assert run("zcat", content=opened).stdout.decode().splitlines() == ours


async def test_a_post_quantum_key_opens_what_is_encrypted_to_it(place: Place, opener: Opener) -> None:
    """A transcript for an age1pq1 key has one ML-KEM stanza and no other, and opens with its identity only."""
    secret, recipient = generate_identity(post_quantum=True)
    transcripts = opener(recipients=[recipient])
    await transcripts.start()
    await record(transcripts, Data(STDOUT, b"hello\n"), Exit(0))
    await transcripts.close()
    assert place.path().read_bytes().split(b"\n")[1].startswith(b"-> mlkem768x25519 ")
    place.identity.write_text(secret)
    assert stream(place.read(), STDOUT) == b"hello\n"


async def test_ssh_keygen_checks_the_signature(place: Place, opener: Opener) -> None:
    """Stock `ssh-keygen -Y verify` says Good, and no longer does when one byte is changed."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Exit(0))
    await transcripts.close()
    path = place.path()
    signers, signature = place.root / "allowed_signers", path.with_name("s1.sig")
    command = (
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        signers,
        "-I",
        "bastion",
        "-n",
        "bastion-transcript",
        "-s",
        signature,
    )
    content = path.read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    assert b"Good" in run(*command, content=content).stdout
    assert run(*command, content=changed, check=False).returncode != 0


async def test_streams_come_back_byte_for_byte(place: Place, opener: Opener) -> None:
    """UTF-8 split across packets, other encodings and binary bytes are kept exactly, stdout and stderr apart."""
    text = "grün ✓ 𝄞\r\n".encode() * 3
    binary = os.urandom(70_000)
    packets = [(STDOUT, bytes([byte])) for byte in text] + [
        (STDERR, b"caf\xe9 "),
        (STDOUT, b"\xc3"),
        (STDERR, b"x\xf0\x9f"),
        (STDOUT, b"A"),
    ]
    packets += [(STDOUT, binary), (STDERR, "né".encode("utf-16")), (STDERR, b"\xff" * 20), (STDERR, b"\0")]
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Data(STDIN, b"script\n"), Eof(), *(Data(*packet) for packet in packets), Exit(0))
    await transcripts.close()
    lines = place.stock()
    for number in (STDOUT, STDERR):
        assert stream(lines, number) == b"".join(payload for of, payload in packets if of == number)
    assert stream(lines, STDIN) == b"script\n"
    assert text.decode() in "".join(json.loads(line)[2] for line in lines[1:] if json.loads(line)[1] == "o")


async def test_a_password_typed_at_a_terminal_is_not_kept(place: Place, opener: Opener) -> None:
    """With a terminal input is not recorded by default, in no form: not even its hash."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Data(STDIN, b"hunter2\r"), Data(STDOUT, b"ok"), Exit(0), tty=True)
    await transcripts.close()
    content = "\n".join(place.stock())
    assert "hunter2" not in content
    assert "stdin: in all 8 bytes, not kept" in content


@pytest.mark.parametrize(
    ("keep", "tty", "kept"), [("all", True, True), ("none", False, False), ("no-tty", False, True)]
)
async def test_input_is_kept_as_configured(place: Place, opener: Opener, *, keep: str, tty: bool, kept: bool) -> None:
    """`[audit] input` decides whether what went in is in the transcript."""
    transcripts = opener(input=keep)
    await transcripts.start()
    await record(transcripts, Data(STDIN, b"canary\n"), Exit(0), tty=tty)
    await transcripts.close()
    assert (stream(place.stock(), STDIN) == b"canary\n") is kept


async def test_a_long_stream_goes_on_as_a_count_and_a_hash(place: Place, opener: Opener) -> None:
    """After the stream limit a marker says so, no more bytes are kept, and the end has the size and SHA-256 of all."""
    transcripts = opener(stream_limit=100_000)
    await transcripts.start()
    await record(transcripts, *(Data(STDOUT, b"abcdefghij" * 3000) for _ in range(5)), Data(STDERR, b"short"), Exit(0))
    await transcripts.close()
    lines = place.stock()
    assert stream(lines, STDOUT) == (b"abcdefghij" * 15000)[:100_000]
    content = "\n".join(lines)
    assert "stdout is over 100000 bytes: from here on only counted" in content
    assert f"in all 150000 bytes, sha256 {hashlib.sha256(b'abcdefghij' * 15000).hexdigest()}" in content
    assert stream(lines, STDERR) == b"short"


async def test_many_members_read_as_one(place: Place, opener: Opener) -> None:
    """A row of more than 256 gzip members over many chunks opens with zcat, and no write-ahead file is left."""
    transcripts = opener(stream_limit=2**30)
    await transcripts.start()
    payload = bytes(range(32, 96)) * 1024
    async with transcripts.open(session(), request(), TARGET, on_failure=fail_loudly) as recorder:
        for number in range(1100):
            await recorder.record(Data(STDOUT, b"%06d" % number + payload))
        await recorder.record(Exit(0))
    await transcripts.close()
    opened = run("age", "-d", "-i", place.identity, place.path()).stdout
    assert opened.count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") > 256
    assert stream(place.stock(), STDOUT) == b"".join(b"%06d" % number + payload for number in range(1100))
    assert not list(place.path().parent.glob("*.wal"))


async def test_an_exception_is_in_the_transcript(place: Place, opener: Opener) -> None:
    """A session that ends by an error has a marker with its public words, and is complete."""
    transcripts = opener()
    await transcripts.start()
    for uid, error in [("a", SessionEnded("ended by bob")), ("b", asyncio.CancelledError()), ("c", KeyError("secret"))]:
        with pytest.raises(type(error)):
            async with transcripts.open(session(uid), request(uid), TARGET, on_failure=fail_loudly):
                raise error
    await transcripts.close()
    assert [json.loads(place.stock(uid)[-1])[1:] for uid in "abc"] == [
        ["m", "ended by bob"],
        ["m", "client disconnected"],
        ["m", "internal error"],
    ]
    assert all(finding.verdict == "good" for finding in verify(place.directory, place.public_key))


async def test_a_command_of_any_characters_is_kept(place: Place, opener: Opener) -> None:
    """Bytes that are not UTF-8, escapes and newlines in a command neither break a line nor get lost."""
    command = "echo \udcff\n\x1b]52;c;x\x07 'ü' \u202e"
    transcripts = opener()
    await transcripts.start()
    async with transcripts.open(
        session(), replace(request(), command=command), TARGET, on_failure=fail_loudly
    ) as recorder:
        await recorder.mark("path \udcff")
    await transcripts.close()
    header = json.loads(place.stock()[0])
    assert header["command"] == header["bastion"]["command"] == command.replace("\udcff", "\ufffd")
    assert b64decode(header["bastion"]["command_base64"]) == os.fsencode(command)


async def test_times_add_up(place: Place, opener: Opener) -> None:
    """Intervals are never negative, and are numbers that any player reads."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, *(Data(STDOUT, b"x") for _ in range(200)), Exit(0))
    await transcripts.close()
    assert all(
        isinstance(interval, (int, float)) and interval >= 0 for interval, _, _ in map(json.loads, place.stock()[1:])
    )


@pytest.mark.parametrize(
    "recipients",
    [[], ["age1zz"], ["age1" + "q" * 58], ["ssh-rsa AAAA"], ["ssh-ed25519 AAAA"], ["ssh-ed25519 %%%"], ["AGE1"]],
)
def test_a_wrong_list_of_recipients_is_no_start(opener: Opener, recipients: list[str]) -> None:
    """No auditor, or one whose key is malformed, is a configuration error with a hint."""
    with pytest.raises(ConfigurationError) as caught:
        opener(recipients=recipients)
    assert caught.value.hint


def test_post_quantum_keys_are_not_mixed(place: Place, opener: Opener) -> None:
    """An age1pq1 key beside a classical one is refused, as the age specification says."""
    with pytest.raises(ConfigurationError, match="age1pq1"):
        opener(recipients=[place.recipient, generate_identity(post_quantum=True)[1]])


def test_a_signing_key_open_to_others_is_no_start(place: Place, opener: Opener) -> None:
    """A signing key that is missing or that others can read is refused with a hint."""
    place.signing_key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others"):
        opener()
    place.signing_key.unlink()
    with pytest.raises(ConfigurationError, match="no signing key"):
        opener()


def test_a_directory_that_cannot_be_written_is_no_start(place: Place, opener: Opener) -> None:
    """A transcript directory that is a file is refused with a hint."""
    place.directory.write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        opener()


async def test_two_servers_do_not_share_a_directory(opener: Opener) -> None:
    """The second server on a directory is refused; after the first is closed it may start."""
    first, second = opener(), opener()
    await first.start()
    with pytest.raises(ConfigurationError, match="another bastion"):
        await second.start()
    await first.close()
    await second.start()
    await second.close()


async def test_a_uid_is_recorded_once(opener: Opener) -> None:
    """A second session under the same uid is refused before anything runs, and the first stays as it is."""
    transcripts = opener()
    await transcripts.start()
    await record(transcripts, Exit(0))
    with pytest.raises(RecordingFailed):
        await record(transcripts, Exit(0))
    with pytest.raises(RecordingFailed):
        await record(transcripts, Exit(0), uid="../x")
    await transcripts.close()


def test_a_transcript_is_not_for_other_identities(place: Place, opener: Opener, tmp_path: Path) -> None:
    """Somebody else's identity opens nothing and says so."""

    async def once() -> None:
        transcripts = opener()
        await transcripts.start()
        await record(transcripts, Exit(0))
        await transcripts.close()

    asyncio.run(once())
    place.identity.write_text(generate_identity()[0])
    with pytest.raises(TranscriptError, match="cannot open"):
        place.read()
