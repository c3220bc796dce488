#!/bin/bash
# Builds the module, the command and the Debian package for arm64 on an amd64 machine, and tests them under
# emulation:
#
#     tools/arm64.sh [FILTER...]     default: the filters of the core tests below
#
# 1. Creates an amd64 system of Debian 12, the oldest supported Debian, with its Rust (rustc-web) and a
#    cross compiler, in target/arm64/root. The sources of the dependencies are downloaded with the cargo of
#    this machine; the builds in the system use no network.
# 2. Builds target/arm64/{libgpulock.so,gpulock}, and checks the glibc and libraries that they need
#    (tools/release/binaries.sh).
# 3. Runs the command under qemu with a server and a module of this machine: it reserves a lock, shows it
#    and releases it.
# 4. Creates the Debian package (deploy/package.sh), and installs and removes it in the system of step 1.
# 5. Unpacks Debian's redis-server for arm64 (tools/servers.sh), and runs tests of tests/server on it. The
#    tests are programs of this machine, and qemu emulates the server. Each FILTER is a part of the names
#    of tests.
#
# Prints the time of each step. What exists in target/arm64 is used again. GPULOCK_SERVER is the server of
# step 3 (default: the installed one). Run `make build` first: step 3 uses its module, and its command
# writes the manual pages of the package. Requires root, debootstrap, qemu-user-static,
# binutils-aarch64-linux-gnu, a Debian mirror (DEBIAN_MIRROR, otherwise that of this machine's apt), and
# 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
target=$(tools/target.sh)
folder=$target/arm64
root=$folder/root
triple=aarch64-unknown-linux-gnu

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
    for program in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static \
        aarch64-linux-gnu-objdump:binutils-aarch64-linux-gnu; do
        command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || fail "programs are missing: apt-get install ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "requires root: it creates and enters a system of Debian 12"
    [ "$(dpkg --print-architecture)" = amd64 ] || fail "requires amd64: on arm64, run make build and make test"
    for program in libgpulock.so gpulock; do
        [ -f "$target/release/$program" ] || fail "$target/release/$program does not exist: run make build first"
    done
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

# Not again for the same Cargo.lock: with newer files, cargo would build some dependencies again.
vendor() {
    ! cmp -s Cargo.lock "$folder/vendor.lock" || return 0
    "$cargo" vendor --locked --quiet --versioned-dirs "$folder/vendor" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "cannot download the sources of the dependencies"; }
    cp Cargo.lock "$folder/vendor.lock"
}

cross() { # ARGUMENT... of cargo build
    enter env -C /src CARGO_HOME=/var/cargo CARGO_TARGET_DIR=/var/build CARGO_BUILD_TARGET=$triple \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        cargo --config 'source.crates-io.replace-with="vendored"' \
        --config 'source.vendored.directory="/vendor"' build --locked --offline -q "$@"
}

# Moved into place: a running server keeps the file that it has loaded.
take() { # FILE
    cp "$root/var/build/$triple/release/$1" "$folder/new"
    mv "$folder/new" "$folder/$1"
}

build_module() {
    cross --release -p gpulock
    take libgpulock.so
}

build_command() {
    cross --release -p gpulock-cli
    take gpulock
}

check_programs() {
    OBJDUMP=aarch64-linux-gnu-objdump tools/release/binaries.sh "$folder/libgpulock.so" "$folder/gpulock"
}

wait_until() { # WHAT COMMAND...
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not within a minute"
        sleep 0.1
    done
}

# In a subshell, which stops the server when it ends. The server and its module are those of this
# machine.
test_command() (
    server=${GPULOCK_SERVER:-$(tools/setup.sh which)}
    data=$(mktemp -d)
    gpulock=(qemu-aarch64-static -L "$root" "$folder/gpulock")
    trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$data"' EXIT

    "${gpulock[@]}" --version
    "$server" --port 0 --unixsocket "$data/socket" --dir "$data" --save '' \
        --loadmodule "$target/release/libgpulock.so" >"$folder/log" &
    export GPULOCK_URL=unix://$data/socket
    wait_until "start of the server (see $folder/log)" "${gpulock[@]}" ls

    # Not `gpulock run`, which was not yet tried with the /proc/self/stat that qemu-user shows.
    "${gpulock[@]}" reserve --key gpu:0 --for 1m >"$data/reservation" ||
        fail "gpulock reserve: expected status 0, got $?"
    shows() { grep -q "$1" <<<"$("${gpulock[@]}" ls --json)"; }
    shows '"key": "gpu:0"' || fail "gpulock ls does not show the reserved lock"
    "${gpulock[@]}" force gpu:0 --any --yes || fail "gpulock force: expected status 0, got $?"
    output=$("${gpulock[@]}" ls --json)
    [ "$output" = '[]' ] || fail "gpulock ls: expected no lock after the release, got: $output"
    echo "arm64.sh: the command reserved a lock, showed it, and released it"
)

# apt rejects the package if Debian 12 lacks one of its dependencies for arm64.
test_package() {
    local deb arch depends
    deb=$(deploy/package.sh "$folder" arm64 | tail -n 1)
    arch=$(dpkg-deb -f "$deb" Architecture)
    [ "$arch" = arm64 ] || fail "$deb: expected the architecture arm64, got $arch"
    depends=$(dpkg-deb -f "$deb" Depends)
    [[ $depends = *"libc6 (>= "*libgcc-s1* ]] || fail "$deb: expected dependencies on libc6 and libgcc-s1, got: $depends"
    cp "$deb" "$root/var/gpulock.deb"
    enter env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends --reinstall \
        /var/gpulock.deb >"$folder/log" 2>&1 || { cat "$folder/log" >&2; fail "Debian 12 does not install $deb"; }
    qemu-aarch64-static -L "$root" "$root/usr/bin/gpulock" --version
    enter apt-get -q purge -y gpulock:arm64 >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "Debian 12 does not remove $deb"; }
    echo "arm64.sh: Debian 12 installs and removes the package, which depends on $depends"
}

fetch_server() {
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
step "build of the command" build_command
check_programs
step "command" test_command
step "Debian package" test_package
step "server" fetch_server
[ $# -gt 0 ] || set -- "${core[@]}"
step "tests of the server" test_server "$@"
