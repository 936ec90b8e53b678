"""One tree of every error, each with its message to the user and its exit status.

BastionError                    255   the bastion failed
├── ConfigurationError            1   a file, a key home or a folder is unusable; nothing was started
├── TranscriptError               1   a transcript exists but cannot be read, or was changed
├── NoSuchTarget                251   no stack, service or container of that name is running
├── Refused                     252   policy says no
├── SessionEnded                253   ended by an administrator, a limit or a timer
│   ├── LimitReached            253   too many sessions at once
│   └── ShuttingDown            253   the bastion is shutting down and opens no session
├── ClientGone                  255   the client disconnected; nobody is left to read the error
├── Malformed                   255   a peer broke the rules of its protocol
├── RecordingFailed             254   the transcript cannot be written; the session does not go on without it
├── FileFailed                    1   a file operation in a container failed; the session goes on
│   └── FileRefused             1   no grant allows the operation on the file
├── DatabaseFailed              255   the sessions' database does not answer
└── RuntimeFailed               255   the engine or the container failed
    ├── RuntimeUnreachable      255   the engine does not answer
    ├── ContainerEnded          255   the container stopped, was removed or is paused
    │   └── ContainerPaused     255   the container is paused; its processes still exist
    ├── ProcessesLeft           255   not every process of a session could be ended
    ├── OtherEngine             255   the container belongs to another engine than the one that was called
    ├── NoShell                 255   the container has no shell to run the request with
    └── ConnectionLost          255   the stream to the container broke before it said how the program ended
"""

from typing import ClassVar, Literal


class BastionError(Exception):
    """Carries the one line the user sees, the next that says what to do, and the exit status.

    `public` and `hint` are shown to whoever asked; `detail` goes to the log only.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 255

    def __init__(self, public: str, hint: str = "", *, detail: str = "") -> None:
        super().__init__(public)
        self.public = public
        self.hint = hint
        self.detail = detail


class ConfigurationError(BastionError):
    """A file, a key home or a folder is not as it must be; nothing was started."""

    code = "configuration"
    exit_status = 1


class TranscriptError(BastionError):
    """A transcript that is there cannot be read, or is not what was written."""

    code = "transcript"
    exit_status = 1


class NoSuchTarget(BastionError):
    """No stack, service or container of that name is running."""

    code = "no-such-target"
    exit_status = 251


class Refused(BastionError):
    """Policy says no."""

    code = "refused"
    exit_status = 252


class SessionEnded(BastionError):
    """An administrator, a limit or a timer ended the session."""

    code = "ended"
    exit_status = 253


class LimitReached(SessionEnded):
    """Too many sessions at once."""

    code = "limit"


class ShuttingDown(SessionEnded):
    """The bastion is shutting down and opens no session."""

    code = "shutting-down"


class ClientGone(BastionError):
    """The client went away; nobody is left to be told."""

    code = "client-gone"


class Malformed(BastionError):
    """What was sent breaks the rules of its protocol; nothing that follows it can be understood."""

    code = "malformed"


class RecordingFailed(BastionError):
    """The transcript cannot be written, and the session does not go on without it."""

    code = "recording"
    exit_status = 254


class FileFailed(BastionError):
    """A file operation in a container failed; the session goes on.

    `kind` is what a protocol without words can say of it.
    """

    code = "file"
    exit_status = 1

    def __init__(
        self,
        public: str,
        hint: str = "",
        *,
        detail: str = "",
        kind: Literal["no-such-file", "permission-denied", "unsupported", "failure"] = "failure",
    ) -> None:
        super().__init__(public, hint, detail=detail)
        self.kind = kind


class FileRefused(FileFailed):
    """No grant is about what was asked of a file; to programs it is the container's own "permission denied"."""

    code = "file-refused"

    def __init__(self) -> None:
        super().__init__("permission denied", "no grant lets you do that there", kind="permission-denied")


class DatabaseFailed(BastionError):
    """The sessions' database does not answer."""

    code = "database"


class RuntimeFailed(BastionError):
    """The engine or the container failed."""

    code = "runtime"


class RuntimeUnreachable(RuntimeFailed):
    """The engine does not answer."""

    code = "unreachable"


class ContainerEnded(RuntimeFailed):
    """The container stopped, was removed or is paused."""

    code = "container-ended"


class ContainerPaused(ContainerEnded):
    """The container is paused; its processes still exist and go on when the container is unpaused."""

    code = "container-paused"


class ProcessesLeft(RuntimeFailed):
    """Not every process of a session could be ended."""

    code = "processes-left"


class OtherEngine(RuntimeFailed):
    """The container belongs to another engine than the one that was called, which therefore does not know it."""

    code = "other-engine"


class NoShell(RuntimeFailed):
    """The container has no shell to run the request with."""

    code = "no-shell"


class ConnectionLost(RuntimeFailed):
    """The stream to the container broke before it said how the program ended."""

    code = "connection-lost"
