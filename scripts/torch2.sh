#!/usr/bin/env bash
# Makes .venv-torch2: a Python 3.10 or newer with the newest PyTorch, from requirements-torch2.lock, checked by hash.
#   scripts/torch2.sh
# PYTHON310=/path/to/python3.1x overrides the search for one. TORCH2_INDEX=URL takes the packages from that index, such as PyTorch's
# own index of CPU wheels (a tenth of the size; its files have other hashes than the lock's, so they are then taken by version).
# TORCH2_WHEEL=URL#sha256=DIGEST takes that wheel of the CPU-only build and the lock's other packages, all checked by hash.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf 'torch2: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

wanted=$(sha256sum requirements-torch2.lock)-${TORCH2_INDEX:-}${TORCH2_WHEEL:-}
[[ -z ${TORCH2_WHEEL:-} || $TORCH2_WHEEL == *"#sha256="* ]] || die "TORCH2_WHEEL=$TORCH2_WHEEL needs its digest: URL#sha256=DIGEST"
[[ -x .venv-torch2/bin/python && -f .venv-torch2/torch2.stamp && $(<.venv-torch2/torch2.stamp) == "$wanted" ]] && exit 0

scripts/setup.sh
uv=.tools/bin/uv
[[ -x $uv ]] || uv=$(command -v uv || true)
[[ -n $uv ]] || { scripts/setup.sh dev; uv=.venv/bin/uv; }
python=${PYTHON310:-$("$uv" python find --no-project --system '>=3.10' 2>/dev/null || true)}
[[ -n $python && -x $python ]] || die "no Python 3.10 or newer here: name one, as in PYTHON310=/path/to/python3.11 make torch2"

# What it takes, before anything is downloaded: the packages as the index lists them.
light=${TORCH2_INDEX:-}${TORCH2_WHEEL:-}
if [[ -n $light ]]; then size="about 0.8 GB on disk with CPU wheels"; else size="about 5.5 GB on disk, most of it CUDA libraries that the package index's PyTorch insists on"; fi
free=$(df --output=avail -B1G . | tail -n 1)
say "PyTorch ${TORCH2_WHEEL:-$(awk -F '==' '/^torch==/ {split($2, words, " "); print words[1]}' requirements-torch2.lock)} for $("$python" --version): $size; ${free// /} GB are free here"
[[ -n $light || ${free// /} -ge 9 ]] || die "that needs 9 GB while it is unpacked: free some space, or set TORCH2_INDEX to an index of CPU wheels, or TORCH2_WHEEL to one"

[[ -n ${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}} || -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
[[ -n ${SSL_CERT_FILE:-} || ! -f /etc/ssl/certs/ca-certificates.crt ]] || export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
rm -rf .venv-torch2.new
"$uv" venv -q --no-project --relocatable --python "$python" .venv-torch2.new
if [[ -n ${TORCH2_INDEX:-} ]]; then
    sed -n 's/^\([a-z0-9-]*==[^ ;\\]*\).*/\1/p' requirements-torch2.lock | grep -E '^(torch|numpy)==' >.venv-torch2.new/wanted.txt
    "$uv" pip install --python .venv-torch2.new --index "$TORCH2_INDEX" --index-strategy unsafe-best-match -r .venv-torch2.new/wanted.txt >&2
elif [[ -n ${TORCH2_WHEEL:-} ]]; then
    awk '/^[a-z]/ {keep = $0 !~ /^(torch|triton|cuda-[a-z]*|nvidia-[a-z0-9-]*)==/} keep' requirements-torch2.lock >.venv-torch2.new/wanted.txt
    echo "torch @ ${TORCH2_WHEEL%%#*} --hash=sha256:${TORCH2_WHEEL##*#sha256=}" >>.venv-torch2.new/wanted.txt
    "$uv" pip install --python .venv-torch2.new --require-hashes --no-deps -r .venv-torch2.new/wanted.txt >&2
else
    "$uv" pip install --python .venv-torch2.new --require-hashes --no-deps -r requirements-torch2.lock >&2
fi || die "could not be installed (the reason is above)"
echo "$wanted" >.venv-torch2.new/torch2.stamp
rm -rf .venv-torch2
mv .venv-torch2.new .venv-torch2
say "ready: launch.python=$PWD/.venv-torch2/bin/python"
