# Sourced by examples/*/test.sh, with `set -euo pipefail`. Starts the server program named
# by GPULOCK_SERVER with the module, on a free port of this machine and in a folder that
# goes with it, sets REDIS_URL, and stops that server at the end, however the test ends.
# Needs no redis-cli: it speaks the protocol itself.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=gpu_lock:0
pid=
folder=$(mktemp -d)

fail() {
    echo "$0: $*" >&2
    exit 1
}

# Ends the one server that this test started.
stop_server() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap stop_server EXIT
trap 'exit 1' INT TERM

# Waits for the line with which every release says that it is up; fails when the server
# ended instead.
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
    local server=${GPULOCK_SERVER:?names the server program to test with}
    local module=${GPULOCK_MODULE:-$("$repo/tools/target.sh")/release/libgpulock.so} tries port
    [ -f "$module" ] || fail "$module is not there: build the module first (make build)"
    for ((tries = 0; tries < 20; tries++)); do
        # Below the ports that connections get, so that few are taken.
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
    fail "the server did not start"
}

# Sends a command and prints its answer: a number, a status or a string; an empty line for
# null.
ask() { # WORD...
    local header body=
    printf '%s\r\n' "$*" >&"$connection"
    IFS= read -r -t 20 header <&"$connection" || fail "no answer to $*"
    header=${header%$'\r'}
    case $header in
        '$-1' | '_') ;;
        '$'*)
            # The string and the line end after it, byte by byte.
            LC_ALL=C IFS= read -r -N $((${header#?} + 2)) -t 20 body <&"$connection" ||
                fail "half an answer to $*"
            body=${body%$'\r\n'}
            ;;
        *) body=${header#[:+]} ;;
    esac
    printf '%s\n' "$body"
}

# Fails unless a counter of the module has this value.
counted() { # NAME VALUE
    local info
    info=$(ask INFO gpulock | tr -d '\r')
    grep -qx "gpulock_$1:$2" <<<"$info" || fail "$1 is not $2:"$'\n'"$info"
}

# Fails unless the last output has a line with this text.
printed() { # TEXT
    grep -qF -- "$1" <<<"$output" || fail "printed no \"$1\" but:"$'\n'"$output"
}

# What every example must do: take a free lock, extend it and give it back; and leave one
# that somebody else holds alone.
check_example() { # COMMAND...
    local output status=0 until
    start_server

    output=$("$@" 2>&1) || fail "failed although the lock was free:"$'\n'"$output"
    printed "$lock is ours"
    printed "extended $lock"
    printed "gave $lock back"
    [ "$(ask EXISTS $lock)" = 0 ] || fail "left $lock to $(ask GET $lock)"
    counted acquired 1
    counted extends 1
    counted releases 1

    ask GPULOCK.ACQUIRE $lock somebody EX 600 >/dev/null
    until=$(ask PEXPIRETIME $lock)
    output=$("$@" 2>&1) || status=$?
    [ "$status" -eq 1 ] || fail "ended with $status although somebody held the lock:"$'\n'"$output"
    printed "$lock is held by somebody"
    [ "$(ask GET $lock)" = somebody ] || fail "took $lock from its owner"
    [ "$(ask PEXPIRETIME $lock)" = "$until" ] || fail "changed somebody's lease"
    counted refused 1
    counted normal_release_failures 0

    kill -0 "$pid" || fail "the server is gone:"$'\n'"$(cat "$folder/log")"
}
