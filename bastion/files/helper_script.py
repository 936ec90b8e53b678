"""The script of the helper shell in a container: POSIX sh, for dash, bash and busybox ash, and whatever tools it finds.

It reads commands from its standard input. One is a line `KEY TOKEN OPERATION PATHS A B C D E` and, a line each, as many
paths as PATHS says: as they are, or behind a `%` in the octal escapes of `printf %b`. One that holds no slash at its
beginning is the number of a descriptor, which stands for what is opened there. The answer is what the operation prints,
a newline, and a line `TOKEN 0`; when it failed a line `TOKEN 1`, the words of whoever failed, and a line `TOKEN .`.
`TOKEN +` parts a long answer. KEY proves that a line is a command, and no content that came to be read as one.

Descriptors 3 to 7 hold opened files, for dash knows one digit only; 8 is held for a moment, 9 is standard output.
"""

import re
from typing import Final

from bastion.files.helper_operations import OPERATIONS

END: Final = "#end"
SLOTS: Final = (3, 4, 5, 6, 7)
_PLAIN: Final = re.compile(rb"(?!%)[ -\[\]-~]*")
_SAFE: Final = frozenset(
    b"/._-+,:@=~ " + bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
)

# Short, because in a cluster it travels in the address of a request and comes into its log.
# Of two shells dash is the faster one by far.
# containerd (1.6.20, 2.4-beta) closes an exec's stdin as soon as its stdout or its stderr has no writer any more, and
# the script redirects its stderr: the parent of the subshell holds both open.
# Pinned by tests/files/test_conformance.py over a cluster whose switch `output_end_closes_input` is on.
BOOTSTRAP: Final = f"""b='s=
while IFS= read -r l && [ "$l" != "{END}" ]; do s="$s$l
"; done
(eval "$s"); exit'
[ "$BASH_VERSION" ] && command -v dash >/dev/null 2>&1 && exec dash -c "$b"
eval "$b"
"""

_TEXT: Final = r"""
unset CDPATH POSIXLY_CORRECT
LC_ALL=C
export LC_ALL
IFS=
set -f
nl='
'
root=${BASTION_ROOT:-}
strict= words= mv_T=? ln_T=? touch_a=?

run() { text=$("$@" 2>&1 </dev/null); }
refuse() { text=${1:-Permission denied}; return 1; }
there() { [ -e "$1" ] || [ -L "$1" ]; }
why() { run stat -L -c %f -- "$1"; }

# Say whether a tool takes its options, by what it says of files that are not there.
takes() {
    case $("$@" 2>&1 </dev/null) in '' | *'o such file'* | *'ot a directory'*) ;; *) return 1 ;; esac
}

arg() {
    read -r value || exit 1
    case $value in %*) value=$(printf '%bx' "${value#?}"); value=${value%x} ;; esac
}

# Open descriptor $1 by the operator $2 on the path $3. `command` keeps the shell alive when that fails.
redirect() {
    eval "command exec $1$2\"\$3\"" && return
    text=$( (eval "exec $1$2\"\$3\"") 2>&1)
    return 1
}

# Find the path without symbolic links, as one sees it whose root is $root; the last is followed when $2 is 1.
walk() {
    rest=$1/ real= links=0
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        rest=${rest#*/}
        case $part in '' | .) continue ;; ..) real=${real%/*}; continue ;; esac
        if [ -L "$root$real/$part" ] && { [ "$2" = 1 ] || [ -n "$rest" ]; }; then
            links=$((links + 1))
            [ $links -le 40 ] || { refuse 'Too many levels of symbolic links'; return; }
            target=$(readlink -n -- "$root$real/$part" 2>/dev/null && printf x)
            [ -n "$target" ] || { refuse 'a symbolic link cannot be read'; return; }
            target=${target%x}
            case $target in /*) real= ;; esac
            rest=$target/$rest
        else
            real=$real/$part
        fi
    done
    real=${real:-/}
}

# Go to a folder and, where rights end at folders, make sure that no link swapped in has led elsewhere.
enter() {
    folder=${1:-/}
    cd -P -- "$root$folder" || { why "$root$folder/."; return 1; }
    [ -n "$strict" ] || return 0
    here=$PWD
    [ -z "$root" ] || { here=$(readlink -n /proc/self/cwd && printf x); here=${here%x}; }
    [ "$here" = "$folder" ] || refuse
}

# Say whether descriptor $1 is what was meant.
is_meant() {
    here=$(readlink -n "/proc/self/fd/$1" && printf x)
    [ "$here" = "${folder%/}/${base}x" ] || refuse
}

# Set $p to what tools are given for $value; a last symbolic link is followed when $1 is 1.
at() {
    deref=
    p=$value
    case $value in [!/]*) p=/proc/self/fd/$value deref=-L; return ;; esac
    if [ -n "$strict" ]; then
        base=${value##*/}
        [ "$base" != .. ] || { refuse; return; }
        enter "${value%/*}" || return
        p=./$base
        [ "$1" = 0 ] || [ ! -L "$p" ] || refuse
    elif [ -n "$root" ]; then
        walk "$value" "$1" && p=$root$real
    elif [ "$1" = 1 ]; then
        deref=-L
    fi
}

# Set $p to what is there. Where a last symbolic link could still be swapped in, it is held, and $p is what is held.
hold() {
    at 1 || return
    [ -e "$p" ] || { why "$p"; return 1; }
    case $value in [!/]*) return ;; esac
    [ -n "$strict" ] || return 0
    [ -f "$p" ] || [ -d "$p" ] || { refuse; return; }
    redirect 8 '<' "$p" && is_meant 8 && p=/proc/self/fd/8
}

OPERATIONS
own=$(umask)
while IFS=' ' read -r key token op paths a b c d e; do
    [ "$key" = KEY ] || exit 1
    text=
    case $paths in
    1) arg ;;
    2) arg; first=$value; arg; second=$value ;;
    esac
    if "do_$op"; then
        printf '\n%s 0\n' "$token"
    else
        printf '\n%s 1\n%s\n%s .\n' "$token" "$text" "$token"
    fi
    [ -z "$strict" ] || exec 8<&-
done
"""


def script(key: str) -> bytes:
    """Return what is sent behind the bootstrap: the script without its comments, and its end line."""
    text = _TEXT.replace("KEY", key).replace("OPERATIONS", OPERATIONS)
    lines = (re.sub(r"^\s+(?!')", "", line) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#")).encode() + f"{END}\n".encode()


def written(path: bytes) -> bytes:
    """Return a path as a line: as it is, or in the escapes that `printf %b` takes."""
    if _PLAIN.fullmatch(path):
        return path
    return b"%" + b"".join(bytes((byte,)) if byte in _SAFE else b"\\0%03o" % byte for byte in path)
