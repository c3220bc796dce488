#!/bin/bash
# Builds the module for arm64 on an amd64 machine, and tests it with an emulated server:
#
#     tools/arm64.sh [FILTER...]     default: the filters of the core tests below
#
# 1. Creates an amd64 system of Debian 12, the oldest supported Debian, with its Rust (rustc-web) and a
#    cross compiler, in target/arm64/root. The sources of the dependencies are brought with the cargo of
#    this machine; the builds in the system use no network.
# 2. Builds target/arm64/libgpulock.so. Prints the glibc that it needs, and fails if that is newer than
#    the glibc of RHEL 9 and Ubuntu 22.04.
# 3. Unpacks Debian's redis-server for arm64 (tools/servers.sh), and runs tests of tests/server on it. The
#    tests are programs of this machine, and qemu emulates the server. Each FILTER is a part of the names
#    of tests.
#
# Prints the time of each step. What exists in target/arm64 is used again. Requires root, debootstrap,
# qemu-user-static, a Debian mirror (DEBIAN_MIRROR, otherwise that of this machine's apt), and 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
target=$(tools/target.sh)
folder=$target/arm64
root=$folder/root
triple=aarch64-unknown-linux-gnu
max_glibc=2.34

# Locks, tokens, queues, sessions, sets of locks, persistence, replication, loading and unloading.
core=(locks:: sessions:: unique_owners:: queue::fifo queue::hand_off queue::leaving queue::waiting
    lock_sets::acquireany lock_sets::grants replication::native_commands writes::refused module::lifecycle)

# Tests of these topics that an emulated server is too slow for. The last one measures memory, and
# takes so long that the server enlarges the buffer of a client meanwhile.
slow=(within_5_ms within_ten_milliseconds within_a_few_milliseconds a_killed_process_releases_its_lock
    a_removed_lease_does_not_wake_the_waiter removed_at_once_are_granted_at_once
    waiters_also_wait_for_other_types_and_invalid_owners fifty_unloads_leak_no_memory)

fail() { echo "arm64.sh: $*" >&2; exit 1; }

requires() {
    local program missing=()
    for program in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static readelf:binutils; do
        command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || fail "programs are missing: apt-get install ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "requires root: it creates and enters a system of Debian 12"
    [ "$(dpkg --print-architecture)" = amd64 ] || fail "requires amd64: on arm64, run make build and make test"
}

step() { # NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    "$@"
    echo "arm64.sh: $name: $((SECONDS - start)) s"
}

# Runs a command in the system, with mounts that end with it.
enter() { # COMMAND...
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount --propagation private bash -c '
        set -e
        root=$1 sources=$2 vendor=$3
        shift 3
        mkdir -p "$root/src" "$root/vendor"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --bind -o ro "$sources" "$root/src"
        mount --bind -o ro "$vendor" "$root/vendor"
        cat /etc/resolv.conf >"$root/etc/resolv.conf"
        exec chroot "$root" env -i LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' \
        - "$root" "$PWD" "$folder/vendor" "$@"
}

create_root() {
    [ ! -e "$root/var/ready" ] || return 0
    rm -rf --one-file-system "$root"
    mkdir -p "$folder/vendor" "$root"
    tools/system.sh bookworm "$folder/bookworm.tar"
    tar -C "$root" -xf "$folder/bookworm.tar"
    enter bash -ec '
        export DEBIAN_FRONTEND=noninteractive
        dpkg --add-architecture arm64
        apt-get -q update
        apt-get -q install -y --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64 \
            gcc gcc-aarch64-linux-gnu libc6-dev libc6-dev:arm64 libclang-dev' >>"$folder/log" 2>&1 ||
        { tail -n 20 "$folder/log" >&2; fail "cannot install the compilers: see $folder/log"; }
    touch "$root/var/ready"
}

vendor() {
    "$cargo" vendor --locked --quiet --versioned-dirs "$folder/vendor" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "cannot bring the sources of the dependencies"; }
}

cross() { # ARGUMENT... of cargo build
    enter env -C /src CARGO_HOME=/var/cargo CARGO_TARGET_DIR=/var/build CARGO_BUILD_TARGET=$triple \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        cargo --config 'source.crates-io.replace-with="vendored"' \
        --config 'source.vendored.directory="/vendor"' build --locked --offline -q "$@"
}

build_module() {
    cross --release -p gpulock
    # Moved into place: a running server keeps the file that it has loaded.
    cp "$root/var/build/$triple/release/libgpulock.so" "$folder/new.so"
    mv "$folder/new.so" "$folder/libgpulock.so"
}

# readelf reads libraries for all processors.
check_glibc() {
    local needed
    needed=$(readelf --wide --version-info "$folder/libgpulock.so" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
    needed=${needed#GLIBC_}
    [ -n "$needed" ] || fail "the module is not linked with glibc"
    [ "$(printf '%s\n' "$needed" "$max_glibc" | sort -V | tail -n 1)" = "$max_glibc" ] ||
        fail "the module needs glibc $needed, which is newer than $max_glibc"
    echo "arm64.sh: the module needs glibc $needed or newer"
}

bring_server() {
    DEBIAN_ARCH=arm64 tools/servers.sh "$folder/servers" redis-7.0
}

test_server() { # FILTER...
    local filter skips status=0
    skips=("${slow[@]/#/--skip=}")
    for filter; do
        GPULOCK_MODULE=$folder/libgpulock.so SERVERS=$folder/servers \
            "$cargo" test --locked -q -p gpulock --test server -- --test-threads=2 "${skips[@]}" "$filter" |
            tee "$folder/log" || status=1
        grep -q ' [1-9][0-9]* passed' "$folder/log" || fail "no test passed: $filter"
    done
    return $status
}

requires
mkdir -p "$folder"
step "system with the compilers" create_root
step "sources of the dependencies" vendor
step "build of the module" build_module
check_glibc
step "server" bring_server
[ $# -gt 0 ] || set -- "${core[@]}"
step "tests of the server" test_server "$@"
