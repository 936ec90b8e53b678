"""Names, key lines, configuration, transcripts and the ledger: only the errors of our own tree come out."""

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bastion.config import load
from bastion.errors import BastionError, ConfigurationError, NoSuchTarget, TranscriptError
from bastion.keyring.authorized_keys import parse as parse_key
from bastion.keyring.options import InvalidLineError
from bastion.model import STDOUT, Data, Exit
from bastion.targets import NAME_LIMIT, parse
from bastion.transcripts import Transcripts, lines, verify
from bastion.transcripts.ledger import FILE as LEDGER
from tests.fuzz.mutation import Mutator
from tests.unit.transcripts.recorded_place import Place, make_place, record

NAMES: Final = (b"web@mystack", b"web.2+app@my-stack", b"a" * 253 + b"@" + b"b" * 60, "wéb@ｘ".encode(), b"", b"web")
GRAMMAR: Final = re.compile(r"[A-Za-z0-9._+@-]{1,320}")
_ED25519: Final = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIHdlpyV9nkvxrr3yNRrEnZh5E7IA6EXW1y5HkMwQ1Zc alice"
KEY_LINES: Final = (
    _ED25519,
    b'restrict,pty,from="192.0.2.0/24,!192.0.2.7",expiry-time="20301231235959Z",stack="my*" ' + _ED25519,
    b'cert-authority,principals="a,b",service="web",permitopen="db:5432" ' + _ED25519,
    b'command="echo \\"hi\\"" ' + _ED25519,
    b"# comment",
)
EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "bastion.toml"
IDS: Final = ("a", "b")


def generate_name(mutator: Mutator) -> bytes:
    """Return a user name."""
    return mutator.sometimes(mutator.random.choice(NAMES), 0.95)


async def check_name(data: bytes) -> None:
    """A name is taken apart or refused; what is taken has the grammar's characters only, and its length."""
    text = data.decode(errors="surrogateescape")
    try:
        parse(text)
    except NoSuchTarget:
        return
    assert GRAMMAR.fullmatch(text), text
    assert len(data) <= NAME_LIMIT, len(data)
    assert text.count("@") <= 1, text


def generate_key_line(mutator: Mutator) -> bytes:
    """Return a line of an authorized_keys file."""
    return mutator.sometimes(mutator.random.choice(KEY_LINES), 0.97).replace(b"\n", b"")


async def check_key_line(data: bytes) -> None:
    """A line is a key, nothing, or invalid."""
    try:
        key = parse_key(data)
    except InvalidLineError:
        return
    assert key is None or key.fingerprint.startswith("SHA256:"), data


def generate_configuration(mutator: Mutator) -> bytes:
    """Return a configuration file."""
    return mutator.mutate(EXAMPLE.read_bytes())


async def check_configuration(data: bytes) -> None:
    """A file is settings, or an error that names what is wrong; in well under a second."""
    with tempfile.TemporaryDirectory(prefix="bastion-fuzz-") as folder:
        path = Path(folder) / "bastion.toml"
        path.write_bytes(data)
        with contextlib.suppress(ConfigurationError):
            load(path)


class Archive:
    """Two finished transcripts with their ledger and signatures."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.whole = {uid: place.read(uid) for uid in IDS}
        self.signed = [
            place.directory / LEDGER,
            *(file for uid in IDS for file in (place.path(uid), place.path(uid).with_name(f"{uid}.sig"))),
        ]

    @contextmanager
    def replaced(self, path: Path, content: bytes) -> Iterator[bytes]:
        """Have other content in a file for as long as the context lasts; give what was there."""
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            yield before
        finally:
            path.write_bytes(before)

    def verdicts_are_sound(self) -> bool:
        """Whether verify finds nothing wrong."""
        return all(finding.is_sound for finding in verify(self.place.directory, self.place.public_key))


async def make_archive(folder: Path) -> Archive:
    """Record two sessions."""
    place = make_place(folder)
    transcripts = Transcripts(place.directory, place.recipients(), place.signing_key, node="n1")
    await transcripts.start()
    for uid in IDS:
        await record(transcripts, *(Data(STDOUT, b"line %d\r\n" % n) for n in range(50)), Exit(0), uid=uid)
    await transcripts.close()
    return Archive(place)


class ArchiveTargets:
    """Cases over an archive; the first byte of a case chooses the file, the rest is its content or its change."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def generate_content(self, mutator: Mutator) -> bytes:
        """Return a file of the archive, changed."""
        number = mutator.random.randrange(len(self._archive.signed))
        return bytes([number]) + mutator.mutate(self._archive.signed[number].read_bytes())

    async def check_content(self, data: bytes) -> None:
        """Verifying and reading end with findings, lines that were recorded, or an error of ours."""
        await asyncio.to_thread(self._check_content, data)

    def _check_content(self, data: bytes) -> None:
        path = self._archive.signed[data[0] % len(self._archive.signed)]
        with self._archive.replaced(path, data[1:]):
            with contextlib.suppress(TranscriptError, ConfigurationError):
                verify(self._archive.place.directory, self._archive.place.public_key)
            for uid in IDS:
                self._read(uid)

    def _read(self, uid: str) -> None:
        given: list[str] = []
        with contextlib.suppress(BastionError):  # list.extend keeps what came before an error
            given.extend(lines(self._archive.place.directory, uid, self._archive.place.identity))
        whole = self._archive.whole[uid]
        assert given == whole[: len(given)], f"{uid}: lines that nobody recorded"

    def generate_change(self, mutator: Mutator) -> bytes:
        """Return one changed byte: file, place (4 bytes), difference."""
        number = mutator.random.randrange(len(self._archive.signed))
        place = mutator.random.randrange(self._archive.signed[number].stat().st_size)
        return bytes([number]) + place.to_bytes(4, "big") + bytes([mutator.random.randint(1, 255)])

    async def check_change(self, data: bytes) -> None:
        """One changed byte anywhere is named by verify (H5)."""
        path = self._archive.signed[data[0] % len(self._archive.signed)]
        content = bytearray(path.read_bytes())
        place = int.from_bytes(data[1:5], "big") % len(content)
        content[place] ^= data[5] or 1
        with self._archive.replaced(path, bytes(content)):
            try:
                sound = await asyncio.to_thread(self._archive.verdicts_are_sound)
            except BastionError:
                return
        assert not sound, f"{path.name}: byte {place} changed by {data[5]:#04x} is not noticed"
