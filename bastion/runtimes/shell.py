"""Assemble every shell command line there is: the user's own, and the scripts that signal and end what it started."""

import re
import string
from collections.abc import Iterable, Mapping
from typing import Final

from bastion.errors import RuntimeFailed
from bastion.model import Request

MARKER: Final = "BASTION_SESSION"
ROOT: Final = "BASTION_ROOT"  # in a toolbox, where its target's files are; else empty, whatever the image or client set
MAX_ARGUMENT: Final = 128 * 1024 - 1  # bytes in one argv element: Linux's MAX_ARG_STRLEN less its closing NUL

SIGNALS: Final = frozenset(
    {"ABRT", "ALRM", "CONT", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "STOP", "TERM", "TSTP"}
    | {"USR1", "USR2", "WINCH"}
)

PROBE: Final = ("sh", "-c", "command -v bash >/dev/null 2>&1 && echo bash || echo sh")

# Rebuild a command that is not UTF-8, which no engine's API takes, from printf formats in ASCII, and become the shell
# that runs it. The dot keeps trailing newlines, and is part of no other character in any locale (POSIX, XBD 6.1).
_REBUILD: Final = r"""
command=$(for part do printf "$part" || exit; done; printf .) || {
    echo "bastion: error: the shell of this container has no printf to rebuild a command that is not UTF-8 with" >&2
    exit 255
}
exec "$0" -c "${command%.}"
"""
_PLAIN: Final = frozenset(string.ascii_letters.encode() + b" ./_")
_OCTAL_BYTES: Final = MAX_ARGUMENT // 4  # bytes of a command that are one argument in octal escapes

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BOURNE: Final = frozenset({"ash", "bash", "dash", "sh"})

TICK: Final = 0.1  # seconds between two lines on the ending script's standard input

# Every pid whose environment holds the marker, printed one a line. The scripts use builtins alone where an image has no
# grep, or one that reads a file up to its first NUL only, and are paced by lines on standard input because it may have
# no sleep; at its end they no longer wait.
_MARKED: Final = r"""
marker="BASTION_SESSION=$1"
by_grep=$(printf 'x\0y\0' | grep -czx y 2>/dev/null) || by_grep=
marked() {
    if [ "$by_grep" = 1 ]; then
        grep -lszxF -e "$marker" /proc/[0-9]*/environ
        return
    fi
    for environ in /proc/[0-9]*/environ; do
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in *"$marker"*) echo "$environ"; break ;; esac
        done 2>/dev/null <"$environ"
    done
}
stat() {
    text=
    while IFS= read -r line || [ -n "$line" ]; do text="$text $line"; done 2>/dev/null <"$1/stat"
    text=${text##*) }
}
"""

# Signal the process group of the program itself: the marked process that has no parent in here. At a terminal it is the
# group in its foreground.
_SIGNAL: Final = (
    _MARKED
    + r"""
for environ in $(marked); do
    stat "${environ%/environ}"
    set -- "$1" "$2" $text
    [ $# -ge 8 ] && [ "$4" -eq 0 ] || continue
    group=$5
    [ "$8" -gt 1 ] && group=$8
    kill -s "$2" -- "-$group" 2>/dev/null || kill -s "$2" "-$group"
done
"""
)

# What belongs to the session: marked processes, their descendants, and the members of their (Unix) sessions, which are
# remembered, because one that has dropped the marker outlives the parent that it was found by. Zombies do not count.
# Linux lets nobody but its own user, and root with SYS_PTRACE, open a process's environment: `others` names the users
# of those that could be the session's, having started since it did (starttime is in ticks of USER_HZ, which is 100).
_ENDING: Final = (
    _MARKED
    + r"""
age=$2
sessions=" "
scan() {
    found=" "
    for environ in $(marked); do
        pid=${environ%/environ}
        pid=${pid#/proc/}
        [ "$pid" -eq 1 ] || found="$found$pid "
    done
    [ "$found$sessions" != "  " ] || { found=; return; }
    table=
    for folder in /proc/[0-9]*; do
        stat "$folder"
        set -- $text
        [ $# -ge 4 ] || continue
        case $1 in [ZX]) case $found in *" ${folder#/proc/} "*)
            found="${found%% ${folder#/proc/} *} ${found#* ${folder#/proc/} }" ;; esac; continue ;; esac
        table="$table ${folder#/proc/}:$2:$4"
    done
    again=yes
    while [ -n "$again" ]; do
        again=
        for entry in $table; do
            pid=${entry%%:*}
            session=${entry##*:}
            parent=${entry#*:}
            parent=${parent%:*}
            [ "$pid" -gt 1 ] && [ "$pid" -ne $$ ] || continue
            case $found in *" $pid "*) ;; *)
                case "$found" in *" $parent "*) ;; *)
                    case $sessions in *" $session "*) ;; *) continue ;; esac ;;
                esac
                found="$found$pid "
                again=yes ;;
            esac
            case $sessions in *" $session "*) ;; *)
                [ "$session" -le 1 ] || { sessions="$sessions$session "; again=yes; } ;;
            esac
        done
    done
    [ "$found" != " " ] || found=
}
denied() {
    for pid in $found; do
        kill -s 0 "$pid" 2>/dev/null && return 1
    done
}
others() {
    read -r uptime rest </proc/uptime
    since=$(( (${uptime%%.*} - age) * 100 ))
    known=" "
    for folder in /proc/[0-9]*; do
        [ "$folder" != /proc/1 ] || continue
        true 2>/dev/null <"$folder/environ" && continue
        stat "$folder"
        set -- $text
        [ $# -ge 20 ] && [ "${20}" -ge "$since" ] || continue
        user= group=
        while read -r key value rest; do
            case $key in Uid:) user=$value ;; Gid:) group=$value ;; esac
        done 2>/dev/null <"$folder/status"
        [ -n "$group" ] || continue
        case $known in *" $user:$group "*) ;; *) known="$known$user:$group "; echo "other:$user:$group" ;; esac
    done
}
finish() {
    others
    echo ended
    exit 0
}
scan
for signal in HUP TERM KILL; do
    [ -n "$found" ] || finish
    denied && break
    kill -s $signal $found 2>/dev/null
    kill -s CONT $found 2>/dev/null
    ticks=0
    while [ $ticks -lt 12 ]; do
        read -r tick || ticks=$((ticks + 4))
        scan
        [ -n "$found" ] || finish
        [ $signal != KILL ] || kill -s KILL $found 2>/dev/null
        ticks=$((ticks + 1))
    done
done
echo $found ended
"""
)

# Say whether the program itself, the marked process that has no parent in here, is over. One whose environment may not
# be read could be it.
_LOOK: Final = (
    _MARKED
    + r"""
alone() {
    stat "$1"
    set -- $text
    [ $# -ge 2 ] && [ "$2" -eq 0 ] || return 1
    case $1 in [ZX]) return 1 ;; esac
}
for environ in $(marked); do
    alone "${environ%/environ}" && { echo running; exit; }
done
for folder in /proc/[0-9]*; do
    [ "$folder" = /proc/1 ] || [ -r "$folder/environ" ] || ! alone "$folder" || { echo running; exit; }
done
echo ended
"""
)

# Become a program with more in its environment, at a terminal of a size, in a folder. `command` keeps a shell alive
# whose own read-only variable is named.
_START: Final = r"""
[ -z "$1" ] || stty rows "$1" cols "$2" 2>/dev/null
[ -z "$3" ] || cd "$3" 2>/dev/null
shift 3
while [ "$1" != -- ]; do
    command export "$1" 2>/dev/null
    shift
done
shift
exec "$@"
"""


def command_line(shell: str, request: Request) -> tuple[str, ...]:
    """Return what to run: the shell alone, or with the user's string, whole, as the one argument after `-c`.

    A command that is not UTF-8 is rebuilt by a script in front of it, since engines take text only: Docker's exec is
    JSON, Kubernetes' container runtimes speak protobuf. The shell's arguments are the same bytes then.

    Raises:
        RuntimeFailed: the command cannot be an argument of a program, or the request is no shell and no command.
    """
    if request.kind == "shell":
        return (shell,)
    command = request.command_bytes
    if request.kind != "exec" or request.command is None or command is None:
        raise RuntimeFailed(f"a {request.kind} request cannot be run in a container", "ask for a shell or a command")
    if b"\0" in command:
        raise RuntimeFailed("the command has a NUL byte", "send such bytes on standard input")
    if len(command) > MAX_ARGUMENT:
        raise RuntimeFailed(
            f"the command has {len(command)} bytes; {MAX_ARGUMENT} is the most",
            "send it on standard input instead of as a command",
        )
    if request.command_text == request.command:
        return (shell, "-c", request.command)
    parts = (command[start : start + _OCTAL_BYTES] for start in range(0, len(command), _OCTAL_BYTES))
    return (for_scripts(shell), "-c", _REBUILD.strip(), shell, *map(_printf_format, parts))


def _printf_format(exact: bytes) -> str:
    """Return the ASCII format by which a shell's printf prints these bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in exact)


def sized(arguments: Iterable[str], columns: int, rows: int) -> tuple[str, ...]:
    """Return the command line that sets the terminal's size and becomes `arguments`.

    An engine before API 1.42 starts a program at a terminal of no size, and a resize comes too late for a quick one.
    """
    words = tuple(arguments)
    script = 'stty rows "$1" cols "$2" 2>/dev/null; shift 2; exec "$@"'
    return (words[0], "-c", script, words[0], str(rows), str(columns), *words)


def started(
    shell: str, request: Request, arguments: Iterable[str], folder: str = "", root: str = ""
) -> tuple[str, ...]:
    """Return the command line by which `shell`, a Bourne shell, becomes `arguments`, for an engine that sets nothing.

    It sets the `environment` of request and root, the terminal's size, and goes to `folder` where it can be entered.
    Variables are arguments, never text of the script; those whose names no shell can set are left out.
    """
    size = request.terminal
    rows, columns = (str(size.rows), str(size.columns)) if size and size.rows > 0 and size.columns > 0 else ("", "")
    variables = environment(request, root)
    pairs = [f"{name}={value}" for name, value in variables.items() if _VARIABLE.fullmatch(name)]
    return (shell, "-c", _START.strip(), shell, rows, columns, folder, *pairs, "--", *arguments)


def environment(request: Request, root: str = "") -> dict[str, str]:
    """Return what the environment has beside the container's own; marker and root are ours whatever the client sent.

    `root` is where the target's files are, seen from the toolbox that the program runs in; "" when it runs in none.
    """
    term = {"TERM": request.terminal.term} if request.terminal else {}
    return {**_clean(request.environment), **_clean(term), MARKER: checked(request.uid), ROOT: root}


def for_scripts(chosen: str) -> str:
    """Return what runs our scripts: the chosen shell, wherever it lies, when it is a Bourne shell, or else `sh`."""
    return chosen if chosen.rpartition("/")[2] in _BOURNE else "sh"


def ending(shell: str, uid: str, age: int) -> tuple[str, ...]:
    """Return the command that ends all that the session `uid`, begun `age` seconds ago, started.

    It sends HUP, then TERM, then KILL. It reads a line from standard input before each look, and does not wait after
    the last. It prints the pids that it could not end; `other:UID:GID` for each user who has processes of that age or
    younger which the script's own may not look into; and `ended` as its last word: a script that does not say so was
    ended itself, by whoever runs in there.
    """
    return (shell, "-c", _ENDING, "bastion", checked(uid), str(age))


def looking(shell: str, uid: str) -> tuple[str, ...]:
    """Return the command that prints `ended` when the program of session `uid` is over, and `running` otherwise."""
    return (shell, "-c", _LOOK, "bastion", checked(uid))


def signalling(shell: str, uid: str, signal: str) -> tuple[str, ...]:
    """Return the command that sends one of `SIGNALS` to the program of session `uid` and its process group."""
    if signal not in SIGNALS:
        raise ValueError(f"no signal we send: {signal!r}")
    return (shell, "-c", _SIGNAL, "bastion", checked(uid), signal)


def checked(uid: str) -> str:
    """Return the session's uid, which goes into scripts as a word, when it is one.

    Raises:
        ValueError: it has other characters than letters, digits, `-` and `_`, or is not 8 to 64 long.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", uid):
        raise ValueError(f"no session's uid: {uid!r}")
    return uid


def _clean(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name and "=" not in name and "\0" not in name + value}
