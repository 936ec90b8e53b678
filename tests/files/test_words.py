"""What tools and shells say when something fails becomes our words, by how it ends."""

import pytest

from bastion.files import words

MISSING = "no such file"
FULL = "no space left in the container"
READ_ONLY = "the container's file system is read-only"
NO_TOOL = "not possible with the container's tools"
NOTHING = "the container's tools say no more than no"


@pytest.mark.parametrize(
    ("said", "kind", "public"),
    [
        (b"stat: cannot statx '/x': No such file or directory", "no-such-file", MISSING),
        (b"dash: 1: cannot open /x: No such file", "no-such-file", MISSING),
        (b"sh: can't create /x/y: nonexistent directory", "no-such-file", MISSING),
        (b"dash: 1: eval: cannot create /x/y: Directory nonexistent", "no-such-file", MISSING),
        (b"bash: line 1: /x: Permission denied\n", "permission-denied", "permission denied"),
        (b"chmod: changing mode of '/x': Operation not permitted", "permission-denied", "operation not permitted"),
        (b"dd: x: No space left on device\n1+0 records in\n0+0 records out\n", "failure", FULL),
        (b"mkdir: can't create directory '/x': Read-only file system", "failure", READ_ONLY),
        (b"rm: cannot remove 'No such file or directory\n': Is a directory", "no-such-file", MISSING),
        (b"touch: unrecognized option: h\nBusyBox v1.1 multi-call binary.\n", "unsupported", NO_TOOL),
        (b"sh: 1: readlink: not found", "unsupported", NO_TOOL),
        (b"mv: '/x' is\xff the\x1b[31m same", "failure", "mv: '/x' is\\ufffd the\\x1b[31m same"),
        (b"", "failure", NOTHING),
        (b"\n\n", "failure", NOTHING),
    ],
)
def test_words(said: bytes, kind: str, public: str) -> None:
    """The kind and the line are those of the error that was told; what is unknown is shown, escaped."""
    failed = words.failed(said)
    assert (failed.kind, failed.public) == (kind, public)


def test_bounded() -> None:
    """However much is said, one line of it is shown, and little is kept."""
    failed = words.failed(b"x" * 100_000 + b"\n" + b"y" * 100_000)
    assert len(failed.public) <= 200
    assert len(failed.detail) <= 1000
    assert failed.public.isprintable()
