#!/bin/bash
# Brings what a fresh Debian lacks, and only that:
#
#     tools/setup.sh [build] [server] [examples] [bench] [cli]   all when none is named
#     tools/setup.sh which                                   prints the server that is used here
#
# Installing needs root or sudo; with neither, it prints the line to run and fails. No
# service is started and no Redis that is there is touched: Debian's package redis-server
# would start one, but the server program itself is in redis-tools, under another name.
# Its package prometheus would as well, and is only unpacked, to target/tools/prometheus.
set -euo pipefail
cd "$(dirname "$0")/.."
local_server=target/tools/redis-server

has() { command -v "$1" >/dev/null 2>&1; }
fail() { echo "setup.sh: $*" >&2; exit 1; }
runs() { "$1" --version 2>/dev/null | grep -q 'server v='; }

which_server() {
    local name
    for name in redis-server valkey-server "$local_server"; do
        if has "$name" && runs "$name"; then command -v "$name"; return; fi
    done
    return 1
}

# The program decides by its own name what it is.
link_server() {
    local program
    for program in redis-check-rdb valkey-check-rdb; do
        has "$program" || continue
        mkdir -p target/tools
        ln -sfn "$(command -v "$program")" "$local_server"
        runs "$local_server" && return
        rm -f "$local_server"
    done
    return 1
}

# For a release whose redis-tools has no server in it: the package, unpacked only.
unpack_server() {
    local folder=target/tools/unpacked
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q redis-server && dpkg -x ./*.deb .) || return 1
    ln -sfn unpacked/usr/bin/redis-server "$local_server"
    runs "$local_server" && return
    rm -f "$local_server"
    return 1
}

# What bindgen looks for.
has_libclang() {
    local folder
    for folder in ${LIBCLANG_PATH:-} /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib; do
        compgen -G "$folder/libclang*.so*" >/dev/null && return
    done
    return 1
}

unpack_prometheus() {
    local folder=target/tools/prometheus
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q prometheus && dpkg -x ./*.deb . && rm ./*.deb) &&
        "$folder/usr/bin/prometheus" --version >/dev/null 2>&1
}

has_prometheus() {
    { has prometheus && has promtool; } || [ -x target/tools/prometheus/usr/bin/promtool ]
}

missing=()
need() { missing+=("$@"); }

want_build() {
    has cargo || fail "cargo is missing: install Rust 1.88 or newer (rustup brings it)"
    { has cc && echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; } || need gcc libc6-dev
    has_libclang || need libclang-dev
}

want_server() {
    if ! { which_server || link_server; } >/dev/null; then
        need redis-tools
    elif ! has redis-cli && ! has valkey-cli; then
        need redis-tools
    fi
}

want_venv() {
    has python3 || need python3
    python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
}

want_bench() {
    want_venv
    has valgrind || need valgrind
}

want_examples() {
    want_venv
    has node || need nodejs
    has npm || need npm
}

want_cli() {
    has tmux || need tmux
    has chromedriver || need chromium chromium-driver
}

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    local patient=(-q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    local line="apt-get install -y --no-install-recommends ${missing[*]}"
    has apt-get || fail "no apt-get here; install what answers to: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        # Without a terminal nobody can type a password.
        if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            echo "$line"
            exit 1
        fi
    fi
    "${as_root[@]}" apt-get update "${patient[@]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive $line "${patient[@]}"
}

[ $# -gt 0 ] || set -- build server examples bench cli
for set; do
    case $set in
        build) want_build ;;
        server) want_server ;;
        examples) want_examples ;;
        bench) want_bench ;;
        cli) want_cli ;;
        which) which_server || fail "no server here: run tools/setup.sh server"; exit ;;
        *) fail "no set $set; there are: build server examples bench cli" ;;
    esac
done
install_missing
for set; do
    case $set in
        server)
            which_server >/dev/null || link_server || unpack_server ||
                fail "found no server program that runs; put a redis-server on PATH"
            ;;
        cli)
            has_prometheus || unpack_prometheus ||
                fail "cannot unpack Debian's prometheus; put prometheus and promtool on PATH"
            ;;
    esac
done
