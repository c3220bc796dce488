#!/bin/bash
# Checks that released programs run on the oldest supported systems, and prints a line for each:
#
#     tools/release/binaries.sh FILE...
#
# Fails if a file needs symbols of a newer glibc than MAX_GLIBC, libraries other than those of glibc
# and libgcc, or contains paths of the machine that built it. objdump reads files for all processors
# that its binutils support; a cross build sets OBJDUMP.
set -euo pipefail
files=()
for file; do files+=("$(realpath "$file")"); done
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

# The glibc of RHEL 9; that of Ubuntu 22.04 (2.35) and Debian 12 (2.36) is newer.
max_glibc=${MAX_GLIBC:-2.34}
objdump=${OBJDUMP:-objdump}
allowed='libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|ld-linux-[a-z0-9_-]*\.so\.[0-9]+'
[ ${#files[@]} -gt 0 ] || fail "expected the files to check"

# The folders of this machine, each with a slash at the end. The home folder / is none: its name is in
# every path.
machine_paths() {
    local home=${HOME:-/} folder
    for folder in "$home" "$PWD" "${CARGO_HOME:-$home/.cargo}"; do
        folder=$(realpath -m "$folder")
        [ "$folder" = / ] || echo "$folder/"
    done
}
paths_of_machine=$(machine_paths)

status=0
bad() { echo "$*" >&2; status=1; }

check() { # FILE
    local file=$1 header symbols glibc needed other paths
    header=$("$objdump" -p "$file") ||
        fail "$objdump cannot read $file: for another processor, install its binutils and set OBJDUMP"
    # A program without dynamic symbols is an error for objdump.
    symbols=$("$objdump" -T "$file" 2>/dev/null) || symbols=
    glibc=$(grep -o 'GLIBC_[0-9][0-9.]*' <<<"$symbols" | sort -Vu | tail -n 1) || glibc=
    glibc=${glibc#GLIBC_}
    needed=$(awk '$1 == "NEEDED" {print $2}' <<<"$header")
    [ -n "$glibc" ] || { bad "$file is not linked with glibc"; return; }
    [ "$(printf '%s\n' "$glibc" "$max_glibc" | sort -V | tail -n 1)" = "$max_glibc" ] ||
        bad "$file needs glibc $glibc, which is newer than $max_glibc: build it on an older system, such as Debian 12"
    other=$(grep -vxE "$allowed" <<<"$needed" || true)
    [ -z "$other" ] || bad "$file needs libraries that not every system has: ${other//$'\n'/ }"
    paths=$(strings -a "$file" | grep -F "$paths_of_machine" | sort -u | head -n 3 || true)
    [ -z "$paths" ] || bad "$file contains paths of this machine: ${paths//$'\n'/ }"
    echo "${file##*/}: glibc $glibc or newer (allowed: up to $max_glibc); needs ${needed//$'\n'/ }"
}

for file in "${files[@]}"; do check "$file"; done
exit $status
