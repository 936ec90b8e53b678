"""The age v1 file format: a header that wraps the file key, and a payload of 64 KiB chunks (C2SP age)."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bastion.errors import TranscriptError
from bastion.transcripts.wrapping import FILE_KEY, Identity, Recipient, Stanza, derive, from_unpadded, unpadded

CHUNK: Final = 64 * 1024
_TAG: Final = 16
_NONCE: Final = 16
_VERSION: Final = b"age-encryption.org/v1\n"
_COLUMNS: Final = 64
_LARGEST_HEADER: Final = 256 * 1024
_LONGEST_LINE: Final = 2048
_ARGUMENTS: Final = re.compile(rb"-> [!-~]+(?: [!-~]+)*\n")
_ALTERED: Final = "it was altered, or is no age file"


class Unfinished(TranscriptError):
    """Every chunk there was good, and then the file ends without the last one."""


class Encryptor:
    """Encrypts one payload to recipients, chunk by chunk; holds less than one chunk between calls.

    `header` is the header and the payload's nonce: write it first. `emitted` counts the plaintext bytes in
    the chunks handed out so far. The file key is dropped at once.
    """

    __slots__ = ("_aead", "_counter", "_pending", "emitted", "header")

    def __init__(self, recipients: Sequence[Recipient]) -> None:
        file_key, nonce = os.urandom(FILE_KEY), os.urandom(_NONCE)
        self.header = _seal_header(file_key, recipients) + nonce
        self._aead = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
        self._counter = 0
        self._pending = b""
        self.emitted = 0

    @property
    def taken(self) -> int:
        """Plaintext bytes taken in so far."""
        return self.emitted + len(self._pending)

    def push(self, plaintext: bytes) -> bytes:
        """Take plaintext in; return the chunks that are complete.

        A chunk is complete when a byte is known to follow it: the last one carries a flag and is never empty.
        """
        held = self._pending + plaintext
        chunks = []
        start = 0
        while len(held) - start > CHUNK:
            chunks.append(self._seal(held[start : start + CHUNK], last=False))
            start += CHUNK
        self._pending = held[start:]
        self.emitted += start
        return b"".join(chunks)

    def finish(self) -> bytes:
        """Return the last chunk."""
        chunk = self._seal(self._pending, last=True)
        self.emitted += len(self._pending)
        self._pending = b""
        return chunk

    def _seal(self, plaintext: bytes, *, last: bool) -> bytes:
        nonce = _chunk_nonce(self._counter, last=last)
        self._counter += 1
        return self._aead.encrypt(nonce, plaintext, None)


def encrypt(plaintext: bytes, recipients: Sequence[Recipient]) -> bytes:
    """Return one whole age file."""
    encryptor = Encryptor(recipients)
    return encryptor.header + encryptor.push(plaintext) + encryptor.finish()


def decrypt(file: BinaryIO, identities: Sequence[Identity]) -> Iterator[bytes]:
    """Give the payload, at most 64 KiB at a time; what is given has been authenticated.

    Raises:
        Unfinished: the file ends before its last chunk; everything before it has been given.
        TranscriptError: the header or a chunk is malformed or altered, or none of the identities opens it.
    """
    file_key = _open_header(file, identities)
    nonce = file.read(_NONCE)
    if len(nonce) < _NONCE:
        raise Unfinished("the age file ends before its payload", "it was cut short")
    aead = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    counter, held = 0, file.read(CHUNK + _TAG)
    while True:
        following = file.read(CHUNK + _TAG)
        plaintext = _open_chunk(aead, counter, held, last=not following)
        if plaintext is None and not following:
            if len(held) == CHUNK + _TAG and (whole := _open_chunk(aead, counter, held, last=False)) is not None:
                yield whole
            raise Unfinished("the age file ends before its last chunk", "it was cut short")
        if plaintext is None:
            raise TranscriptError(f"chunk {counter} of the age file does not authenticate", "it was altered")
        if not following and not plaintext and counter:
            raise TranscriptError("the age file ends with an empty chunk", "it was altered")
        yield plaintext
        if not following:
            return
        counter, held = counter + 1, following


def has_payload(file: BinaryIO) -> bool:
    """Tell whether anything follows the header and the payload's nonce.

    Raises:
        TranscriptError: the header is malformed.
    """
    try:
        _parse_header(file)
    except Unfinished:
        return False
    return len(file.read(_NONCE + 1)) > _NONCE


def _open_chunk(aead: ChaCha20Poly1305, counter: int, chunk: bytes, *, last: bool) -> bytes | None:
    try:
        return aead.decrypt(_chunk_nonce(counter, last=last), chunk, None)
    except InvalidTag:
        return None


def _chunk_nonce(counter: int, *, last: bool) -> bytes:
    return counter.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _seal_header(file_key: bytes, recipients: Sequence[Recipient]) -> bytes:
    header = _VERSION + b"".join(_stanza_text(recipient.wrap(file_key)) for recipient in recipients) + b"---"
    return header + b" " + unpadded(_header_mac(file_key, header)).encode() + b"\n"


def _stanza_text(stanza: Stanza) -> bytes:
    body = unpadded(stanza.body)
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
    return "\n".join(["-> " + " ".join(stanza.arguments), *lines, ""]).encode()


def _header_mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), header, hashlib.sha256)


def _open_header(file: BinaryIO, identities: Sequence[Identity]) -> bytes:
    stanzas, authenticated, mac = _parse_header(file)
    for stanza in stanzas:
        for identity in identities:
            file_key = identity.unwrap(stanza)
            if file_key is None:
                continue
            if not hmac.compare_digest(_header_mac(file_key, authenticated), mac):
                raise TranscriptError("the age header does not authenticate", _ALTERED)
            return file_key
    raise TranscriptError(
        "this identity cannot open the transcript", "use the private key of an auditor it was encrypted to"
    )


def _parse_header(file: BinaryIO) -> tuple[list[Stanza], bytes, bytes]:
    lines = [_line(file)]
    if lines[0] != _VERSION:
        raise TranscriptError("this is no age v1 file", _ALTERED)
    stanzas: list[Stanza] = []
    size = 0
    while (line := _line(file)).startswith(b"-> "):
        body = b""
        lines.append(line)
        while True:
            part = _line(file)
            lines.append(part)
            body += part[:-1]
            size += len(part)
            if len(part) != _COLUMNS + 1 or size > _LARGEST_HEADER:
                break
        if _ARGUMENTS.fullmatch(line) is None or len(part) > _COLUMNS or size > _LARGEST_HEADER:
            raise TranscriptError("the age header is malformed", _ALTERED)
        stanzas.append(Stanza(tuple(line[3:-1].decode().split(" ")), _base64(body)))
        size += len(line)
    if not stanzas or not line.startswith(b"--- "):
        raise TranscriptError("the age header is malformed", _ALTERED)
    return stanzas, b"".join(lines) + b"---", _base64(line[4:-1])


def _line(file: BinaryIO) -> bytes:
    line = file.readline(_LONGEST_LINE)
    if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        raise Unfinished("the age file ends in its header", "it was cut short")
    if not line.endswith(b"\n"):
        raise TranscriptError("the age header is malformed", _ALTERED)
    return line


def _base64(text: bytes) -> bytes:
    try:
        return from_unpadded(text.decode("ascii"))
    except ValueError as error:
        raise TranscriptError("the age header is malformed", _ALTERED) from error
