#!/bin/sh
# mallocost: python -m bench with a clean environment, natively and in the images. Its arguments go through untouched.
#
# Dropped: what would preload a library, tune an allocator, or steer threads, arithmetic, torch or Python, in every process and
# so in the baseline too. The list is that of bench/host/foreign.py.
# The names go to the driver in BENCH_DROPPED_ENVIRONMENT, for the record. Kept: everything else (SLURM_*, OMPI_*, BENCH_*).
#
# A preload that the caller set is already loaded into the shell that runs this. The images start it with a static
# shell, which no preload can enter; natively that one shell cannot be helped. Up to `unset` nothing here starts a program.
set -u

# The command whose program keeps its own environment: program, and advise or trace with a program after --.
for_whom=${1:-}
if [ "$for_whom" = advise ] || [ "$for_whom" = trace ]; then
    for word in "$@"; do [ "$word" != -- ] || for_whom=program; done
fi

dropped=""
# `export -p` is one line per variable, but a value with line breaks goes on in lines that may look like one: so each name
# is asked for. It can hold nothing that eval would run.
names=$(export -p)
while IFS= read -r line; do
    name=${line#export }
    name=${name#declare -x }
    name=${name%%=*}
    case $name in
        *[!A-Za-z0-9_]* | "") continue ;;
        LD_PRELOAD* | LD_AUDIT* | LD_PROFILE* | LD_DEBUG* | LD_BIND_NO* | LD_HWCAP_MASK*) ;;
        GLIBC_TUNABLES* | MALLOC_* | TCMALLOC_* | MIMALLOC_* | TBB_* | JEMALLOC_* | _RJEM_MALLOC_CONF* | SCUDO_OPTIONS*) ;;
        HEAPPROFILE* | HEAP_PROFILE* | HEAPCHECK* | HEAP_CHECK* | CPUPROFILE* | XOS_* | THP_MEM_ALLOC_ENABLE*) ;;
        OMP_* | GOMP_* | KMP_* | LIBOMP_*) ;;
        MKL_* | OPENBLAS_* | GOTO_* | BLIS_* | DNNL_* | MKLDNN_* | ONEDNN_* | ATEN_CPU_CAPABILITY*) ;;
        TORCH_* | PYTORCH_* | PYTHON*) ;;
        *) continue ;;
    esac
    # A program of the user's runs with what steers its threads, arithmetic and Python; our own Python is started with -I.
    case $for_whom:$name in
        program:OMP_* | program:GOMP_* | program:KMP_* | program:LIBOMP_* | program:MKL_* | program:OPENBLAS_*) continue ;;
        program:GOTO_* | program:BLIS_* | program:DNNL_* | program:MKLDNN_* | program:ONEDNN_* | program:ATEN_CPU_CAPABILITY*) continue ;;
        program:TORCH_* | program:PYTORCH_* | program:PYTHON*) continue ;;
    esac
    eval "[ -n \"\${$name+set}\" ]" || continue
    unset "$name"
    dropped="${dropped:+$dropped,}$name"
done <<NAMES
$names
NAMES
export BENCH_DROPPED_ENVIRONMENT="$dropped"

self=$(readlink -f -- "$0") # a link to this script works too
root=${self%/*}
python=$root/.venv/bin/python
if [ ! -x "$python" ]; then
    echo "mallocost: there is no environment at $root/.venv; 'make setup' in $root creates it" >&2
    exit 2
fi

# Where results go: BENCH_OUT, or a folder mounted at /results, or (the driver's own default) ./results.
if [ -z "${BENCH_OUT:-}" ]; then
    while read -r _ _ _ _ mount_point _; do
        if [ "$mount_point" = /results ]; then
            export BENCH_OUT=/results
        fi
    done </proc/self/mountinfo
fi

exec "$python" -I -B -m bench "$@"
