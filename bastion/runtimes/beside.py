"""Find one's way in a toolbox, a container beside one without a shell: whose files are where, and who may open them."""

import re
from typing import Final, NamedTuple

NOWHERE: Final = "/proc/0/root"  # no process has this number: nothing is ever found there
_OPEN: Final = re.compile(rb"/proc/[1-9][0-9]{0,9}/root")
_FIRST_TOLD: Final = re.compile(rb"(bash|sh) ([0-9]{1,10}) ([0-9]{1,10})")
_ACCOUNT_TOLD: Final = re.compile(rb"([0-9]{1,10}) ([0-9]{1,10})")

# Print the root of a process whose control group bears the container's id, if one opens it, else that of pid 1 if that
# is asked for; `closed` when such a process was there, but may not be opened.
_ROOT: Final = r"""
try() { (cd "$1/root/.") 2>/dev/null && echo "$1/root" && exit; closed=yes; }
closed=
for folder in /proc/[0-9]*; do
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in *"$1"*) try "$folder"; break ;; esac
    done 2>/dev/null <"$folder/cgroup"
done
[ -z "$2" ] || [ -n "$closed" ] || try /proc/1
[ -z "$closed" ] || echo closed
"""

# Print which shell there is, and the user and group that pid 1 has.
_FIRST: Final = r"""
while read -r key real rest; do
    case $key in Uid:) user=$real ;; Gid:) group=$real ;; esac
done </proc/1/status
command -v bash >/dev/null 2>&1 && found=bash || found=sh
echo "$found $user $group"
"""

# Print the numbers of a user and a group by the files of pid 1, as an engine reads them: the first line of that name or
# number counts; a number need not be there, and its group is then 0. `closed` when they may not be opened.
_ACCOUNT: Final = r"""
cd /proc/1/root/. 2>/dev/null || { echo closed; exit; }
line() {
    [ ! -f "etc/$1" ] || head -c 1048576 "etc/$1" 2>/dev/null | while IFS=: read -r name secret number group rest; do
        [ "$name" = "$2" ] || [ "$number" = "$2" ] || continue
        echo "$number $group"
        break
    done
}
is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }
found=$(line passwd "$1")
[ -n "$found" ] || ! is_number "$1" || found="$1 0"
if [ -n "$2" ]; then
    group=$(line group "$2")
    group=${group%% *}
    [ -n "$group" ] || ! is_number "$2" || group=$2
    found="${found%% *} $group"
fi
echo "$found"
"""


class Files(NamedTuple):
    """Where a program in a toolbox starts, and where it has its target's files; both are "" outside of one."""

    folder: str = ""
    root: str = ""


class First(NamedTuple):
    """What a toolbox sees first: the shell it has, and the user and group, by number, of its target's first process."""

    shell: str
    user: int
    group: int


def rooting(shell: str, container_id: str, *, is_first: bool) -> tuple[str, ...]:
    """Return the command that prints where, under /proc, the files of another container are; `is_first`: its init is 1.

    It prints `closed` when this container's user may not open them, and nothing when no process of it is to be seen.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{8,128}", container_id):
        raise ValueError(f"no container's id: {container_id!r}")
    return (shell, "-c", _ROOT.strip(), "bastion", container_id, "yes" if is_first else "")


def files(told: bytes) -> Files:
    """Read what `rooting` printed; where the files cannot be had the root is a folder that never is."""
    told = told.strip()
    folder = told.decode() if _OPEN.fullmatch(told) else ""
    return Files(folder, folder or NOWHERE)


def note(container: str, told: bytes) -> str:
    """Say to the user of a toolbox where he is, and where it has the files of its target, or why it has not."""
    where = "but see none of its processes, and so not its files: its node does not share them"
    if told.strip() == b"closed":
        where = "but may not open its files: that takes its own user, or SYS_PTRACE"
    if folder := files(told).folder:
        where = f"and its files are under {folder}"
    return f"{container} has no shell: you are in a toolbox beside it, {where}"


def meeting() -> tuple[str, ...]:
    """Return the command that prints what `first` reads."""
    return ("sh", "-c", _FIRST.strip())


def first(told: bytes) -> First | None:
    """Read what `meeting` printed; None when it is no such thing."""
    found = _FIRST_TOLD.fullmatch(told.strip())
    return First(found[1].decode(), int(found[2]), int(found[3])) if found else None


def naming(user: str) -> tuple[str, ...]:
    """Return the command that prints the numbers of USER or USER:GROUP, by the files of the target."""
    name, _, group = user.partition(":")
    return ("sh", "-c", _ACCOUNT.strip(), "bastion", name, group)


def account(told: bytes) -> str | None:
    """Read what `naming` printed, as USER:GROUP in numbers; None when the target has none of that name."""
    found = _ACCOUNT_TOLD.fullmatch(told.strip())
    return f"{int(found[1])}:{int(found[2])}" if found else None
