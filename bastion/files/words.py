"""What the tools and shells of containers say when something fails, in our words."""

from typing import Final, Literal

from bastion.errors import FileFailed

Kind = Literal["no-such-file", "permission-denied", "unsupported", "failure"]

_PUBLIC_LIMIT: Final = 200  # characters of what we do not know
_DETAIL_LIMIT: Final = 1000
_READ: Final = 8192

_SPACE: Final = "make room in the container, or put less"
_RIGHTS: Final = "the container's user may not; `id` there says who it is"

# How a line ends, in lower case. GNU's tools, busybox, dash, bash and ash; the longer of two before the shorter.
_ENDINGS: Final[tuple[tuple[tuple[str, ...], Kind, str, str], ...]] = (
    (
        ("no such file or directory", "no such file", "nonexistent directory", "directory nonexistent"),
        "no-such-file",
        "no such file",
        "",
    ),
    (("permission denied",), "permission-denied", "permission denied", _RIGHTS),
    (("operation not permitted",), "permission-denied", "operation not permitted", _RIGHTS),
    (("read-only file system",), "failure", "the container's file system is read-only", ""),
    (("text file busy",), "permission-denied", "a program that runs; it cannot be written", ""),
    (("no space left on device",), "failure", "no space left in the container", _SPACE),
    (("disk quota exceeded",), "failure", "the container's disk quota is used up", _SPACE),
    (("file too large",), "failure", "more than the container's file system takes in one file", ""),
    (("is a directory",), "failure", "a folder", ""),
    (("not a directory",), "no-such-file", "not a folder", ""),
    (("not a regular file",), "failure", "not a regular file", ""),
    (("directory not empty",), "failure", "the folder is not empty", ""),
    (("file exists", "cannot overwrite existing file"), "failure", "already there", ""),
    (("file name too long", "argument list too long"), "failure", "the name is too long", ""),
    (("too many levels of symbolic links",), "no-such-file", "too many symbolic links, one after another", ""),
    (("too many names",), "failure", "more names in the folder than can be listed", ""),
    (("too many links",), "failure", "too many names for one file", ""),
    (("device or resource busy", "resource busy"), "failure", "in use in the container", ""),
    (("cross-device link",), "failure", "on another file system", "copy it instead"),
    (("invalid argument",), "failure", "not possible for it", ""),
    (("input/output error", "i/o error"), "failure", "the container's disk gives an error", ""),
    (("stale file handle",), "no-such-file", "gone from the container's file server", ""),
    (
        ("operation not supported", "function not implemented", "not found"),
        "unsupported",
        "not possible with the container's tools",
        "",
    ),
)
_UNKNOWN_OPTION: Final = ("unrecognized option", "invalid option", "unknown option", "illegal option", "usage: ")


def failed(text: bytes) -> FileFailed:
    """Return the failure that a tool's words stand for; of several lines the first counts that is known by its end."""
    said = text[:_READ].decode(errors="replace")
    if (failure := known(said)) is not None:
        return failure
    detail = _detail(said)
    if any(word in said.lower() for word in _UNKNOWN_OPTION):
        return FileFailed("not possible with the container's tools", detail=detail, kind="unsupported")
    lines = [line for line in said.splitlines() if line.strip()]
    words = ascii(lines[0].strip()[:_PUBLIC_LIMIT])[1:-1] if lines else "the container's tools say no more than no"
    return FileFailed(words, detail=detail)


def known(said: str) -> FileFailed | None:
    """Return the failure that the first line with an end we know stands for; None when there is none."""
    for line in said.splitlines():
        heard = line.lower().rstrip(" .")
        for endings, kind, words, hint in _ENDINGS:
            if heard.endswith(endings):
                return FileFailed(words, hint, detail=_detail(said), kind=kind)
    return None


def _detail(said: str) -> str:
    return ascii(said.strip()[:_DETAIL_LIMIT])[1:-1]
