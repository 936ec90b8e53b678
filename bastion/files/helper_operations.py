"""What the helper shell in a container can do: a function of its script for each operation, in POSIX sh.

$a to $e are the words of the command, $value its path, or $first and $second when it has two. A function prints the
answer, or fails with the words for it in $text. `at` makes $p of $value, for the tools.
"""

from typing import Final

AT_ONCE: Final = 400  # names that one stat is asked for: with the longest ones they are still less than 128 KiB
MOST_NAMES: Final = 200_000
SERVERS: Final = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/sftp-server",
)

_TEXT: Final = r"""
do_start() {
    printf '\n%s <\n' "$token"
    if [ "$a" = server ] && [ -z "$root" ]; then
        for server in SERVERS; do
            [ -f "$server" ] && [ -x "$server" ] || continue
            printf 'server\0%s\0\n%s 0\n' "$server" "$token"
            exec "$server"
        done
    fi
    strict=${b#-}
    exec 9>&1 2>/dev/null
    case $(stat -c %f:%s / 2>&1) in 4???:*) ;; *) refuse 'stat with -c'; return ;; esac
    case $(printf abcd | { dd bs=3 count=1 iflag=fullblock 2>&1 >/dev/null; dd bs=1 count=1 2>/dev/null; }) in
    "1+0 records in$nl"*d) ;;
    *) refuse 'dd with iflag=fullblock'; return ;;
    esac
    tools=
    for tool in readlink ln chmod chown touch scp rsync; do
        command -v "$tool" >/dev/null && tools="$tools $tool"
    done
    cd -P .
    home=$PWD
    [ -z "$root" ] || home=/
    printf '%s\0' shell "$(umask)" "$tools" "$root" "$home"
}

do_real() {
    if [ -z "$root" ]; then
        cd -P -- "$value" && { printf %s "$PWD"; return; }
        base=${value##*/}
        folder=${value%/*}
        if [ -n "$base" ] && [ "$base" != .. ] && cd -P -- "${folder:-/}" && [ ! -L "./$base" ]; then
            printf %s "${PWD%/}/$base"
            return
        fi
    fi
    walk "$value" 1 && printf %s "$real"
}

do_stat() {
    at "$a" && text=$(stat -c %f:%s:%u:%g:%X:%Y:%h $deref -- "$p" 2>&1 </dev/null) && printf %s "$text"
}

chunk() {
    printf '%s\0' "$@"
    printf '\0'
    stat -c %f:%s:%u:%g:%X:%Y:%h:%U:%G:%n -- "$@" 2>/dev/null </dev/null
    printf '\n%s +\n' "$token"
}

do_list() {
    if [ -n "$strict" ]; then
        enter "$value" || return
    else
        at 1 || return
        cd -P -- "$p" || { why "$p/."; return 1; }
    fi
    [ -r . ] || { refuse; return; }
    if [ -z "$words" ]; then
        count=1
        while [ $count -le AT_ONCE ]; do words="$words \"\${$count}\"" count=$((count + 1)); done
    fi
    set +f
    set -- . .. .[!.]* ..?* *
    set -f
    [ $# -le MOST_NAMES ] || { refuse 'too many names'; return; }
    while [ $# -gt AT_ONCE ]; do
        eval "chunk $words"
        shift AT_ONCE
    done
    chunk "$@"
}

# $a: descriptor; $b: operator; $c: of create, exclusive, truncate; $d: umask; $e: permissions that it must have then.
do_open() {
    at 1 || return
    new=
    eval "bad$a="
    if [ -e "$p" ]; then
        [ ! -d "$p" ] || { refuse 'Is a directory'; return; }
        [ -f "$p" ] || { refuse 'Not a regular file'; return; }
        case $c in *x*) refuse 'File exists'; return ;; esac
    else
        case $c in *c*) new=1 ;; *) why "$p"; return 1 ;; esac
    fi
    if [ -n "$new" ]; then
        umask "$d"
        case $strict$c in
        *x* | strict*) set -C; redirect "$a" '>' "$p"; status=$?; set +C ;;
        *) redirect "$a" "$b" "$p"; status=$? ;;
        esac
        umask "$own"
    elif [ -n "$strict" ]; then
        redirect "$a" '<' "$p"
        status=$?
    else
        redirect "$a" "$b" "$p"
        status=$?
    fi
    [ $status = 0 ] || return 1
    opened && return
    eval "exec $a<&-"
    return 1
}

opened() {
    if [ -n "$strict" ]; then
        is_meant "$a" || return
        case $new$b in '<' | '1>') ;; *) redirect "$a" "$b" "/proc/self/fd/$a" || return ;; esac
    elif [ "$new$b" = '1<>' ] || [ "$new$b" = '1>>' ]; then
        case $c in *x*) redirect "$a" "$b" "/proc/self/fd/$a" || return ;; esac
    fi
    case $c$b in *t*'<>') run dd count=0 of="/proc/self/fd/$a" || return ;; esac
    [ -z "$new" ] || [ "$e" = - ] || run chmod "$e" "/proc/self/fd/$a"
}

do_close() { eval "exec $a<&-"; }

# $b: the operator that opens it anew, at its beginning, or -; $c: size of a block; $d: blocks to skip; $e: blocks.
do_get() {
    [ "$b" = - ] || redirect "$a" "$b" "/proc/self/fd/$a" || return
    text=$(dd bs="$c" skip="$d" count="$e" iflag=fullblock 2>&1 >&9 <&"$a")
}

# Read $c bytes $1 times that nobody takes: else they would be read as commands. $text has the words of a dd before.
sink() {
    said=$text
    count=$1
    case $said in
    *'+0 records in'*)
        said=${said%%'+0 records in'*}
        count=$((count - ${said##*"$nl"}))
        ;;
    esac
    [ "$count" = 0 ] && return
    case $nl$(dd bs="$c" count="$count" iflag=fullblock 2>&1 >/dev/null) in *"$nl$count+0 records in"*) return ;; esac
    exit 1
}

# $b: as above, or >> to write at the end; $c: size of a block; $d: bytes that are skipped before; $e: blocks that come.
# After a failure nothing more is written there until it is opened anew: what was sent ahead would come elsewhere.
do_put() {
    case $b in
    -) eval "text=\$bad$a" && [ -z "$text" ] ;;
    '>>') (: >>"/proc/self/fd/$a") 2>/dev/null || refuse ;;
    *) redirect "$a" "$b" "/proc/self/fd/$a" ;;
    esac && { [ "$d" = 0 ] || text=$(dd bs=1 seek="$d" count=0 conv=notrunc 2>&1 >&"$a" </dev/null); }
    if [ $? != 0 ]; then
        eval "bad$a=\${text:-x}"
        text=
        sink "$e"
        eval "text=\$bad$a"
        return 1
    fi
    eval "bad$a="
    case $b in
    '>>') text=$(dd bs="$c" count="$e" iflag=fullblock 2>&1 >>"/proc/self/fd/$a") ;;
    *) text=$(dd bs="$c" count="$e" iflag=fullblock 2>&1 >&"$a") ;;
    esac && case $nl$text in *"$nl$e+0 records in"*) return ;; esac
    eval "bad$a=\${text:-x}"
    sink "$e"
    return 1
}

do_sync() { text=$(dd if=/dev/null conv=notrunc,fsync 2>&1 >&"$a"); }

do_truncate() {
    hold || return
    [ ! -d "$p" ] || { refuse 'Is a directory'; return; }
    [ -f "$p" ] || { refuse 'Not a regular file'; return; }
    run dd bs=1 seek="$a" count=0 of="$p"
}

do_chmod() {
    [ "$b" = 1 ] || { at 0 && { [ ! -L "$p" ] || refuse 'Operation not supported'; }; } || return
    hold && run chmod "$a" "$p"
}

do_chown() {
    if [ "$b" = 1 ]; then hold && run chown "$a" "$p"; else at 0 && run chown -h "$a" "$p"; fi
}

do_touch() {
    link=
    if [ "$c" = 1 ]; then
        hold || return
    else
        at 0 || return
        there "$p" || { why "$p"; return 1; }
        link=-h
    fi
    [ "$touch_a" != ? ] || { touch_a= && takes touch -c -a -d @1 /proc/none/none && touch_a=-a; }
    if [ -n "$touch_a" ] && [ "$a" != "$b" ]; then
        run touch -c -a $link -d "@$a" "$p" && run touch -c -m $link -d "@$b" "$p"
    else
        run touch -c $link -d "@$b" "$p"
    fi
}

do_mkdir() {
    at 0 || return
    if [ "$a" = - ]; then run mkdir "$p"; else run mkdir -m "$a" "$p"; fi
}

do_rmdir() { at 0 && run rmdir "$p"; }

do_remove() {
    at 0 || return
    [ -L "$p" ] || [ ! -d "$p" ] || { refuse 'Is a directory'; return; }
    run rm "$p"
}

# Set $o and $p to the two.
both() {
    value=$first
    at 0 || return
    o=$p
    if [ -n "$strict" ]; then
        redirect 8 '<' . || return
        o=/proc/self/fd/8/$base
    fi
    value=$second
    at 0
}

# Without -T a folder would be moved into, and with busybox' -T no link to a folder is replaced.
moved() {
    [ -n "$mv_T" ] || [ ! -d "$p" ] || { refuse 'Is a directory'; return; }
    run mv $how $mv_T "$o" "$p"
}

do_rename() {
    both || return
    how=-f
    if [ "$a" = no ]; then
        how=-n
        ! there "$p" || { refuse 'File exists'; return; }
    fi
    [ "$mv_T" != ? ] || { mv_T= && takes mv -T /proc/none/none /proc/none/other && mv_T=-T; }
    moved || { [ "$a" = yes ] && [ -L "$p" ] && [ -d "$p" ] && there "$o" && run rm "$p" && moved; } || return
    [ "$a" = yes ] || ! there "$o" || refuse 'File exists'
}

linked() {
    ! there "$p" || { refuse 'File exists'; return; }
    [ "$ln_T" != ? ] || { ln_T= && takes ln -s -T /proc/none/none /proc/none/other && ln_T=-T; }
    run ln "$@" $ln_T -- "$o" "$p"
}

do_link() { both && linked; }

do_symlink() {
    o=$first
    value=$second
    at 0 && linked -s
}

do_readlink() {
    at 0 || return
    [ -L "$p" ] || { why "$p" || return; refuse 'Invalid argument'; return; }
    text=$(readlink -n -- "$p" 2>&1 >&9 </dev/null)
}

do_space() {
    at 1 || return
    text=$(stat -f -c %s:%S:%b:%f:%a:%c:%d:%i:%l -- "$p" 2>&1 </dev/null) || return
    printf '%s\n' "$text"
    mounts=/proc/self/mounts
    [ -z "$root" ] || mounts=${root%/root}/mounts
    dd if="$mounts" bs=4096 count=64 iflag=fullblock 2>/dev/null
    :
}

do_exit() { exit 0; }
"""

OPERATIONS: Final = (
    _TEXT.replace("SERVERS", " ".join(SERVERS)).replace("AT_ONCE", str(AT_ONCE)).replace("MOST_NAMES", str(MOST_NAMES))
)
