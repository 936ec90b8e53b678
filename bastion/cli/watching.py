"""What `bastion sessions watch` shows: the session's output without what would act on the watcher's own terminal."""

from collections.abc import Callable
from typing import Any, Final, TextIO

from bastion.errors import BastionError
from bastion.transcripts.playing import RESTORE, Stripper

_STDERR: Final = 2


class Screen:
    """Shows events of a watched session on `out`; `say` takes the bastion's own lines."""

    def __init__(self, out: TextIO, say: Callable[[str], None]) -> None:
        self._out = out
        self._say = say
        self._strippers = _strippers()
        self._has_terminal = False

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Show one event.

        Raises:
            BastionError: it is no event that a bastion sends.
        """
        try:
            self._show(kind, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BastionError("what the server sends cannot be read", "is it of the same version?") from error

    def restore(self) -> None:
        """Leave the watcher's terminal as it was."""
        if self._has_terminal:
            self._out.write(RESTORE)
            self._out.flush()

    def _show(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "session":
            self._begin(data)
        elif kind == "output":
            self._write(self._strippers[data["stream"]].feed(data["text"]))
        elif kind == "resize":
            self._size(data)
        elif kind == "lost":
            self._strippers = _strippers()  # what was cut may have begun in what is lost
            self._write(f"\r\n… {int(data['frames'])} frames lost …\r\n")
        elif kind == "end":
            self._write("\r\n" if self._has_terminal else "")
            self._say(f"watching has ended: {data['reason']}")

    def _begin(self, data: dict[str, Any]) -> None:
        session = data["session"]
        place = f"{session['service_name']}@{session['stack']}"
        self._say(f"watching {session['user']} in {place} from now on; control-c leaves")
        if data.get("terminal") is not None:
            self._has_terminal = True
            self._size(data["terminal"])

    def _size(self, size: dict[str, Any]) -> None:
        if self._out.isatty():
            self._say(f"the terminal watched has {int(size['columns'])} columns and {int(size['rows'])} rows")

    def _write(self, text: str) -> None:
        if not self._has_terminal:
            text = text.replace("\r\n", "\n")
        self._out.write(text)
        self._out.flush()


def _strippers() -> dict[int, Stripper]:
    return {stream: Stripper() for stream in range(1, _STDERR + 1)}
