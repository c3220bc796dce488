#!/bin/bash
# Makes the .deb from what `make build` built:
#
#     deploy/package.sh [CARGO]
#
# What goes where stands in cli/Cargo.toml. Brings cargo-deb to target/tools when it is not
# there, which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${1:-cargo}
built=${CARGO_TARGET_DIR:-target}
package=$built/release/package
PATH=$PWD/target/tools/bin:$PATH

"$cargo" deb --version >/dev/null 2>&1 ||
    "$cargo" install --locked --root target/tools --target-dir target/tools/build cargo-deb

rm -rf "$package"
mkdir -p "$package"
"$built/release/gpulock" man "$package/man"
gzip -9n "$package"/man/*.1
"$built/release/gpulock" completions bash >"$package/gpulock.bash"
"$built/release/gpulock" completions zsh >"$package/_gpulock"
"$built/release/gpulock" completions fish >"$package/gpulock.fish"
"$cargo" deb --no-build --locked -p gpulock-cli
