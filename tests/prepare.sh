#!/bin/sh
# Make sure that what the tests need is on this machine: install it on Debian and Ubuntu as root, elsewhere name it.
set -eu

# One line for each need: a program that proves it is there, and the package that brings it.
needs='
dockerd docker.io
docker docker-cli
iptables iptables
age age
busybox busybox-static
debootstrap debootstrap
ssh openssh-client
sftp openssh-client
sshd openssh-server
rsync rsync
zstd zstd
ip iproute2
ps procps
git git
'

PATH="$PATH:/usr/sbin:/sbin"
missing=""
while read -r program package; do
    [ -n "$program" ] || continue
    command -v "$program" >/dev/null 2>&1 || missing="$missing $package"
done <<END
$needs
END
if command -v busybox >/dev/null 2>&1 && ldd "$(command -v busybox)" >/dev/null 2>&1; then
    missing="$missing busybox-static" # the dynamic one cannot run alone in an image
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "prepare: missing here:$missing" >&2
    echo "prepare: the tests that need them will be skipped by name; on Debian or Ubuntu run this as root" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # the tests start an engine and an sshd of their own: start none of the machine's
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
echo "prepare: installing$missing" >&2
apt-get update -qq >&2 || echo "prepare: apt-get update failed; trying with the lists that are here" >&2
for package in $missing; do
    # docker-cli is a package of its own since Debian 13; before that docker.io has the command itself
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
        command -v docker >/dev/null 2>&1 ||
        echo "prepare: could not install $package" >&2
done
