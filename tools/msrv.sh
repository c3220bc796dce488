#!/bin/bash
# Builds the module and the command with the oldest supported Rust, `rust-version` in Cargo.toml.
# SKIPPED if rustup has no such toolchain. What follows is passed to cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# 1.88, or 1.88.0 and the like. rustup may be missing.
toolchain=$(rustup toolchain list 2>/dev/null | grep -o "^${rust//./[.]}[.0-9]*-[^ ]*" | sed -n 1p) ||
    true
if [ -z "$toolchain" ]; then
    echo "SKIPPED: tools/msrv.sh: no toolchain for Rust $rust; to install it:" \
        "rustup toolchain install $rust --profile minimal" >&2
    exit
fi
# In a folder of its own, so that the usual build stays up to date.
CARGO_TARGET_DIR=$(tools/target.sh)/msrv rustup run "$toolchain" \
    cargo build --locked -p gpulock -p gpulock-cli "$@"
