#!/bin/sh
# Builds and examines the images; the Makefile's image targets call it.
#
#   images.sh base               the base image: the public one, or a stand-in where no registry answers (it says which)
#   images.sh image              the Docker image $IMAGE (default bench), and what its size is made of
#   images.sh sif                the Apptainer image $SIF (default bench.sif), from the same base; with SIF_FROM=image from the
#                                Docker image, which takes longer: every layer is compressed on the way
#   images.sh sign               signs $SIF with the key of .tools/keys, which is made at the first call, and verifies it; the public half is put
#                                beside it, $SIF.pem. A key file and no PGP key: it asks no key server and no passphrase, and one line verifies
#   images.sh sbom               $SBOM (default sbom.json), CycloneDX: the list of what is installed that lies in the image, /opt/bench/sbom.json.
#                                A file in the image and no object of the SIF: Docker's image has the same one, what is made of it keeps it,
#                                the signature covers it, and its SHA-256 is a label (bench.sbom.sha256)
#   images.sh compare A B        two images (Docker names or SIF files): exit 1 if installed packages or files differ
#   images.sh root PATH          the stand-in base as a folder, or as PATH.tar: a minimal Debian with Python 3.9, in which tests/system tries releases;
#                                SUITE=noble: Ubuntu 24.04
#
# SUITE=bookworm, trixie or sid is the Debian release of all of them (default bookworm); IMAGE and SIF are then bench:trixie and
# bench-trixie.sif, unless they are given. No public image has Python 3.9 on sid: there it is the stand-in, or what BASE_IMAGE names.
# Also from the environment: BASE_IMAGE, TORCH_FLAVOR, TORCH_WHEEL, TORCH2, TORCH2_WHEEL, DOCKER_BUILD_OPTIONS, APPTAINER_TMPDIR.
set -eu
cd "$(dirname "$0")/.."

suite=${SUITE:-bookworm}
case $suite in
    bookworm) image=bench sif=bench.sif ;;
    trixie | sid) image=bench:$suite sif=bench-$suite.sif ;;
    noble) [ "${1:-}" = root ] || { echo "images: SUITE=$suite is for root alone; images are of bookworm, trixie or sid" >&2; exit 2; }
        image="" sif="" ;;
    *) echo "images: SUITE=$suite is not bookworm, trixie or sid; BASE_IMAGE=NAME takes another base image with Python 3.9" >&2; exit 2 ;;
esac
image=${IMAGE:-$image}
sif=${SIF:-$sif}
sbom=${SBOM:-sbom.json}
public_base=$(sed -n "s/^ARG BASE_IMAGE=\(.*\)bookworm$/\1$suite/p" Dockerfile)
stand_in=bench-base:stand-in-$suite
flavor=${TORCH_FLAVOR:-pypi}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' bench/__init__.py)
contents="bench conf entrypoint.sh requirements.lock requirements-mimalloc.lock requirements-torch2.lock scripts/install.sh scripts/packages.sh scripts/clear_execstack.py scripts/sbom.py"
keys=${KEYS:-.tools/keys}

say() { echo "images: $*" >&2; }
fail() { say "$*"; exit 2; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }
has_docker() { docker info >/dev/null 2>&1; }
need_docker() { has_docker || fail "no Docker engine answers; on Debian, scripts/provision.sh installs and starts one"; }

# TORCH2=1 is said with its size before anything is fetched.
tell_torch2() {
    [ "${TORCH2:-0}" = 1 ] || return 0
    if [ -n "${TORCH2_WHEEL:-}" ]; then
        say "with a second Python and PyTorch from $TORCH2_WHEEL: about 0.9 GB more where it is a CPU-only build"
    else
        say "with a second Python and the newest PyTorch: about 5.5 GB more, most of it CUDA libraries that the package index's insists on;" \
            "TORCH2_WHEEL=URL#sha256=DIGEST takes PyTorch's CPU-only build"
    fi
}

# What is built is the work tree, so say when that is not the commit.
revision() {
    commit=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || { echo unknown; return; }
    # shellcheck disable=SC2086  # a list of paths
    [ -z "$(git status --porcelain -- $contents)" ] || commit=$commit-dirty
    echo "$commit"
}

# Where the code is from, for a reader of the image: the origin of this clone, without a name or a password in it.
source_url() {
    url=$(git config --get remote.origin.url 2>/dev/null) || url=""
    case $url in
        https://*) echo "$url" | sed 's|^https://[^/@]*@|https://|' ;;
        git@*:*) echo "$url" | sed 's|^git@\([^:]*\):|https://\1/|' ;;
        *) echo unknown ;;
    esac
}

# Prints the name of a base image that is there: BASE_IMAGE, the public one, or the stand-in.
base() {
    need_docker
    if [ -n "${BASE_IMAGE:-}" ]; then
        echo "$BASE_IMAGE"
    elif has_image "$public_base" || { [ "$suite" != sid ] && timeout 300 docker pull "$public_base" >/dev/null 2>&1; }; then
        echo "$public_base"
    else
        if [ "$suite" = sid ]; then
            say "no public image has Python 3.9 on sid, and BASE_IMAGE names none: using the stand-in base $stand_in, and every record will say so"
        else
            say "no image registry answers for $public_base: using the stand-in base $stand_in, and every record will say so"
        fi
        has_image "$stand_in" || build_stand_in >&2
        echo "$stand_in"
    fi
}

# The tree of a CPython 3.9 that can be copied: the one behind .venv, PYTHON39, or pyenv's newest.
python_tree() {
    for candidate in .venv/bin/python "${PYTHON39:-}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9*/bin/python3.9; do
        tree=$("$candidate" -I -c 'import sys; print(sys.base_prefix if sys.version_info[:2] == (3, 9) else "")' 2>/dev/null) || continue
        case $tree in "" | /usr) continue ;; esac
        echo "$tree"
        return
    done
    return 1
}

# A CPython 3.9 tree on a minimal Debian, laid out as the public image is: for builds and tests, not for publishing.
root() {
    [ $# = 1 ] || fail "root takes the path of a folder, or of a file that ends in .tar"
    for tool in mmdebstrap patchelf; do
        command -v "$tool" >/dev/null || fail "the stand-in base needs $tool; scripts/provision.sh installs it"
    done
    tree=$(python_tree) || fail "the stand-in base needs a CPython 3.9 of its own folder; 'make setup' finds or installs one"
    say "making a root of $suite with the Python of $tree"
    work=$(mktemp -d)
    cat >"$work/hook" <<'HOOK'
#!/bin/sh
# $1 is the new root. Like the public image: no tests, no static library, bytecode left out; pip and setuptools bundled with CPython.
set -eu
tar -C "$TREE" -c --exclude=test --exclude=tests --exclude=__pycache__ --exclude='config-3.9*' --exclude='*.a' \
    --exclude=site-packages --exclude='_tkinter*' --exclude=./share . | tar -C "$1/usr/local" -x --no-same-owner
mkdir -p "$1/usr/local/lib/python3.9/site-packages"
# A run path into the folder it came from would find that folder again where Apptainer mounts the host's home.
for file in "$1"/usr/local/bin/python3.9 "$1"/usr/local/lib/libpython3*.so* "$1"/usr/local/lib/python3.9/lib-dynload/*.so; do
    [ -L "$file" ] || patchelf --remove-rpath "$file"
done
chroot "$1" ldconfig
chroot "$1" /usr/local/bin/python3.9 -B -I -c 'import bz2, ctypes, lzma, readline, sqlite3, ssl, zlib'
chroot "$1" /usr/local/bin/python3.9 -B -I -m ensurepip --default-pip >/dev/null
rm -rf "$1"/tmp/* "$1/root/.cache" "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*
find "$1/usr/local" -name __pycache__ -prune -exec rm -rf {} +
# The package index may answer with a certificate that only this host knows.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$1/etc/pip.conf"
fi
HOOK
    chmod +x "$work/hook"
    set -- "$suite" "$1"
    case $suite in
        noble)
            keyring=${UBUNTU_KEYRING:-/usr/share/keyrings/ubuntu-archive-keyring.gpg}
            [ -f "$keyring" ] || fail "a root of Ubuntu needs its archive's keys, in Debian 13's package ubuntu-keyring; UBUNTU_KEYRING=FILE names them"
            for part in "$suite" "$suite-updates"; do set -- "$@" "deb http://archive.ubuntu.com/ubuntu $part main universe"; done
            set -- --keyring="$keyring" "$@" ;;
    esac
    # Check-Valid-Until: a mirror frozen at some day serves lists that are out of date by their own word. Debian 12's names of the
    # packages do for the later releases too, whose libssl3t64 provides libssl3.
    TREE=$tree mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=apt,ca-certificates,libssl3,libsqlite3-0,libffi8,zlib1g,libbz2-1.0,liblzma5,libreadline8,libncursesw6,libexpat1,libuuid1,netbase,tzdata \
        --customize-hook="$work/hook" "$@" || fail "the root of $suite was not made (the reason is above)"
    rm -rf "$work"
}

build_stand_in() {
    folder=$(mktemp -d)
    root "$folder/root.tar"
    docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' "$folder/root.tar" "$stand_in" >/dev/null
    rm -rf "$folder"
}

image() {
    from=$(base)
    tell_torch2
    # shellcheck disable=SC2086  # a list of options
    docker build ${DOCKER_BUILD_OPTIONS:-} --build-arg "BASE_IMAGE=$from" --build-arg "IMAGE_REVISION=$(revision)" \
        --build-arg "IMAGE_VERSION=$version" --build-arg "TORCH_FLAVOR=$flavor" --build-arg "TORCH_WHEEL=${TORCH_WHEEL:-}" \
        --build-arg "IMAGE_SOURCE=$(source_url)" --build-arg "TORCH2=${TORCH2:-}" --build-arg "TORCH2_WHEEL=${TORCH2_WHEEL:-}" \
        --build-arg PIP_INDEX_URL -t "$image" . >&2
    # A label cannot be computed while an image is built: this adds one to its configuration, and no layer.
    digest=$(inside "$image" 'sha256sum /opt/bench/sbom.json' | cut -d ' ' -f 1)
    echo "FROM $image" | docker build --quiet --label "bench.sbom.sha256=$digest" -t "$image" - >/dev/null
    size
}

# The whole, and what it is made of, in MB.
size() {
    echo "$image on $(label org.opencontainers.image.base.name): $(($(docker image inspect -f '{{.Size}}' "$image") / 1000000)) MB"
    docker run --rm --network none --entrypoint /bin/sh "$image" -c '
        cd /opt/bench/.venv/lib/python3.9/site-packages
        mb() { du -sc --block-size=1000000 "$@" | tail -n 1 | cut -f 1; }
        printf "%6d MB  %s\n" "$(mb torch)" "PyTorch ($1)" "$(mb pyarrow*)" pyarrow "$(mb scipy* numpy* pandas*)" "SciPy, NumPy, pandas" \
            "$(($(mb .) - $(mb torch pyarrow* scipy* numpy* pandas*)))" "other Python packages" "$(mb /usr/local)" "Python itself" \
            "$(mb /opt/bench/bench /opt/bench/conf)" "this project"
        [ ! -d /opt/bench/.venv-torch2 ] || printf "%6d MB  the second environment, with PyTorch %s\n" "$(mb /opt/bench/.venv-torch2)" \
            "$(sed -n "s/^__version__ = //p" /opt/bench/.venv-torch2/lib/python3*/site-packages/torch/version.py | tr -d "\\047")"' sh "$(label bench.torch-flavor)"
}

label() { docker image inspect -f "{{index .Config.Labels \"$1\"}}" "$image"; }

sif() {
    apptainer=${APPTAINER:-apptainer}
    command -v "$apptainer" >/dev/null || fail "there is no apptainer here; scripts/provision.sh brings one to Debian"
    tell_torch2
    work=$(mktemp -d "${APPTAINER_TMPDIR:-/tmp}/bench-sif.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # Root's Apptainer may be running as somebody else (scripts/provision.sh).
    if [ "$(id -u)" = 0 ]; then chmod 777 "$work"; fi
    # shellcheck disable=SC2086  # a list of paths
    tar -c --exclude=__pycache__ apptainer.def $contents | tar -x -C "$work" --no-same-owner
    bootstrap=docker from=${BASE_IMAGE:-$public_base} builder=apptainer
    base_name=$from
    if has_docker; then
        from=$(base) bootstrap=docker-archive
        base_name=$from
        if [ "${SIF_FROM:-base}" = image ]; then
            has_image "$image" || image
            from=$image base_name=$(label org.opencontainers.image.base.name) builder="apptainer from docker" flavor=$(label bench.torch-flavor)
        fi
        docker save -o "$work/from.tar" "$from"
        chmod a+r "$work/from.tar"
        from=$work/from.tar
    fi
    # zstd is read twice as fast as gzip, Apptainer's default, and written in a third of the time; the kernel knows it since 4.14.
    (cd "$work" && "$apptainer" --quiet build --fakeroot --mksquashfs-args '-comp zstd -Xcompression-level 3' \
        --build-arg "BOOTSTRAP=$bootstrap" --build-arg "FROM=$from" --build-arg "IMAGE_BASE=$base_name" --build-arg "IMAGE_BUILDER=$builder" \
        --build-arg "IMAGE_REVISION=$(cd "$OLDPWD" && revision)" --build-arg "IMAGE_SOURCE=$(cd "$OLDPWD" && source_url)" \
        --build-arg "IMAGE_VERSION=$version" --build-arg "TORCH_FLAVOR=$flavor" --build-arg "TORCH_WHEEL=${TORCH_WHEEL:-}" \
        --build-arg "TORCH2=${TORCH2:-}" --build-arg "TORCH2_WHEEL=${TORCH2_WHEEL:-}" bench.sif apptainer.def) \
        || fail "the SIF was not built; if that is because no registry answers for $base_name: scripts/provision.sh starts a Docker engine, which makes a stand-in base"
    cp "$work/bench.sif" "$sif"
    echo "$sif: $(($(stat -c %s "$sif") / 1000000)) MB, sha256 $(sha256sum <"$sif" | cut -d ' ' -f 1)"
}

# Runs a shell line in an image of either kind, as nobody in particular.
inside() {
    case $1 in
        *.sif) "${APPTAINER:-apptainer}" --silent exec --containall --no-home "$1" /bin/sh -c "$2" ;;
        *) docker run --rm --network none --user 1000:1000 --entrypoint /bin/sh "$1" -c "$2" ;;
    esac
}

# The engines' own files are left out, and image.json, which says who built the image; then all that anybody may read.
# shellcheck disable=SC2016  # the dollar signs are for the shell inside
listing='
dpkg-query -W -f "package \${Package} \${Version}\n"
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /run -o -path /.singularity.d \
    -o -path /environment -o -path /singularity -o -path /.exec -o -path /.run -o -path /.shell -o -path /.test -o -path /.dockerenv \
    -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf -o -path /etc/passwd -o -path /etc/group -o -path /etc/localtime \
    -o -path /root -o -path /scif -o -name lock -o -name lock-frontend -o -name Lock -o -path /var/cache/debconf -o -path /opt/bench/image.json \) -prune -o -type f -perm -o=r -print0 2>/dev/null | sort -z | xargs -0 sha256sum'

compare() {
    [ $# = 2 ] || fail "compare takes two images"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    inside "$1" "$listing" >"$work/a"
    inside "$2" "$listing" >"$work/b"
    for list in "$work/a" "$work/b"; do [ -s "$list" ] || fail "one of the two images could not be read"; done
    if ! diff "$work/a" "$work/b"; then
        say "$1 and $2 differ: < is $1, > is $2"
        exit 1
    fi
    echo "$1 and $2 have the same $(grep -c '^package ' "$work/a") packages and $(grep -vc '^package ' "$work/a") files"
}

sbom() {
    if has_docker && has_image "$image"; then
        inside "$image" 'cat /opt/bench/sbom.json' >"$sbom"
    else
        say "there is no Docker image $image: the list is of this host and its .venv"
        [ -x .venv/bin/python ] || fail "there is no .venv either; 'make setup' makes it"
        .venv/bin/python -I -B scripts/sbom.py "$sbom" >/dev/null
    fi
    say "wrote $sbom"
}

# A key pair of this checkout, made once. Whoever has the public half can tell that a SIF is the one that was signed here.
signing_key() {
    command -v openssl >/dev/null || fail "a key is made with openssl, which is not here: apt-get install openssl"
    [ -f "$keys/sign.pem" ] && [ -f "$keys/verify.pem" ] && return
    mkdir -p "$keys"
    (umask 077 && openssl genpkey -algorithm ed25519 -out "$keys/sign.pem")
    openssl pkey -in "$keys/sign.pem" -pubout -out "$keys/verify.pem"
    say "made the key pair $keys/sign.pem (secret: keep it) and $keys/verify.pem (give it away)"
}

# Signs $SIF in place, all of it, and verifies what was signed.
sign() {
    apptainer=${APPTAINER:-apptainer}
    [ -f "$sif" ] || fail "there is no $sif; 'make sif' builds it"
    signing_key
    work=$(mktemp -d)
    owner=$(stat -c %u:%g "$sif")
    trap 'rm -rf "$work"; chown "$owner" "$sif" 2>/dev/null || :' EXIT
    chmod 711 "$work"
    cp "$keys/sign.pem" "$keys/verify.pem" "$work"
    if [ "$(id -u)" = 0 ]; then
        # Root's Apptainer may be running as somebody else (scripts/provision.sh), who then needs the file and the key for this moment.
        user=$(inside "$(realpath "$sif")" 'id -u') || fail "$sif could not be read"
        chown "$user" "$sif" "$work/sign.pem"
    fi
    "$apptainer" --quiet sign --key "$work/sign.pem" "$sif" || fail "$sif was not signed"
    "$apptainer" --quiet verify --key "$work/verify.pem" "$sif" >/dev/null || fail "$sif was signed, and does not verify"
    cp "$keys/verify.pem" "$sif.pem"
    echo "$sif: signed and verified, sha256 $(sha256sum <"$sif" | cut -d ' ' -f 1); to verify it elsewhere: apptainer verify --key $sif.pem $sif"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
    base | image | sif | sign | sbom | compare | root) "$command" "$@" ;;
    *) fail "say base, image, sif, sign, sbom, compare or root" ;;
esac
