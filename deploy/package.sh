#!/bin/bash
# Makes the .deb from what `make build` built, and prints its path last.
#
# cli/Cargo.toml says what goes where. Installs cargo-deb to target/tools when there is none,
# which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
built=$(tools/target.sh)
package=$built/release/package
PATH=$PWD/target/tools/bin:$PATH

fail() { echo "package.sh: $*" >&2; exit 1; }
# cargo-deb makes a package that depends on nothing where this is missing.
dpkg-shlibdeps --version >/dev/null || fail "needs dpkg-dev: tools/setup.sh deb installs it"
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
