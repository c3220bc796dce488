# Sourced by examples/*/test.sh, with `set -euo pipefail`. Starts the server program
# GPULOCK_SERVER with the module, on a free local port and in a temporary folder, and sets
# REDIS_URL. Stops the server when the test ends, for any reason. Needs no redis-cli.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=gpu_lock:0
pid=
folder=$(mktemp -d)

fail() {
    echo "$0: $*" >&2
    exit 1
}

# Stops the server and removes its folder.
stop_server() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap stop_server EXIT
trap 'exit 1' INT TERM

# Waits until the server logs that it is ready. Fails if the server exits first.
wait_ready() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if grep -q 'Ready to accept connections' "$folder/log"; then return; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

start_server() {
    local server=${GPULOCK_SERVER:?is not set: set it to a server program}
    local module=${GPULOCK_MODULE:-$("$repo/tools/target.sh")/release/libgpulock.so} tries port
    [ -f "$module" ] || fail "$module not found: build the module first (make build)"
    for ((tries = 0; tries < 20; tries++)); do
        # Below the ephemeral port range, so that few are in use.
        port=$((20000 + RANDOM % 12000))
        "$server" --port "$port" --bind 127.0.0.1 --dir "$folder" --save '' \
            --loadmodule "$module" >"$folder/log" 2>&1 </dev/null &
        pid=$!
        if wait_ready; then
            export REDIS_URL=redis://127.0.0.1:$port
            exec {connection}<>"/dev/tcp/127.0.0.1/$port"
            return
        fi
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        pid=
        grep -q 'Address already in use' "$folder/log" || break
    done
    cat "$folder/log" >&2
    fail "failed to start the server"
}

# Sends a command and prints its reply: a number, a status or a string; an empty line for
# null.
ask() { # ARGUMENT...
    local header body=
    printf '%s\r\n' "$*" >&"$connection"
    IFS= read -r -t 20 header <&"$connection" || fail "no reply to $*"
    header=${header%$'\r'}
    case $header in
        '$-1' | '_') ;;
        '$'*)
            # The string and its line ending, counted in bytes.
            LC_ALL=C IFS= read -r -N $((${header#?} + 2)) -t 20 body <&"$connection" ||
                fail "incomplete reply to $*"
            body=${body%$'\r\n'}
            ;;
        *) body=${header#[:+]} ;;
    esac
    printf '%s\n' "$body"
}

# Fails unless a counter of the module has this value.
expect_counter() { # NAME VALUE
    local info
    info=$(ask INFO gpulock | tr -d '\r')
    grep -qx "gpulock_$1:$2" <<<"$info" || fail "expected $1 to be $2:"$'\n'"$info"
}

# Fails unless the last output contains this text.
expect_output() { # TEXT
    grep -qF -- "$1" <<<"$output" || fail "expected \"$1\" in the output:"$'\n'"$output"
}

# Checks what every example must do: acquire a free lock, extend it and release it, and not
# change a lock that another owner holds.
check_example() { # COMMAND...
    local output status=0 until
    start_server

    output=$("$@" 2>&1) || fail "failed although the lock was free:"$'\n'"$output"
    expect_output "acquired $lock"
    expect_output "extended $lock"
    expect_output "released $lock"
    [ "$(ask EXISTS $lock)" = 0 ] || fail "$lock is still held by $(ask GET $lock)"
    expect_counter acquired 1
    expect_counter extends 1
    expect_counter releases 1

    ask GPULOCK.ACQUIRE $lock other EX 600 >/dev/null
    until=$(ask PEXPIRETIME $lock)
    output=$("$@" 2>&1) || status=$?
    [ "$status" -eq 1 ] || fail "exited with $status although the lock was held:"$'\n'"$output"
    expect_output "$lock is held by other"
    [ "$(ask GET $lock)" = other ] || fail "$lock is no longer held by its owner"
    [ "$(ask PEXPIRETIME $lock)" = "$until" ] || fail "the lease of $lock changed"
    expect_counter refused 1
    expect_counter normal_release_failures 0

    kill -0 "$pid" || fail "the server exited:"$'\n'"$(cat "$folder/log")"
}
