#!/bin/sh
# Brings a bare Debian machine, as root, to where tests/system can run: a Docker engine, Apptainer, what the stand-in base
# image is made with, a C compiler (for the hostile preload), another shell to try entrypoint.sh under, Chromium (which opens
# the report) with the checker of accessibility that looks at it there, and Slurm (scripts/provision-slurm.sh). What is there
# is left alone.
set -eu
cd "$(dirname "$0")/.."

apptainer_root=/opt/apptainer-root
say() { echo "provision: $*" >&2; }
[ "$(id -u)" = 0 ] || { say "run as root: it installs packages and starts the Docker engine"; exit 2; }

packages="docker.io iptables mmdebstrap patchelf gcc libc6-dev busybox-static shellcheck util-linux chromium"
# shellcheck disable=SC2086  # a list of package names
if ! dpkg-query -W $packages >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

if ! docker info >/dev/null 2>&1; then
    say "starting the Docker engine"
    setsid nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    tries=0
    until docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || { tail -n 5 /var/log/dockerd.log >&2; say "the Docker engine did not answer within a minute"; exit 1; }
        sleep 1
    done
fi

# As udev would set it: an ordinary user's Apptainer mounts images through FUSE.
[ ! -c /dev/fuse ] || chmod 666 /dev/fuse

# Debian 12 has no Apptainer, but sid has one: it gets a root of its own, and a wrapper that enters it.
if ! command -v apptainer >/dev/null; then
    say "installing Apptainer into $apptainer_root"
    rm -rf "$apptainer_root"
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=apptainer,ca-certificates,squashfs-tools,squashfuse,fuse2fs,fuse-overlayfs,uidmap sid "$apptainer_root"
    cp /etc/hosts /etc/resolv.conf "$apptainer_root/etc/"
    [ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$apptainer_root/etc/ssl/certs/"
    chroot "$apptainer_root" useradd --uid 1000 --create-home bench
    cat >/usr/local/bin/apptainer <<'WRAPPER'
#!/bin/sh
# Apptainer from its own root (scripts/provision.sh), in a mount namespace of its own, for a host whose Debian has none. As
# root it does not work where CAP_SYS_RESOURCE is missing, so it runs as user 1000: what it reads and writes must be theirs.
# The environment goes through as it is, a preload too.
set -eu
exec unshare --mount --propagation private /bin/sh -eu -c '
    root=$1; folder=$2; shift 2
    mount --bind "$root" "$root"
    for name in /*; do
        case $name in
            /bin | /boot | /etc | /home | /lib* | /lost+found | /opt | /sbin | /usr | /var) continue ;;
        esac
        [ -d "$name" ] && [ ! -L "$name" ] || continue
        mkdir -p "$root$name"
        mount --rbind "$name" "$root$name"
    done
    for name in hosts resolv.conf; do [ ! -f /etc/$name ] || mount --bind /etc/$name "$root/etc/$name"; done
    mkdir -p "$root/.old"
    cd "$root"
    pivot_root . .old
    umount -l /.old
    cd "$folder"
    export HOME=/home/bench
    exec setpriv --reuid=1000 --regid=1000 --clear-groups -- /usr/bin/apptainer "$@"
' apptainer /opt/apptainer-root "$PWD" "$@"
WRAPPER
    chmod 755 /usr/local/bin/apptainer
fi

# axe-core, which looks at the report in Chromium for what bars a reader: its version and its hash are in tests/axe/package-lock.json.
if [ ! -e tests/axe/node_modules/axe-core/axe.min.js ]; then
    command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null
    say "installing axe-core into tests/axe"
    npm ci --prefix tests/axe --no-audit --no-fund --ignore-scripts --silent
fi

[ ! -x scripts/provision-slurm.sh ] || scripts/provision-slurm.sh
