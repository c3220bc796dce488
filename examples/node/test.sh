#!/bin/bash
# Runs the Node examples against GPULOCK_SERVER (an absolute path). See examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

if ! missing=$("$repo/tools/setup.sh" check node 2>&1); then
    echo "SKIPPED: examples/node/test.sh: needs node and npm: $missing" >&2
    exit
fi

# Node resolves packages relative to the program, so the programs are copied next to them.
copy=$repo/target/examples/node
mkdir -p "$copy"
cp .npmrc package.json package-lock.json ./*.js "$copy"
cd "$copy"
npm ci --loglevel=error --no-audit --no-fund --prefer-offline --fetch-retries=5 >/dev/null

check_example node lock.js

# Waits until a counter of the module has at least this value.
wait_for_counter() { # NAME VALUE
    local tries value
    for ((tries = 0; tries < 400; tries++)); do
        value=$(ask INFO gpulock | tr -d '\r' | sed -n "s/^gpulock_$1://p")
        [ "${value:?no counter $1}" -lt "$2" ] || return 0
        sleep 0.05
    done
    fail "$1 is $value, expected at least $2"
}

# Starts a program that waits for a lock, and waits until it is in the queue.
waiters=()
start_waiter() { # PROGRAM OUTPUT
    node "$1" >"$folder/$2" 2>&1 &
    waiters+=($!)
    wait_for_counter clients_waiting ${#waiters[@]}
}

# The waiter that came first gets the lock first, although it repeats its call every second:
# it also keeps its position when its connection is lost.
ask FLUSHALL >/dev/null
ask GPULOCK.RESETSTATS >/dev/null
ask GPULOCK.ACQUIRE $lock other EX 600 >/dev/null
start_waiter wait.js first
wait_for_counter acquire_requests 3
start_waiter wait-ioredis.js second
wait_for_counter acquire_requests 7
ask CLIENT KILL TYPE normal SKIPME yes >/dev/null
wait_for_counter acquire_requests 9
wait_for_counter clients_waiting 2
ask GPULOCK.RELEASE $lock other >/dev/null
for pid_of_waiter in "${waiters[@]}"; do
    wait "$pid_of_waiter" || fail "a waiter failed:"$'\n'"$(cat "$folder"/{first,second})"
done
tokens=()
for name in first second; do
    output=$(cat "$folder/$name")
    expect_output "acquired $lock"
    expect_output "released $lock"
    tokens+=("$(sed -n 's/.*fencing token //p' "$folder/$name")")
done
[ "${tokens[0]}" -lt "${tokens[1]}" ] || fail "the second waiter got the lock first"
expect_counter acquired_after_wait 2
expect_counter normal_release_failures 0

# With a key prefix, the program waits for the lock of a worker that used SET with this prefix.
waiters=()
ask SET app:$lock old-worker EX 600 >/dev/null
export KEY_PREFIX=app:
start_waiter wait-ioredis.js prefixed
ask DEL app:$lock >/dev/null
wait "${waiters[0]}" || fail "failed with a key prefix:"$'\n'"$(cat "$folder/prefixed")"
output=$(cat "$folder/prefixed")
expect_output "acquired app:$lock"
expect_output "released app:$lock"
