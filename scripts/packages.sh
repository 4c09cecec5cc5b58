#!/bin/sh
# The Debian packages that bring the arms' libraries; scripts/setup.sh and scripts/install.sh both ask here.
#
#   packages.sh wanted FOLDER    from the arm files of that folder, a line for each library: its sonames, of which any will do, and
#                                Debian 12's package
#   packages.sh names            the same lines from standard input; prints what this release calls the packages: libmimalloc3 for
#                                libmimalloc2.0, the t64 names; nothing for a library that this release does not have
#   packages.sh possible         the same lines from standard input without those that this release is known not to have
#
# `names` reads the machine's package lists, which `apt-get update` brings; `possible` does without.
set -eu

wanted() {
    {
        cat "$1"/*.yaml | awk '$1 == "library:" { soname = $2 } $1 == "package:" && $2 ~ /^lib/ { print soname, $2 }'
        echo "libatomic.so.1 libatomic1" # mimalloc 3, which comes as a wheel, is linked with it
    } | sort -u
}

# Debian names a library's package after its soname: libmimalloc.so.3 is in libmimalloc3.
names() {
    while read -r sonames package; do
        known=$(apt-cache pkgnames "${package%%[0-9]*}") || true
        # Debian 12's package, or its series under another minor number (libmimalloc2.2): the last of them.
        # Then the packages of its other sonames, the newest last in the arm's file.
        found=$(echo "$known" | grep -Ex "${package%%.*}([.][0-9.]+)?(t64)?" | sort -V | tail -n 1) || true
        for soname in $(echo "$sonames" | tr ',' ' '); do
            [ -z "$found" ] || break
            found=$(echo "$known" | grep -Ex "$(echo "$soname" | sed 's/[.]so[.]//; s/_/-/g')(t64)?" | tail -n 1) || true
        done
        [ -z "$found" ] || echo "$found"
    done | sort -u
}

possible() {
    # shellcheck disable=SC1090  # the machine's own file
    case $({ . "${OS_RELEASE:-/etc/os-release}" && echo "${VERSION_CODENAME:-}"; } 2>/dev/null) in
        bookworm | noble) lacks='librpmalloc.so.1|libmimalloc.so.3' ;;
        trixie) lacks='librpmalloc.so.1|libmimalloc.so.2' ;;
        sid | forky) lacks='libmimalloc.so.2' ;;
        *) lacks=none ;;
    esac
    grep -Ev "^($lacks) " || true
}

case ${1:-} in
    wanted | names | possible) "$@" ;;
    *) echo "packages: say wanted FOLDER, names or possible" >&2; exit 2 ;;
esac
