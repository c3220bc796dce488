#!/bin/bash
# Installs the programs that are missing on Debian:
#
#     tools/setup.sh [SET...]         build lint checks server tests examples bench cli deb
#                                     memory deny; default: all except memory and deny
#     tools/setup.sh check [SET...]   prints the missing packages without installing them
#     tools/setup.sh which            prints the server program to test with
#
# A program counts as installed if it runs and is recent enough; a file with its name is not
# sufficient. Installing requires root or sudo. Without either, the script prints the command
# to run and fails. It starts no service and does not change an installed Redis: Debian's
# package redis-server would start one, but redis-tools contains the server program under
# another name. The package prometheus would start a service as well, so it is only unpacked,
# to target/tools/prometheus.
set -euo pipefail
cd "$(dirname "$0")/.."
local_server=$PWD/target/tools/redis-server
local_prometheus=target/tools/prometheus/usr/bin
sets=(build lint checks server tests examples bench cli deb)

probes=$(mktemp -d)
trap 'rm -rf "$probes"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }
note() { echo "setup.sh: $*" >&2; }
fail() { note "$*"; exit 1; }

missing=()
need() { missing+=("$@"); }

# Prints the first number with a dot in the output of a program: 1.88.0 for "cargo 1.88.0 (...)".
version() { # PROGRAM ARGUMENT...
    local output
    output=$("$@" 2>/dev/null) || return 1
    [[ $output =~ [0-9]+(\.[0-9]+)+ ]] && echo "${BASH_REMATCH[0]}"
}

at_least() { # VERSION WANTED
    [ "$(printf '%s\n' "$1" "$2" | sort -V | sed -n 1p)" = "$2" ]
}

# Succeeds if a program runs and is recent enough. Prints the reason if not, unless it is missing.
is_recent() { # WANTED PROGRAM ARGUMENT...
    local wanted=$1 found
    shift
    has "$1" || return 1
    if ! found=$(version "$@"); then
        note "$(command -v "$1") does not work: \"$*\" prints no version"
        return 1
    fi
    at_least "$found" "$wanted" && return
    note "needs $1 $wanted or newer, found $found at $(command -v "$1")"
    return 1
}

## Rust and the compilers

cargo=${CARGO:-cargo}
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# Debian's Rust is too old, and a script should not install rustup.
require_rust() {
    is_recent "$rust" "$cargo" --version && is_recent "$rust" "${RUSTC:-rustc}" --version && return
    fail "needs Rust $rust or newer: install it with rustup (https://rustup.rs)," \
        "and put ~/.cargo/bin first on PATH"
}

compiles() { # COMPILER LANGUAGE
    has "$1" && "$1" -x "$2" -o "$probes/hello" - 2>/dev/null <<<'
#include <stdio.h>
int main(void) { return puts("hello") < 0; }' && "$probes/hello" >/dev/null
}

# The folders that clang-sys, the crate that loads libclang for bindgen, searches.
libclang_folders() {
    local prefix
    if [ -n "${LIBCLANG_PATH:-}" ]; then echo "$LIBCLANG_PATH"; return; fi
    if prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix 2>/dev/null); then
        printf '%s\n' "$prefix"/{bin,lib,lib64}
    fi
    tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}:${LIBRARY_PATH:-}"
    printf '%s\n' /usr/local/llvm*/lib* /usr/local/lib*/*/* /usr/local/lib*/* /usr/local/lib* \
        /usr/lib*/*/* /usr/lib*/* /usr/lib*
}

# The library that clang-sys selects: the one with the highest number in its name, and the first
# of those with equal numbers. libclang-cpp is a different library.
chosen_libclang() {
    local folder
    if [ -f "${LIBCLANG_PATH:-}" ]; then echo "$LIBCLANG_PATH"; return; fi
    libclang_folders | while read -r folder; do
        [ -z "$folder" ] || compgen -G "$folder/libclang[.-]*" || true
    done |
        awk -F/ '$NF ~ /^libclang(-[^\/]*)?\.so/ && $NF !~ /-cpp\./ {
            number = $NF
            sub(/^libclang(-|\.so\.?)/, "", number)
            print number + 0, $0
        }' | sort -s -n -r -k1,1 | sed -n '1s/^[0-9.]* //p'
}

# Requires a C compiler.
has_libclang() {
    local library output
    library=$(chosen_libclang)
    [ -n "$library" ] || return 1
    cc -o "$probes/libclang" tools/libclang.c -ldl 2>/dev/null || return 1
    output=$("$probes/libclang" "$library" 2>&1) && return
    note "bindgen cannot use $library: ${output:-it crashes}"
    return 1
}

# cargo, pip and npm need the certificates of the certificate authorities. Systems other than
# Debian store them elsewhere, and always have them.
has_certificates() {
    ! has apt-get ||
        grep -qs 'BEGIN CERTIFICATE' "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
}

want_build() {
    require_rust
    has_certificates || need ca-certificates
    if ! compiles cc c; then
        need gcc libc6-dev libclang-dev
    elif ! has_libclang; then
        need libclang-dev
    fi
}

want_lint() {
    require_rust
    { version "$cargo" fmt --version && version "$cargo" clippy --version; } >/dev/null ||
        fail "needs rustfmt and clippy: rustup component add rustfmt clippy"
}

want_checks() {
    version shellcheck --version >/dev/null || need shellcheck
    version codespell --version >/dev/null || need codespell
}

has_deny() {
    PATH=$PWD/target/tools/bin:$PATH "$cargo" deny --version >/dev/null 2>&1
}

want_deny() {
    require_rust
    has_certificates || need ca-certificates
    has_deny || compiles cc c || need gcc libc6-dev
}

# Debian has no package of cargo-deny. Building it takes several minutes. Newer versions may require
# another format of deny.toml, or a newer Rust.
finish_deny() {
    has_deny || "$cargo" install --locked --root target/tools --target-dir target/tools/build \
        --version '^0.20' cargo-deny || fail "cannot install cargo-deny"
}

## Servers

# Succeeds if a program is a server that can load the module. Prints the reason if not.
is_server() { # PROGRAM
    local output
    output=$("$1" --version 2>/dev/null) || output=
    [[ $output =~ ^(Redis|Valkey|[^ ]+)\ server\ v=([0-9.]+) ]] || {
        note "$1 is not a Redis or Valkey server; trying the next one"
        return 1
    }
    local brand=${BASH_REMATCH[1]} found=${BASH_REMATCH[2]}
    case $brand in
        Redis) at_least "$found" 7.0 && return ;;
        Valkey) at_least "$found" 8.0 && return ;;
    esac
    note "needs Redis 7.0 or newer, or Valkey 8.0 or newer, found $brand $found at $1;" \
        "trying the next one"
    return 1
}

which_server() {
    local program
    for program in $(type -aP redis-server valkey-server) "$local_server"; do
        if [ -x "$program" ] && is_server "$program"; then echo "$program"; return; fi
    done
    return 1
}

# The program behaves as a server or as a check tool depending on its own name.
link_server() {
    local program
    for program in $(type -aP redis-check-rdb valkey-check-rdb); do
        mkdir -p target/tools
        ln -sfn "$program" "$local_server"
        # On other systems this is a separate program, or one of an old release.
        is_server "$local_server" 2>/dev/null && return
        rm -f "$local_server"
    done
    return 1
}

# For releases whose redis-tools contains no server: unpacks the package without installing it.
unpack_server() {
    local folder=target/tools/unpacked
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q redis-server && dpkg -x ./*.deb .) || return 1
    ln -sfn unpacked/usr/bin/redis-server "$local_server"
    is_server "$local_server" && return
    rm -f "$local_server"
    return 1
}

want_server() {
    if ! { which_server || link_server; } >/dev/null; then
        need redis-tools
    elif ! version redis-cli --version >/dev/null && ! version valkey-cli --version >/dev/null; then
        need redis-tools
    fi
}

finish_server() {
    which_server >/dev/null 2>&1 || link_server || unpack_server ||
        fail "found no server that can load the module: install redis-server and add it to PATH"
}

## Programs for the tests and tools

has_python() {
    is_recent 3.9 python3 --version
}

# Debian's python3 contains the module venv, but not the files from which venv installs pip.
has_venv() {
    python3 -c 'import ensurepip, venv; ensurepip.version()' >/dev/null 2>&1
}

want_venv() {
    has_certificates || need ca-certificates
    has_python || need python3 python3-venv
    has_venv || need python3-venv
}

# Programs that the tests of the workspace require; those in cli are optional.
want_tests() {
    has_python || need python3
    perl -MPOSIX -e 1 >/dev/null 2>&1 || need perl
    setsid true >/dev/null 2>&1 || need util-linux
    script --quiet --return --command true /dev/null >/dev/null 2>&1 </dev/null || need bsdutils
}

want_memory() {
    valgrind -q true >/dev/null 2>&1 || need valgrind
}

want_bench() {
    want_venv
    # For bench/requirements.txt.
    is_recent 3.11 python3 --version || need python3
    want_memory
}

want_examples() {
    want_venv
    # The same as engines in examples/node/package.json.
    is_recent 18.19 node --version || need nodejs
    is_recent 8 npm --version || need npm
}

# chromedriver works only with a Chromium of its own release.
has_browser() {
    local driver browser found
    has chromedriver || return 1
    driver=$(version chromedriver --version) || driver=none
    for browser in google-chrome chromium chromium-browser; do
        found=$(version "$browser" --version) || continue
        [ "${found%%.*}" = "${driver%%.*}" ] && return
    done
    note "chromedriver $driver at $(command -v chromedriver) needs a Chromium of the same release," \
        "found ${found:-none}"
    return 1
}

has_prometheus() {
    local folder
    for folder in "" "$local_prometheus/"; do
        "${folder}prometheus" --version >/dev/null 2>&1 &&
            "${folder}promtool" --version >/dev/null 2>&1 && return
    done
    return 1
}

unpack_prometheus() {
    local folder=target/tools/prometheus
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q prometheus && dpkg -x ./*.deb . && rm ./*.deb) &&
        has_prometheus
}

want_cli() {
    tmux -V >/dev/null 2>&1 || need tmux
    zsh --version >/dev/null 2>&1 || need zsh
    fish --version >/dev/null 2>&1 || need fish
    has_browser || need chromium chromium-driver
}

finish_cli() {
    has_prometheus || unpack_prometheus ||
        fail "cannot unpack Debian's prometheus: install prometheus and promtool and add them to PATH"
}

want_deb() {
    version dpkg-deb --version >/dev/null || fail "packages can be built only on Debian and its derivatives"
    dh_assistant --help >/dev/null 2>&1 || need debhelper
    { version dpkg-shlibdeps --version && version readelf --version; } >/dev/null || need dpkg-dev
    version lintian --version >/dev/null || need lintian
}

## Installing

look_for() { # SET...
    local name
    missing=()
    for name; do
        case $name in
            build | lint | checks | server | tests | examples | bench | cli | deb | memory | deny)
                "want_$name" ;;
            *) fail "unknown set $name; available sets: ${sets[*]} memory deny" ;;
        esac
    done
    [ ${#missing[@]} -eq 0 ] || mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
}

install_missing() {
    local as_root=()
    local patient=(-q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    local install=(apt-get install -y --no-install-recommends "${missing[@]}")
    has apt-get || fail "apt-get not found; install the equivalents of: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        # Without a terminal, sudo cannot ask for a password.
        if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            echo "${install[*]}"
            exit 1
        fi
    fi
    "${as_root[@]}" apt-get update "${patient[@]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" "${patient[@]}"
}

if [ "${1:-}" = which ]; then
    which_server || fail "found no server: run tools/setup.sh server"
    exit
fi
only_check=
if [ "${1:-}" = check ]; then only_check=yes; shift; fi
[ $# -gt 0 ] || set -- "${sets[@]}"

look_for "$@"
if [ -n "$only_check" ]; then
    [ ${#missing[@]} -eq 0 ] && exit
    echo "${missing[*]}"
    exit 1
fi
if [ ${#missing[@]} -gt 0 ]; then
    installed="${missing[*]}"
    install_missing
    # The old programs may still come first on PATH.
    hash -r
    look_for "$@"
    [ ${#missing[@]} -eq 0 ] ||
        fail "installed $installed, but these still do not work: ${missing[*]}"
fi
for name; do
    case $name in
        server) finish_server ;;
        cli) finish_cli ;;
        deny) finish_deny ;;
    esac
done
