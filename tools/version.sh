#!/bin/bash
# Prints the version of GPULOCK: that of [workspace.package] in Cargo.toml, the only place where it
# is set.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n '/^\[workspace\.package\]/,/^\[[^w]/ s/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || { echo "version.sh: [workspace.package] of Cargo.toml has no version" >&2; exit 1; }
echo "$version"
