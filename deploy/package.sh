#!/bin/bash
# Creates the .deb from the output of `make build`, and prints its path on the last line.
#
# cli/Cargo.toml lists the files. Installs cargo-deb to target/tools if it is missing, which
# takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
built=$(tools/target.sh)
package=$built/release/package
PATH=$PWD/target/tools/bin:$PATH

fail() { echo "package.sh: $*" >&2; exit 1; }
# Without it cargo-deb creates a package without dependencies.
dpkg-shlibdeps --version >/dev/null || fail "dpkg-dev is not installed: run tools/setup.sh deb"
"$cargo" deb --version >/dev/null 2>&1 ||
    "$cargo" install --locked --root target/tools --target-dir target/tools/build cargo-deb

rm -rf "$package"
mkdir -p "$package"
"$built/release/gpulock" man "$package/man"
gzip -9n "$package"/man/*.1
"$built/release/gpulock" completions bash >"$package/gpulock.bash"
"$built/release/gpulock" completions zsh >"$package/_gpulock"
"$built/release/gpulock" completions fish >"$package/gpulock.fish"
CARGO_TARGET_DIR=$built "$cargo" deb --no-build --locked -p gpulock-cli
