#!/usr/bin/env bash
# Makes this checkout ready to run: allocator libraries (apt), Python 3.9, and .venv from requirements.lock, checked by hash.
#   scripts/setup.sh          what the benchmark needs; at once if it is there already
#   scripts/setup.sh dev      the tools of `make test`, `make check` and `make lock` on top
# Writes .venv and .tools (uv, a lock file) in the checkout, and uv's cache in its usual place.
# PYTHON39=/path/to/python3.9 overrides the search for one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A lock that changed makes the stamp old; -x also fails when the Python that .venv was made from is gone.
stamp() { sha256sum "$@" | sha256sum; }
is_current() { [[ -x .venv/bin/python && -f .venv/$1 && $(<".venv/$1") == "$(stamp "${@:2}")" ]]; }
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# What runs below is quiet: one line, and the rest in a log, which is printed where the set-up fails.
log=.tools/setup.log
quiet() {
    [[ -z ${terminal:-} ]] || return 0
    mkdir -p .tools
    printf 'setup    ' >&2
    exec {terminal}>&2 2>"$log"
    trap 'ended=$?; exec 2>&"$terminal"; [[ $ended == 0 ]] || { echo "failed (log: $log):"; tail -n 40 "$log"; } >&2; exit $ended' EXIT
}
as_root() { if [[ $EUID == 0 ]]; then "$@"; else sudo -n "$@"; fi; }
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends "$@" >&2; }
# An old package list may do: when it does not, the installation says so.
may_install() { command -v apt-get >/dev/null && as_root true 2>/dev/null && { apt update || true; }; }

# ---- allocators ----
# Prints "sonames package" for each library of the arms that is not here: the loader does not know it, and no wheel brought it.
missing() {
    local cache sonames package
    cache=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null || true)
    cache+=$(compgen -G '.venv/allocators/*/lib/*' | sed 's|.*/||; s|$| |' || true)
    scripts/packages.sh wanted conf/allocator | while read -r sonames package; do
        for one in ${sonames//,/ }; do [[ $cache != *"$one "* ]] || continue 2; done
        echo "$sonames $package"
    done
}

has_lists() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

tell_missing() {
    local lines names advice="install them, or give their arms a path (allocator.library)"
    lines=$(missing | scripts/packages.sh possible)  # what this release does not have is no fault of the set-up
    [[ -n $lines ]] || return 0
    if command -v apt-get >/dev/null; then
        advice="to bring them, run: sudo apt-get update && make setup"
        if has_lists; then
            names=$(scripts/packages.sh names <<<"$lines" | paste -sd ' ' -)
            [[ -n $names ]] || return 0
            say "not installed, so that their arms will fail: $names; to bring them, run: sudo apt-get update && sudo apt-get install $names"
            return
        fi
    fi
    say "not installed, so that their arms will fail: $(cut -d ' ' -f 1 <<<"$lines" | tr , '\n' | sort -u | paste -sd ' ' -); $advice"
}

install_allocators() {
    local -a names
    if [[ -z $(missing) ]] || ! may_install || ! has_lists; then return 0; fi
    mapfile -t names < <(missing | scripts/packages.sh names)
    [[ ${#names[@]} -gt 0 ]] || return 0
    say "installing ${names[*]} through apt"
    # One that cannot be had must not keep the others away.
    apt install "${names[@]}" || for package in "${names[@]}"; do apt install "$package" || true; done
}

# ---- uv and Python 3.9 ----
pyenv_pythons() {  # by their folders: pyenv's shims fail for a version that is not selected; the newest first
    local root
    for root in "${PYENV_ROOT:-$HOME/.pyenv}" /opt/pyenv; do compgen -G "$root/versions/3.9*/bin/python3.9"; done | sort -Vr || true
}

find_uv() {  # prints the path of a uv that runs and is new enough
    local candidate
    for candidate in .tools/bin/uv "$(command -v uv || true)" "$HOME/.local/bin/uv"; do
        [[ -x $candidate ]] && "$candidate" pip install --help 2>/dev/null | grep -e --build-constraint >/dev/null && { echo "$candidate"; return; }
    done
    return 1
}

install_uv() {
    say "installing uv into .tools"
    mkdir -p .tools/bin
    # Version and hashes come from the lock, like everything else.
    awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements-dev.lock >.tools/uv.lock
    pip_install_uv || { may_install && apt install python3-venv && pip_install_uv; } ||
        die "could not install uv, which makes the environment; where the reason above does not say otherwise, run:" \
            "sudo apt-get update && sudo apt-get install python3-venv"
    ln -sfn ../pip/bin/uv .tools/bin/uv
}

pip_install_uv() {  # Debian's python3 may lack ensurepip (no venv with pip) or pip itself; either of the two is enough
    local python
    local -a pythons options=(-q --retries 2 --disable-pip-version-check --no-input --no-deps --require-hashes -r .tools/uv.lock)
    mapfile -t pythons < <(type -aP python3 python3.9; pyenv_pythons)
    for python in "${pythons[@]}"; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || continue  # uv's own demand
        rm -rf .tools/pip
        if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv .tools/pip >&2; then
            .tools/pip/bin/python -m pip install "${options[@]}" >&2; return
        elif "$python" -m pip --version >/dev/null 2>&1; then
            "$python" -m pip install "${options[@]}" --target .tools/pip >&2; return
        fi
    done
    return 1
}

is_python39() { "$1" -c 'import sys, bz2, ctypes, lzma, ssl, zlib; sys.exit(sys.version_info[:2] != (3, 9))' 2>/dev/null; }

find_python() {  # prints the path of a Python 3.9: a given one, one that uv knows or can download, pyenv's
    local candidate log=.tools/python-install.log
    if [[ -n ${PYTHON39:-} ]]; then
        is_python39 "$PYTHON39" || die "PYTHON39=$PYTHON39 is not a Python 3.9 with bz2, ctypes, lzma, ssl and zlib; name another, or leave it out"
        echo "$PYTHON39"; return
    fi
    find_with_uv() { candidate=$("$uv" python find --no-project --system --no-python-downloads 3.9 2>/dev/null) && is_python39 "$candidate"; }
    find_with_uv && { echo "$candidate"; return; }
    # Some networks drop what they do not allow: a short wait, and no second try.
    UV_HTTP_RETRIES=0 UV_HTTP_CONNECT_TIMEOUT=5 UV_HTTP_TIMEOUT=15 UV_PYTHON_INSTALL_BIN=0 \
        "$uv" python install 3.9 >"$log" 2>&1 && find_with_uv && { echo "$candidate"; return; }
    while IFS= read -r candidate; do is_python39 "$candidate" && { echo "$candidate"; return; }; done < <(pyenv_pythons)
    die "no Python 3.9 here, and uv could not download one (see $log); where its download is allowed, run: $uv python install 3.9" \
        "  (or, with a python3.9 of your own: make setup PYTHON39=/path/to/python3.9)"
}

# ---- the environment ----
lock_install() {  # ENVIRONMENT LOCK: sources are built with the locked setuptools; bytecode now, for entrypoint.sh never writes any
    "$uv" pip install --python "$1" --require-hashes --no-deps --build-constraints requirements.lock --compile-bytecode -r "$2" >&2
}

prepare() {
    quiet
    exec 9>.tools/lock
    flock -n 9 || { say "another set-up of this checkout is running; waiting for it"; flock 9; }
    unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX
    # uv does not read pip's settings, and knows the machine's own certificates only by this variable.
    [[ -n ${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}} || -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
    [[ -n ${SSL_CERT_FILE:-} || ! -f /etc/ssl/certs/ca-certificates.crt ]] || export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"  # PyTorch is one file of 880 MB
    [[ -n ${HOME:-} && -w $HOME ]] || export HOME="$PWD/.tools/home"
    uv=$(find_uv) || { install_uv; uv=.tools/bin/uv; }
}

# mimalloc 3 is on the package index, in a wheel that asks for a newer Python than ours and holds none: unpacked beside it.
add_mimalloc() {
    rm -rf .venv/allocators
    "$uv" pip install -q --target .venv/allocators --python .venv --python-version 3.11 --only-binary :all: --no-deps --require-hashes \
        -r requirements-mimalloc.lock >&2 || { say "mimalloc 3 could not be had (the reason is above): its arms will fail"; return 0; }
    stamp requirements-mimalloc.lock >.venv/mimalloc.stamp
}

make_environment() {
    local python started=$SECONDS
    python=$(find_python)
    say "making .venv with $("$python" --version) ($python)"
    # Made beside, moved into place when whole: an interrupted run leaves the old .venv or none.
    rm -rf .venv.new
    "$uv" venv -q --no-project --relocatable --python "$python" .venv.new
    lock_install .venv.new requirements.lock || die "could not install requirements.lock (the reason is above); the next call tries again"
    # entrypoint.sh starts Python with -I, which leaves the current folder out: this names the checkout, relative to site-packages.
    echo ../../../.. >.venv.new/lib/python3.9/site-packages/bench.pth
    stamp requirements.lock >.venv.new/setup.stamp
    rm -rf .tools/old-venv
    [[ ! -e .venv ]] || mv .venv .tools/old-venv
    mv .venv.new .venv
    rm -rf .tools/old-venv
    say ".venv is ready after $((SECONDS - started)) s"
}

if ! is_current setup.stamp requirements.lock; then
    prepare
    is_current setup.stamp requirements.lock || { install_allocators; make_environment; }
fi
if ! is_current mimalloc.stamp requirements-mimalloc.lock; then
    prepare
    add_mimalloc
fi
if [[ ${1:-} == dev ]] && ! is_current dev.stamp requirements.lock requirements-dev.lock; then
    prepare
    say "adding the tools for tests and checks"
    rm -f .venv/execstack.stamp
    mv .venv/setup.stamp .venv/setup.partial  # interrupted half way, this .venv is made again
    ended=0; lock_install .venv requirements-dev.lock || ended=$?
    mv .venv/setup.partial .venv/setup.stamp
    [[ $ended == 0 ]] || die "could not install requirements-dev.lock (the reason is above); the next call tries again"
    stamp requirements.lock requirements-dev.lock >.venv/dev.stamp
fi
if ! is_current execstack.stamp scripts/clear_execstack.py requirements.lock requirements-dev.lock; then
    prepare
    .venv/bin/python -I -B scripts/clear_execstack.py .venv | while IFS= read -r line; do say "$line"; done ||
        die "the environment is not ready (the reason is above); the next call tries again"
    stamp scripts/clear_execstack.py requirements.lock requirements-dev.lock >.venv/execstack.stamp
fi
# Our programs in C; without a compiler `trace`, `replay` and the library for Intel MKL are missing.
if command -v "${CC:-cc}" gcc clang >/dev/null; then
    .venv/bin/python -I -B -m bench.process.build 2>&1 | while IFS= read -r line; do say "$line"; done || true
fi
if [[ -n ${terminal:-} ]]; then
    libraries=$(scripts/packages.sh wanted conf/allocator | sort -u | wc -l) lacking=$(missing | sort -u | wc -l)
    printf '%s, PyTorch %s, %s allocator libraries; %s s (log: %s)\n' "$(.venv/bin/python --version)" \
        "$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements.lock)" $((libraries - lacking)) $SECONDS "$log" >&"$terminal"
    echo "         to type mallocost in any folder: ln -s '$PWD/mallocost' ~/.local/bin/" >&"$terminal"
    exec 2>&"$terminal" {terminal}>&-
    trap - EXIT
fi
# Tests start hundreds of processes, which write no bytecode and would each compile our modules again.
[[ ${1:-} != dev ]] || .venv/bin/python -m compileall -q bench || true
tell_missing
