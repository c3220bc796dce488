#!/bin/bash
# Starts a server with the module in the foreground, from redis.conf, on port 6379 or the
# next free one, and says what to try in another shell. Options go on to the server.
set -euo pipefail
cd "$(dirname "$0")/.."

server=$(tools/setup.sh which)
module=$(tools/target.sh)/release/libgpulock.so
[ -f "$module" ] || { echo "$module is missing: build the module first (make build)" >&2; exit 1; }

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=6379
while taken "$port"; do port=$((port + 1)); done
options=()
if [ "$port" -ne 6379 ]; then
    echo "Port 6379 is taken, so this server listens on $port."
    # The other one may be ours: two servers must not write to the same files.
    options=(--port "$port" --appenddirname "appendonlydir-$port" --dbfilename "dump-$port.rdb")
fi

# The file is a copy: it names the module wherever cargo built it, and CONFIG REWRITE
# changes the copy.
mkdir -p target
sed "s#^loadmodule .*#loadmodule \"$module\"#" redis.conf >"target/run-$port.conf"

cli=redis-cli
"$cli" --version >/dev/null 2>&1 || ! valkey-cli --version >/dev/null 2>&1 || cli=valkey-cli
cat <<TRY
Try, in another shell:

  $cli -p $port GPULOCK.ACQUIRE gpu_lock:0 me EX 60
  $cli -p $port GPULOCK.INSPECT gpu_lock:0
  $cli -p $port GPULOCK.RELEASE gpu_lock:0 me

TRY
exec "$server" "./target/run-$port.conf" "${options[@]}" "$@"
