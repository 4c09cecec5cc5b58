#!/bin/sh
# Install what tests/system/test_slurm.py and test_network.py run on: a real Slurm and munge, `ip`, and OpenMPI's mpirun.
# Debian and Ubuntu, as root (or with sudo). The packages' services are kept from starting: the tests start daemons of
# their own, from a configuration in a temporary directory, as many as they need.
set -eu

packages="slurm-wlm munge iproute2 openmpi-bin shellcheck"

missing=""
for package in $packages; do
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
        "install ok installed") ;;
        *) missing="$missing $package" ;;
    esac
done
if [ -z "$missing" ]; then
    echo "provision-slurm: all of these are installed: $packages"
    exit 0
fi

as_root=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "provision-slurm: run as root, or install sudo" >&2; exit 2; }
    as_root="sudo"
fi

# 101 = "action forbidden by policy": without it a package would start a slurmd and a munged with an empty configuration.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi

$as_root apt-get update -qq
# shellcheck disable=SC2086  # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null

slurmd -V
munged --version
mpirun --version | head -n 1
