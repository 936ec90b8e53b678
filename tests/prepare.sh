#!/bin/sh
# Make sure that what the tests need is on this machine: install it on Debian and Ubuntu as root, elsewhere name it.
set -eu

# One line for each need: a program that proves it is there, and the package that brings it.
needs='
dockerd docker.io
docker docker-cli
iptables iptables
age age
jq jq
busybox busybox-static
debootstrap debootstrap
ssh openssh-client
sftp openssh-client
sshd openssh-server
rsync rsync
sshfs sshfs
rclone rclone
zstd zstd
ip iproute2
ps procps
socat socat
git git
faketime faketime
postgres postgresql
'

PATH="$PATH:/usr/sbin:/sbin:$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')"
here() {
    command -v "$1" >/dev/null 2>&1 || return 1
    [ "$1" != busybox ] || ! ldd "$(command -v busybox)" >/dev/null 2>&1 # a dynamic one cannot run alone in an image
}

missing=$(echo "$needs" | while read -r program package; do
    [ -z "$program" ] || here "$program" || echo "$package"
done | sort -u | tr '\n' ' ')
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "prepare: missing here: $missing" >&2
    echo "prepare: the tests that need them will be skipped by name; on Debian or Ubuntu run this as root" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # the tests start an engine of their own: start none of the machine's
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP # or the shell ends without its EXIT trap, and no service starts here again
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
echo "prepare: installing $missing" >&2
apt-get update -qq >&2 || echo "prepare: apt-get update failed; trying with the lists that are here" >&2
echo "$needs" | while read -r program package; do
    # asked again each time: docker.io brings the docker command itself up to Debian 12, docker-cli does since 13
    if [ -z "$program" ] || here "$program"; then continue; fi
    if ! words=$(apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$package" </dev/null 2>&1); then
        echo "prepare: could not install $package: $(echo "$words" | tail -n 1)" >&2
    fi
done
