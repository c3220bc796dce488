#!/bin/bash
# Runs the Rust example against GPULOCK_SERVER (an absolute path). See examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

target=$repo/target/examples/rust
"${CARGO:-cargo}" build --quiet --locked --target-dir "$target"

check_example "$target/debug/gpulock-example"
