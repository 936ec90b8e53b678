"""Changes to asyncssh's internals: each with the version it was written for, its reason, and the test that pins it."""

from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.packet import SSHPacket, String

MSG_USERAUTH_REQUEST: Final = 50  # RFC 4252 §5
MAX_NAME_BYTES: Final = 320  # of a user name that can be one here: design.md §4
NO_NAME: Final = b"?"  # fits no grammar of names, and every one of SASLprep


def answer_all_names_alike(connection: asyncssh.SSHServerConnection, note_name: Callable[[bytes], None]) -> None:
    """Have a request to log in under a name that cannot be one here answered as one under a stranger's name.

    asyncssh 2.24.1 disconnects with "Prohibited character", "Unassigned character" or "Username too long" where
    SASLprep (RFC 4013) refuses a name, and lets in the name's NFKC form where it does not. Names here are ASCII: a
    name with anything else in it, or too long, is replaced before asyncssh reads it. `note_name` is called with each
    name as it was sent. Pinned by tests/unit/ssh/test_refused_logins.py::test_A8_names_….
    """
    handlers: dict[int, Callable[..., Any]] = dict(connection._packet_handlers)  # noqa: SLF001 - no public name
    process = handlers[MSG_USERAUTH_REQUEST]

    def process_request(owner: object, packet_type: int, packet_id: int, packet: SSHPacket) -> object:
        name = packet.get_string()
        note_name(name)
        head = bytes([MSG_USERAUTH_REQUEST]) + String(name if _can_be_a_name(name) else NO_NAME)
        replaced = SSHPacket(head + packet.get_remaining_payload())
        replaced.get_byte()
        return process(owner, packet_type, packet_id, replaced)

    handlers[MSG_USERAUTH_REQUEST] = process_request
    connection._packet_handlers = handlers  # noqa: SLF001


def _can_be_a_name(name: bytes) -> bool:
    return len(name) <= MAX_NAME_BYTES and name.isascii() and name.decode("ascii").isprintable()
