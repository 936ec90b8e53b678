"""The script by which a container connects to a host and port, with the first helper that its image has."""

import shlex
from typing import Final

# The environment variables that the script reads.
HOST: Final = "BASTION_DIAL_HOST"
PORT: Final = "BASTION_DIAL_PORT"

# What it says on standard error.
CONNECTED: Final = b"bastion connected\n"
TRYING: Final = b"bastion trying\n"  # nc and socat do not say when they are connected
NOTHING: Final = b"bastion nothing\n"

# A helper that lacks what it needs ends with 97, and the next one is tried. When the other end closes, it ends.
_PYTHON: Final = r"""
import sys
try:
    import _thread, os, socket
except ImportError:
    sys.exit(97)
link, errors = None, []
try:
    for family, kind, protocol, _, address in socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), 0, socket.SOCK_STREAM):
        try:
            link = socket.socket(family, kind, protocol)
            link.settimeout(20)
            link.connect(address)
            break
        except OSError as error:
            link = errors.append(str(error))
except OSError as error:
    sys.exit("cannot resolve: %s" % error)
if link is None:
    sys.exit("; ".join(errors))
link.settimeout(None)
os.write(2, b"bastion connected\n")
def feed():
    try:
        data = os.read(0, 65536)
        while data:
            link.sendall(data)
            data = os.read(0, 65536)
        link.shutdown(socket.SHUT_WR)
    except OSError:
        pass
_thread.start_new_thread(feed, ())
try:
    data = link.recv(65536)
    while data:
        data = data[os.write(1, data):] or link.recv(65536)
except OSError as error:
    os.write(2, str(error).encode())
    os._exit(1)
os._exit(0)
"""

_PERL: Final = r"""
eval { require Socket; Socket->VERSION(1.97); 1 } or exit 97;
my ($error, @found) = Socket::getaddrinfo($ARGV[0], $ARGV[1], {socktype => Socket::SOCK_STREAM()});
if ($error) { print STDERR "cannot resolve: $error\n"; exit 1 }
$SIG{ALRM} = sub { print STDERR "timed out\n"; exit 1 };
alarm 20;
my $link;
for my $one (@found) {
    socket(my $try, $one->{family}, $one->{socktype}, $one->{protocol}) or next;
    if (connect($try, $one->{addr})) { $link = $try; last }
    print STDERR "$!\n";
}
alarm 0;
exit 1 if !$link;
syswrite(STDERR, "bastion connected\n");
sub copy {
    my ($from, $to) = @_;
    while (1) {
        my $size = sysread($from, my $data, 65536);
        return $size if !$size;
        for (my $at = 0; $at < $size;) {
            my $done = syswrite($to, $data, $size - $at, $at);
            return undef if !defined $done;
            $at += $done;
        }
    }
}
my $feeder = fork;
exit 1 if !defined $feeder;
if (!$feeder) { copy(\*STDIN, $link); shutdown($link, 1); exit 0 }
my $ended = copy($link, \*STDOUT);
print STDERR "$!\n" if !defined $ended;
kill 9, $feeder;
exit(defined $ended ? 0 : 1);
"""

_BASH: Final = r"""
exec 3<>"/dev/tcp/$1/$2" || exit 1
echo "bastion connected" >&2
cat <&0 >&3 &
feeder=$!
cat <&3
status=$?
kill "$feeder" 2>/dev/null
exit "$status"
"""

# Host and port come in the environment and stay arguments: no text of a client's is ever read as a script.
SCRIPT: Final = f"""
host=${HOST} port=${PORT}
if command -v python3 >/dev/null 2>&1; then
    python3 -IS -c {shlex.quote(_PYTHON)} "$host" "$port"
    status=$?
    [ $status -eq 97 ] || exit $status
fi
if command -v perl >/dev/null 2>&1; then
    perl -e {shlex.quote(_PERL)} "$host" "$port"
    status=$?
    [ $status -eq 97 ] || exit $status
fi
if command -v nc >/dev/null 2>&1; then
    close=
    case $(nc -h 2>&1 </dev/null) in *-N*[Ss]hutdown*) close=-N ;; esac
    echo "bastion trying" >&2
    exec nc $close "$host" "$port"
fi
if command -v socat >/dev/null 2>&1; then
    case $host in *:*) host="[$host]" ;; esac
    echo "bastion trying" >&2
    exec socat -t 86400 STDIO "TCP:$host:$port,connect-timeout=20"
fi
if command -v bash >/dev/null 2>&1 && command -v cat >/dev/null 2>&1; then
    exec bash -c {shlex.quote(_BASH)} bash "$host" "$port"
fi
echo "bastion nothing" >&2
exit 1
"""
