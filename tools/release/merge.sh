#!/bin/bash
# Merges the artefacts of several processors into one folder with one SHA256SUMS:
#
#     tools/release/merge.sh DEST FOLDER...
#
# Fails if a file does not match its checksum, or if two folders contain different files of the same
# name: the Python package must be the same on all processors.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: merge.sh DEST FOLDER..." >&2; exit 2; }
dest=$1
shift

fail() { echo "merge.sh: $*" >&2; exit 1; }

[ ! -e "$dest" ] || fail "$dest exists: remove it, or choose another folder"
for folder; do
    (cd "$folder" && sha256sum --quiet --strict --check SHA256SUMS) ||
        fail "$folder does not match its SHA256SUMS: run make release there again"
done
different=$(for folder; do cat "$folder/SHA256SUMS"; done | sort -u | awk 'seen[$2]++ {print $2}')
[ -z "$different" ] ||
    fail "the folders contain different versions of ${different//$'\n'/, }: build them from the same commit, with the same tools"
mkdir -p "$dest"
for folder; do cp "$folder"/* "$dest"; done
for folder; do cat "$folder/SHA256SUMS"; done | sort -u -k 2 >"$dest/SHA256SUMS"
