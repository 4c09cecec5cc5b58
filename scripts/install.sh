#!/bin/sh
# Installs the benchmark into an image, at /opt/bench. The Dockerfile and apptainer.def both do it with this script, so that
# the two images cannot drift. Each stage leaves a finished image alone: a SIF built from the Docker image only rewrites
# its identity.
#
#   install.sh system                 the arms' libraries and a static shell, from Debian's packages
#   install.sh environment            Python packages from requirements.lock into /opt/bench/.venv, mimalloc 3 beside them
#   install.sh torch2                 with TORCH2=1: a second Python and the newest PyTorch into /opt/bench/.venv-torch2
#   install.sh programs FOLDER        our programs in C, with a C compiler that is removed again
#   install.sh project                the code: bytecode, image.json, permissions
#   install.sh all                    the five in this order
#
# From the environment: TORCH_FLAVOR (pypi, or cpu with TORCH_WHEEL=URL#sha256=…), TORCH2 (1: the lock's; with TORCH2_WHEEL=URL#sha256=…
# that wheel of PyTorch's CPU-only build in its place, and no CUDA libraries), IMAGE_BASE, IMAGE_REVISION, IMAGE_BUILDER.
set -eu
umask 022

root=/opt/bench
python=$root/.venv/bin/python
compiler=$python
flavor=${TORCH_FLAVOR:-pypi}

fail() { echo "install: $*" >&2; exit 2; }

# Every file that a stage installed, with its digest and mode: what `images.sh compare` and image.json are made from.
manifest() {
    find "$@" \( -type f -o -type l \) -printf '%m %y %p %l\n' | sort
    find "$@" -type f -print0 | sort -z | xargs -0 sha256sum
}

# The arms' libraries, under the names that the base image's release gives their packages (packages.sh).
system() {
    [ -f "$root/wanted.txt" ] || sh "$root/scripts/packages.sh" wanted "$root/conf/allocator" >"$root/wanted.txt"
    if [ ! -f "$root/packages.txt" ]; then
        apt-get update -qq
        sh "$root/scripts/packages.sh" names <"$root/wanted.txt" >"$root/packages.txt"
    fi
    # shellcheck disable=SC2046  # a list of package names
    debian $(cat "$root/packages.txt") busybox-static
}

debian() {
    if ! dpkg-query -W "$@" >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
        clean
    fi
    dpkg-query -W "$@"
}

# Caches and logs carry times, and would make two builds differ.
clean() {
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old \
        /var/lib/dpkg/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
}

# A lock's entries for packages whose names match $2 only ($1 = 1), or all but those ($1 = 0).
lock_entry() {
    awk -v names="^($2)==" -v keep="$1" '
        /^[A-Za-z0-9]/ { chosen = ($0 ~ names) }
        chosen == keep { print }' "${3:-$root/requirements.lock}"
}

environment() {
    case $flavor:${TORCH_WHEEL:-} in
        pypi:* | cpu:*"#sha256="*) ;;
        cpu:*) fail "TORCH_FLAVOR=cpu needs TORCH_WHEEL=URL#sha256=DIGEST, the wheel of PyTorch's CPU-only build" ;;
        *) fail "TORCH_FLAVOR=$flavor is neither pypi nor cpu" ;;
    esac
    wanted="$flavor $(cat "$root/requirements.lock" "$root/requirements-mimalloc.lock" | sha256sum)"
    if [ "$(head -n 1 "$root/environment.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' || fail "the base image's python3 is not Python 3.9"
    rm -rf "$root/.venv"
    python3 -m venv --without-pip "$root/.venv"
    work=$(mktemp -d)
    # setuptools first: the two packages that come as sources are then built with it, not with whatever an index serves.
    lock_entry 1 setuptools >"$work/setuptools.txt"
    if [ "$flavor" = cpu ]; then
        lock_entry 0 torch >"$work/all.txt"
        echo "torch @ ${TORCH_WHEEL%%#*} --hash=sha256:${TORCH_WHEEL##*#sha256=}" >>"$work/all.txt"
    else
        cp "$root/requirements.lock" "$work/all.txt"
    fi
    for list in setuptools all; do
        python3 -m pip --python "$python" --disable-pip-version-check --no-cache-dir install --quiet --root-user-action ignore \
            --require-hashes --no-deps --no-compile --no-build-isolation --use-pep517 -r "$work/$list.txt"
    done
    rm -rf "$work"
    # mimalloc 3 is on the package index, in a wheel that asks for a newer Python than ours and holds none: unpacked beside it.
    python3 -m pip --disable-pip-version-check --no-cache-dir install --quiet --root-user-action ignore --target "$root/.venv/allocators" \
        --python-version 3.11 --ignore-requires-python --only-binary :all: --no-deps --require-hashes --no-compile \
        -r "$root/requirements-mimalloc.lock"
    prune
    "$python" -I -B "$root/scripts/clear_execstack.py" "$root/.venv"
    # Some packages ship templates and examples for other Pythons, which do not compile: not ours to judge.
    compile 1 "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" || true
    compile "$(nproc)" "$root/.venv/lib" || true
    { echo "$wanted"; dpkg-query -W; manifest /usr/local "$root/.venv"; } >"$root/environment.txt"
}

# Debian's own Python, newer than the image's, and the lock of `make torch2`. Ranks go there by launch.python.
torch2() {
    case ${TORCH2:-0}:${TORCH2_WHEEL:-} in
        0: | 1: | 1:*"#sha256="*) ;;
        *) fail "TORCH2=${TORCH2:-} TORCH2_WHEEL=${TORCH2_WHEEL:-}: TORCH2 is 1 or left out, and TORCH2_WHEEL=URL#sha256=DIGEST goes with 1" ;;
    esac
    [ "${TORCH2:-0}" = 1 ] || return 0
    lock=$root/requirements-torch2.lock
    wanted="${TORCH2_WHEEL:-pypi} $(sha256sum <"$lock")"
    if [ "$(head -n 1 "$root/torch2.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    debian python3
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "the base image's Debian has no Python 3.10 or newer"
    rm -rf "$root/.venv-torch2"
    /usr/bin/python3 -m venv --without-pip "$root/.venv-torch2"
    work=$(mktemp -d)
    if [ -n "${TORCH2_WHEEL:-}" ]; then
        lock_entry 0 'torch|triton|cuda-.*|nvidia-.*' "$lock" >"$work/all.txt"
        echo "torch @ ${TORCH2_WHEEL%%#*} --hash=sha256:${TORCH2_WHEEL##*#sha256=}" >>"$work/all.txt"
    else
        cp "$lock" "$work/all.txt"
    fi
    python3 -m pip --python "$root/.venv-torch2/bin/python" --disable-pip-version-check --no-cache-dir install --quiet \
        --root-user-action ignore --require-hashes --no-deps --no-compile --only-binary :all: -r "$work/all.txt"
    rm -rf "$work"
    site=$("$root/.venv-torch2/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rm -rf "$site/torch/include" "$site/torch/test"
    compiler=$root/.venv-torch2/bin/python
    compile "$(nproc)" "$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" "$root/.venv-torch2/lib" || true
    compiler=$python
    "$root/.venv-torch2/bin/python" -I -c 'import platform, torch; print("torch2: PyTorch", torch.__version__, "Python", platform.python_version())'
    { echo "$wanted"; dpkg-query -W; manifest "$root/.venv-torch2"; } >"$root/torch2.txt"
}

# What no run can reach: the packages' own tests, C++ headers, PyTorch's test programs, and Caffe2.
prune() {
    site=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    find "$site" -type d -name tests -prune -exec rm -rf {} +
    find "$site/torch/bin" -type f ! -name torch_shm_manager -delete # that one `import torch` looks for
    rm -rf "$site/torch/include" "$site/torch/test" "$site/caffe2" "$site/pyarrow/include" "$site/numpy/core/include"
}

# Unchecked: a read-only image never looks at times. The bytes depend on the hash seed and on what the same process compiled
# and imported before, from source or from bytecode: a fixed seed, fixed batches and no site-packages make two builds the same.
# $1: batches at once, which must be 1 for the standard library, since the compiler imports it.
compile() {
    jobs=$1
    shift
    find "$@" -name __pycache__ -prune -exec rm -rf {} +
    find "$@" -name '*.py' -print0 | sort -z | PYTHONHASHSEED=0 xargs -0 -n 300 -P "$jobs" \
        "$compiler" -s -S -m compileall -q --invalidation-mode unchecked-hash >/dev/null
}

# Which compiler was there before is Debian's, and stays. The files carry the hash of their source: what is there is not built again.
programs() {
    built=1
    for source in workloads/replay/recorder workloads/replay/replayer process/mkl_path; do
        digest=$(sha256sum <"$root/bench/$source.c" | cut -c 1-12)
        [ -x "$1/${source##*/}-$digest" ] || built=0
    done
    [ "$built" = 0 ] || return 0
    brought=
    if ! command -v cc >/dev/null; then
        brought="gcc libc6-dev"
        # shellcheck disable=SC2086  # a list of package names
        debian $brought >/dev/null
    fi
    (cd "$root" && python3 -s -B -m bench.process.build "$1") || fail "the programs in C could not be built"
    if [ -n "$brought" ]; then
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq --auto-remove $brought >/dev/null
        clean
    fi
    chmod -R go+rX,go-w "$1"
}

project() {
    site=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$root" >"$site/bench.pth" # `python -I` looks neither at the current folder nor at PYTHONPATH
    find "$root/conf" -name __pycache__ -prune -exec rm -rf {} +
    compile 1 "$root/bench"
    chmod -R u+rwX,go+rX,go-w "$root/bench" "$root/conf" "$root/entrypoint.sh" "$root/scripts"
    chmod 755 "$root/entrypoint.sh" "$root/scripts/install.sh"
    ln -sf "$root/entrypoint.sh" /usr/local/bin/mallocost
    manifest "$root/bench" "$root/conf" "$root/entrypoint.sh" "$root/scripts" "$root"/requirements*.lock "$root/packages.txt" \
        "$root/.venv/programs" >"$root/project.txt"
    "$python" -I - "$root" "$flavor" <<'PYTHON'
import hashlib
import json
import os
import pathlib
import sys

root, flavor = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(root))
import bench  # noqa: E402

content = b"".join((root / name).read_bytes() for name in ("environment.txt", "torch2.txt", "project.txt") if (root / name).exists())
identity = {
    "base": os.environ.get("IMAGE_BASE") or "unknown",
    "built_by": os.environ.get("IMAGE_BUILDER") or "unknown",
    "content_sha256": hashlib.sha256(content).hexdigest(),
    "flavor": flavor,
    "revision": os.environ.get("IMAGE_REVISION") or "unknown",
    "version": bench.__version__,
}
(root / "image.json").write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n")
PYTHON
    cat "$root/image.json"
}

case ${1:-} in
    system | environment | torch2 | project) "$1" ;;
    programs) programs "${2:-$root/.venv/programs}" ;;
    all) system; environment; torch2; programs "$root/.venv/programs"; project ;;
    *) fail "say system, environment, torch2, programs, project or all" ;;
esac
