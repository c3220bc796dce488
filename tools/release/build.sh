#!/bin/bash
# Builds the module and the command for a release, and prints the folder that contains
# libgpulock.so and gpulock on the last line:
#
#     tools/release/build.sh [TRIPLE]     default: the triple of this machine
#
# Unlike `make build`, the output does not contain the paths of this machine: the same sources, Rust
# and C compiler give the same bytes in every folder and for every user. Builds into
# target/release-build, beside the other builds.
#
# For another processor, cargo needs its standard library and its linker, as for every cross build:
# CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

cargo=${CARGO:-cargo}
triple=${1:-$(host_triple)}
repo=$(pwd -P)
built=$(tools/target.sh)/release-build
home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
set_source_date

# The sources of the dependencies must be there before their folders can be listed.
"$cargo" fetch --locked --target "$triple"

# Settings of the environment that would change the output: flags of the compilers, another profile,
# another target. The number of jobs does not.
for variable in RUSTFLAGS CARGO_INCREMENTAL "${!CARGO_PROFILE_@}" "${!CARGO_BUILD_@}" \
    "${!CFLAGS@}" HOST_CFLAGS TARGET_CFLAGS; do
    [ "$variable" = CARGO_BUILD_JOBS ] || unset "$variable"
done

# The last flag that matches a path applies. Separated by the byte 0x1f, because paths may contain
# spaces. Also replaces the flags in the user's configuration of cargo.
flags=("--remap-path-prefix=$repo=/gpulock")
for sources in "$home"/registry/src/*; do
    flags+=("--remap-path-prefix=$sources=/crates")
done
flags+=("--remap-path-prefix=$built=/build")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

"$cargo" build --release --locked --target "$triple" --target-dir "$built" \
    -p gpulock -p gpulock-cli
echo "$built/$triple/release"
